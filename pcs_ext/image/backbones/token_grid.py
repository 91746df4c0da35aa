"""The grid of cells behind an attention over latents."""

import math

from pcs_ext.errors import UsageError


def token_grid(queries: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns behind `queries` cells of latents of `size`: halved, rounded up, as often as it takes.

    Raises:
        UsageError: no number of halvings gives so many cells.
    """
    rows, columns = size
    while rows * columns > queries:
        rows, columns = math.ceil(rows / 2), math.ceil(columns / 2)
    if rows * columns != queries:
        raise UsageError(f"an attention over {queries} cells does not belong to latents of {size[0]} x {size[1]}.")
    return rows, columns
