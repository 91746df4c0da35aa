"""What `video make` is asked."""

import dataclasses
from pathlib import Path
from typing import Literal

from pcs_ext.errors import UsageError
from pcs_ext.video.reference.photos import PhotoRequest
from pcs_ext.video.size import Size

Kept = Literal["background", "protagonist"]
"""What of a clip stays as it is where a mask says who its protagonist is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeRequest:
    """One call of `pcs-ext video make`."""

    prompts: tuple[str, ...]
    """Texts; with `{subject}` where a subject goes."""
    seeds: tuple[int, ...] = (0,)
    """One clip per prompt and seed."""
    subject: Path | None = None
    """Folder of a learned subject."""
    motion: Path | None = None
    """Folder of a learned motion."""
    base: str = ""
    """Empty: the one that the motion, or the subject, was learned on."""
    motion_module: str | None = None
    """None: the one that the motion was learned on."""
    negative_prompt: str = ""
    frames: int | None = None
    """None: as the motion was learned, or as the model makes them."""
    size: Size | None = None
    """Height and width in pixels; None: as learned, or the base's."""
    window: int | None = None
    """See `ClipConfig`; None: all frames at once."""
    refinements: int | None = None
    """See `ClipConfig`; None: none."""
    fps: float | None = None
    """Of the written clips; None: at which they play at the speed of the clip they start from, where the motion keeps
    it, else 8."""
    steps: int | None = None
    """Denoising steps; None takes the recipe's."""
    guidance_scale: float | None = None
    """1 = off; None takes the recipe's."""
    subject_scale: float = 1.0
    motion_scale: float = 1.0
    """Strengths, 1 as trained."""
    reference: Path | None = None
    """A clip whose inverted noise the start is mixed with, read as the motion's clip was: from its beginning, frames as
    far apart; without a motion evenly spread. None: the clip that the motion keeps, if it does."""
    reference_share: float | None = None
    """Share of it, in (0, 1]; None takes the recipe's."""
    photos: PhotoRequest = dataclasses.field(default_factory=PhotoRequest)
    """Photos of a subject that clips show without having learned it."""
    mask: Path | None = None
    """White where the reference's protagonist is: a clip or a folder of frames, read as the reference is, or one
    picture for all frames."""
    keep: Kept = "background"
    """What stays where there is a mask."""
    picture: Path | None = None
    """What clips start from or look like, where the motion is told a picture; None: the base makes one."""
    image_encoder: Path | None = None
    """Where the image encoder lies that the motion was learned with; None: where it did then."""
    device: str = "auto"
    precision: str = "auto"

    def check(self) -> None:
        """What can be said before anything is loaded.

        Raises:
            UsageError: the request cannot be met.
        """
        if not self.prompts or not self.seeds:
            raise UsageError('make needs at least one prompt and one seed: "a photo of {subject} that spins".')
        if self.frames is not None and self.frames < 1:
            raise UsageError(f"--frames must be at least 1, got {self.frames}.")
        if self.window is not None and self.window < 2:
            raise UsageError(f"--window must be at least 2 frames, got {self.window}.")
        if self.refinements is not None and not 0 < self.refinements <= 10:
            raise UsageError(f"--refine must be 1 to 10 rounds, got {self.refinements}.")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"--steps must be at least 1, got {self.steps}.")
        share = self.reference_share
        if share is not None and (self.reference is None or not 0 < share <= 1):
            raise UsageError(f"--reference-share is a share of a --reference clip, above 0 and up to 1; got {share}.")
        if self.mask is not None and self.motion is None:
            raise UsageError(
                "--mask changes a part of the clip that a motion was learned from: name the motion with --motion and, "
                "unless it keeps its clip, give that clip with --reference."
            )
        self.photos.check()
        if self.mask is not None and self.photos.photos:
            raise UsageError(
                "--mask keeps a part of a clip as it is, and photos are shown to whole clips; leave the photos or the "
                "mask out."
            )
        if self.keep != "background" and self.mask is None:
            raise UsageError(f"--keep {self.keep} needs a --mask that shows where the protagonist is.")
