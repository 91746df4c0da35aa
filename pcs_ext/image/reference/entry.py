"""How a system of reference adapters is listed."""

import dataclasses

from pcs_ext.image.reference.kinds import KindConfig
from pcs_ext.image.reference.training import ReferenceTraining


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceEntry:
    """What `REFERENCES` holds: enough to list a system and to train it."""

    id: str
    summary: str
    """One line for lists."""
    paper: str
    """Where it is described (arXiv id)."""
    system: str
    """Row of the survey: an id of `systems.json`; empty: none."""
    adapter: KindConfig
    """The paper's settings of what is trained."""
    training: ReferenceTraining
    """The paper's of how."""
    toybox: ReferenceTraining
    """Both at the size of the embedded base."""
    toybox_encoder: str = "toybox/dino"
    """Which of the embedded base's image encoders it reads; empty: it reads a style space, and none is embedded."""

    def settings(self, base: str) -> ReferenceTraining:
        """Of a training on a base, `adapter` filled in."""
        chosen = self.toybox if base == "toybox" else self.training
        return chosen if chosen.adapter is not None else dataclasses.replace(chosen, adapter=self.adapter)
