"""A clip, changed: an inflated image model learns it, then clips of other prompts start from its noise."""

import dataclasses
from pathlib import Path

from pcs_ext.config_io import config_hash, read_json, write_json
from pcs_ext.errors import UsageError
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter
from pcs_ext.video.clips import ClipFolder, clip_digest
from pcs_ext.video.effort import Effort
from pcs_ext.video.learn_request import LearnRequest
from pcs_ext.video.make import make_clips
from pcs_ext.video.make_artifacts import USUAL_FPS, filled
from pcs_ext.video.make_request import Kept, MakeRequest
from pcs_ext.video.pictures import GivenPictures
from pcs_ext.video.recipes import MOTIONS
from pcs_ext.video.size import Size

EDITING = ("tune-a-video", "make-a-protagonist")
"""Recipes that edit: they inflate an image model, learn no word, and start from their clip alone."""
_FACTS = "learned_from.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One call of `pcs-ext video edit`."""

    clip: Path
    """What is changed: a video, an animation, or a folder of frames. It is only read."""
    prompts: tuple[str, ...]
    """What it should show instead; with `{subject}` where a learned subject goes."""
    says: str = ""
    """What it shows; empty: NAME.txt beside it, or nothing."""
    recipe: str = "tune-a-video"
    """One of `EDITING`."""
    effort: Effort = "balanced"
    """See `LearnRequest`."""
    subject: Path | None = None
    """Folder of a learned subject."""
    mask: Path | None = None
    """See `MakeRequest`."""
    keep: Kept = "background"
    """See `MakeRequest`."""
    base: str = "toybox"
    """An image model."""
    frames: int | None = None
    """Frames of the clip, from its beginning; None takes the recipe's."""
    size: Size | None = None
    """Height and width in pixels; None takes the base's square."""
    fps: float | None = None
    """Of the written clips; None: at which they play at the clip's speed."""
    steps: int | None = None
    """Of learning; None takes the recipe's and the effort's."""
    seeds: tuple[int, ...] = (0,)
    """One clip per prompt and seed; the first is that of learning, too."""
    device: str = "auto"
    precision: str = "auto"

    @property
    def learning(self) -> LearnRequest:
        """How the clip's motion is learned."""
        return LearnRequest(
            sources=(self.clip,),
            recipe=self.recipe,
            base=self.base,
            prompts=(self.says,) if self.says else (),
            captioned=False,
            frames=self.frames,
            size=self.size,
            effort=self.effort,
            steps=self.steps,
            device=self.device,
            precision=self.precision,
        )

    def making(self, motion: Path) -> MakeRequest:
        """How clips are made of it: from the latents that the motion keeps, which are what it learned."""
        return MakeRequest(
            prompts=self.prompts,
            seeds=self.seeds,
            subject=self.subject,
            motion=motion,
            base=self.base,
            frames=self.frames,
            size=self.size,
            fps=self.fps,
            mask=self.mask,
            keep=self.keep,
            device=self.device,
            precision=self.precision,
        )


def edit_clip(request: EditRequest, output: Path, *, overwrite: bool, reporter: Reporter) -> list[Path]:
    """Learn the clip in `OUTPUT.edit`, unless an equal call did, and make clips of it as `make_clips` does.

    Raises:
        PcsError: the request cannot be met; says what to do.
    """
    if request.recipe not in EDITING:
        others = f"; {request.recipe} is for `video learn` and `make`" if request.recipe in MOTIONS else ""
        raise UsageError(f"clips are edited with {' or '.join(EDITING)}, got {request.recipe}{others}.")
    plan, motion = request.learning.plan(), output.with_name(f"{output.stem}.edit") / "motion"
    request.making(motion).check()
    _check_output(request, output, overwrite=overwrite)
    facts = {"plan": config_hash(plan), "clip": clip_digest(request.clip), "seed": request.seeds[0]}
    mark = motion.with_name(_FACTS)
    if not (motion.is_dir() and mark.is_file() and read_json(mark) == facts):
        mark.unlink(missing_ok=True)
        request.learning.run(motion, seed=request.seeds[0], overwrite=True, reporter=reporter)
        write_json(mark, facts)
    return make_clips(request.making(motion), output, overwrite=overwrite, reporter=reporter)


def _check_output(request: EditRequest, output: Path, *, overwrite: bool) -> None:
    """Find out before anything is learned what would be in the way of its clips.

    Raises:
        PcsError: the output cannot be written, or subject, prompts or mask cannot be used.
    """
    count = len(request.prompts) * len(request.seeds)
    ClipFolder(output, count, fps=USUAL_FPS if request.fps is None else request.fps, overwrite=overwrite)
    subject = None if request.subject is None else Artifact.load(request.subject)
    filled(request.prompts, MOTIONS[request.recipe].build("sd"), None if subject is None else subject.concept)
    GivenPictures.read(None, request.mask)
