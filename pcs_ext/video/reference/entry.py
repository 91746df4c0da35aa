"""How a system of adapters that show clip models photos is listed."""

import dataclasses

from pcs_ext.video.reference.kinds import ClipKindConfig
from pcs_ext.video.reference.training import ClipReferenceTraining


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipReferenceEntry:
    """What `REFERENCES` holds: enough to list a system and to train it."""

    id: str
    summary: str
    """One line for lists."""
    paper: str
    """Where it is described (arXiv id)."""
    system: str
    """Row of the survey: an id of `systems.json`."""
    adapter: ClipKindConfig
    """The paper's settings of what is trained."""
    training: ClipReferenceTraining
    """The paper's of how."""
    toybox: ClipReferenceTraining
    """Both at the size of the embedded base."""
    toybox_encoder: str = "toybox/clip"
    """Which of the embedded base's image encoders it reads."""

    def settings(self, base: str) -> ClipReferenceTraining:
        """Of a training on a base, `adapter` filled in."""
        chosen = self.toybox if base == "toybox" else self.training
        return chosen if chosen.adapter is not None else dataclasses.replace(chosen, adapter=self.adapter)
