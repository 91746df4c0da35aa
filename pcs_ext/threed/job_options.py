"""What every job in 3D may be told: where and how long it runs, and what it writes beside its output."""

import dataclasses
from pathlib import Path

from pcs_ext.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The options that all jobs share."""

    base: str = ""
    """Another base of the same family than the one the subject was learned on."""
    steps: int | None = None
    """Of all stages together; None takes the recipe's."""
    seed: int = 0
    """Of everything random."""
    config: Path | None = None
    """A recipe as JSON instead of the named one."""
    device: str = "auto"
    """auto, cuda, mps or cpu: of the base, and of what it teaches while that learns."""
    precision: str = "auto"
    """Of the base's weights."""
    previews: int = 0
    """Steps between contact sheets in `OUTPUT.work/previews/`; 0 writes none."""
    viewer: bool = False
    """Write a page that shows the object beside a GLB."""
    overwrite: bool = False
    """Replace the output (never the work folder)."""

    def __post_init__(self) -> None:
        if self.previews < 0:
            raise UsageError(f"--previews must be 0 or a number of steps, got {self.previews}.")
