"""An edit is a value, as a recipe is: a way to sample that trains nothing and reaches into attention and latents."""

import dataclasses
from collections.abc import Callable
from typing import Any

from pcs_ext.image.recipes import Preset


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditEntry:
    """What `EDITS` holds: enough to list an edit without building it."""

    id: str
    summary: str
    """One line for lists."""
    paper: str
    """Where it is described (arXiv id)."""
    system: str
    """Row of the survey: an id of `systems.json`; empty where there is none."""
    command: str
    """The verb of `pcs-ext` that runs it."""
    build: Callable[[Preset], Any]
    """`preset -> config`: the paper's values for `sd` and `sdxl`, small ones for `toybox`."""
