"""What the commands that write folders of the world have in common: bad numbers and interruptions told in a line."""

import sys
from collections.abc import Callable

from pcs_ext.errors import Interrupted, PcsError, UsageError

LEAST_SIDE = 16
"""Of a rendered picture, in pixels: the smallest that is written."""


def check_counts(least: int, **counts: int) -> None:
    """Refuse numbers that nothing could be written with.

    Args:
        least: the smallest that is allowed.
        counts: option -> its value.

    Raises:
        UsageError: one is below `least`.
    """
    for name, count in counts.items():
        if count < least:
            raise UsageError(f"--{name} must be at least {least}, got {count}.")


def run_export(export: Callable[[], None]) -> None:
    """Run an export as a command: errors and Ctrl-C end it with a line and an exit code."""
    try:
        export()
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was written is kept, the same command goes on.\n")
        sys.exit(Interrupted.exit_code)
