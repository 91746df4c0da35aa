"""Sizes as users write them: `512` for a square, `512x320` for width times height."""

import re

from pcs_ext.errors import UsageError

Size = tuple[int, int]
"""Height and width in pixels."""


def parse_size(text: str) -> Size | None:
    """Height and width of `WIDTHxHEIGHT` or of a square's side; None for an empty text.

    Raises:
        UsageError: anything else, or 0.
    """
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5}))?", text.strip())
    sides = () if found is None else (int(found[2] or found[1]), int(found[1]))
    if 0 in sides or not sides:
        raise UsageError(f"--size {text!r} is no size; expected pixels of a square (512), or width x height (512x320).")
    return sides[0], sides[1]
