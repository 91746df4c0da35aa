"""What `video learn` is asked: files in, a motion or a subject out. Checks everything cheap before it loads a model."""

import dataclasses
from pathlib import Path
from typing import Any

from pcs_ext.config_io import from_jsonable, read_json, to_jsonable
from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.learn import learn as learn_subject
from pcs_ext.image.recipes import Recipe
from pcs_ext.reporter import Reporter
from pcs_ext.video.backbones.load import is_text_to_video, load_video_backbone
from pcs_ext.video.learn import learn_motion
from pcs_ext.video.recipes import MOTIONS, RECIPES, SUBJECTS, MotionRecipe
from pcs_ext.video.recipes.base import Preset
from pcs_ext.video.subject_masks import with_masks
from pcs_ext.video.training_clips import find_clips, read_training_clips

_TOYBOX_CLIP = Path(__file__).parents[1] / "toybox" / "weights" / "clip"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnRequest:
    """One call of `pcs-ext video learn`."""

    sources: tuple[Path, ...]
    """Clips, or photos where the recipe learns a subject."""
    recipe: str = "motion-director"
    """Id in `RECIPES`."""
    base: str = "toybox"
    """See `load_video_backbone`."""
    motion_module: str | None = None
    """See `load_video_backbone`."""
    prompts: tuple[str, ...] = ()
    """What the clips show, see `find_clips`."""
    prior: tuple[Path, ...] = ()
    """Clips of something else, with their captions beside them, for recipes that need them."""
    image_encoder: Path | None = None
    """See `learn_motion`; None: toybox has its own."""
    noun: str = ""
    """What the subject is; for recipes that learn one."""
    frames: int | None = None
    """Of a training clip; None takes the recipe's."""
    size: int | None = None
    """Side in pixels that clips are learned at; None takes the base's."""
    steps: int | None = None
    """In all; None takes the recipe's."""
    config: Path | None = None
    """A recipe as JSON, instead of the recipe's own values."""
    device: str = "auto"
    precision: str = "auto"

    @property
    def learns_subject(self) -> bool:
        """Whether photos of a subject are asked for, not clips."""
        return self.recipe in SUBJECTS

    @property
    def _preset(self) -> Preset:
        return "toybox" if self.base == "toybox" else "sd"

    def plan(self) -> dict[str, Any]:
        """What would be done, as plain JSON data. Loads no model.

        Raises:
            UsageError, InputError: the request cannot be met.
        """
        common = {"base": self.base, "motion_module": self.motion_module}
        if self.learns_subject:
            photos = find_photos(self.sources)
            return {"photos": [str(photo.path) for photo in photos], **common, "recipe": to_jsonable(self._subject())}
        recipe, clips = self._motion(), find_clips(self.sources, self.prompts)
        found = {"clips": [to_jsonable(clip) for clip in clips]}
        if self.prior:
            found["prior"] = [to_jsonable(clip) for clip in find_clips(self.prior)]
        return {**found, **common, "recipe": to_jsonable(recipe)}

    def run(self, output: Path, *, seed: int, overwrite: bool, reporter: Reporter) -> None:
        """Learn; killed or interrupted, the same request goes on where it stopped.

        Args:
            output: folder of the learned motion or subject.
            seed: of everything random.
            overwrite: replace what is there.
            reporter: hears the progress.

        Raises:
            PcsError: the request cannot be met; says what to do.
        """
        if output.exists() and not overwrite:
            raise ArtifactError(f"{output} exists already; choose another --output or pass --overwrite to replace it.")
        if self.learns_subject:
            self._learn_subject(output, seed=seed, overwrite=overwrite, reporter=reporter)
            return
        recipe, files = self._motion(), find_clips(self.sources, self.prompts)
        others = find_clips(self.prior) if self.prior else []
        backbone = load_video_backbone(
            self.base,
            self.motion_module,
            inflation=recipe.inflation,
            device=self.device,
            precision=self.precision,
            reporter=reporter,
        )
        side = self.size or backbone.resolution
        how: Any = {"size": (side, side), "multiple_of": backbone.vae_factor, "reporter": reporter}
        clips = read_training_clips(files, **how)
        prior = (read_training_clips(others, **how), [file.prompt for file in others]) if others else None
        reporter.event(
            "learn", f"{recipe.id}: {len(clips)} clips, {recipe.steps} steps, on {backbone.device}", clips=len(clips)
        )
        learn_motion(
            clips,
            [file.prompt for file in files],
            output,
            backbone=backbone,
            recipe=recipe,
            prior=prior,
            image_encoder=self._encoder(recipe),
            seed=seed,
            overwrite=overwrite,
            reporter=reporter,
        )

    def _learn_subject(self, output: Path, *, seed: int, overwrite: bool, reporter: Reporter) -> None:
        recipe, photos = self._subject(), find_photos(self.sources)
        load = load_video_backbone if is_text_to_video(self.base) else load_backbone
        base = load(self.base, device=self.device, precision=self.precision, reporter=reporter)
        if SUBJECTS[self.recipe].masks:
            photos = with_masks(photos, base, self.noun)
        learn_subject(
            photos,
            noun=self.noun,
            recipe=recipe,
            base=base,
            output=output,
            seed=seed,
            overwrite=overwrite,
            reporter=reporter,
        )

    def _encoder(self, recipe: MotionRecipe) -> Path | None:
        own = self.image_encoder is None and recipe.told and self.base == "toybox"
        return _TOYBOX_CLIP if own else self.image_encoder

    def _motion(self) -> MotionRecipe:
        if self.recipe not in RECIPES:
            raise UsageError(f"recipe {self.recipe!r} is unknown; expected one of {', '.join(RECIPES)}.")
        if self.noun:
            raise UsageError(f"--noun is for recipes that learn a subject from photos; {self.recipe} learns a motion.")
        recipe = MOTIONS[self.recipe].build(self._preset)
        if self.config is not None:
            recipe = from_jsonable(MotionRecipe, read_json(self.config), where=str(self.config))
        if self.frames is not None:
            if self.frames < 2:
                raise UsageError(f"--frames must be at least 2, got {self.frames}.")
            recipe = dataclasses.replace(recipe, frames=self.frames)
        if self.size is not None:
            sampling = dataclasses.replace(recipe.sampling, height=self.size, width=self.size)
            recipe = dataclasses.replace(recipe, sampling=sampling)
        recipe = _shortened(recipe, self.steps)
        recipe.validate()
        return recipe

    def _subject(self) -> Recipe:
        if self.prompts or self.prior or self.image_encoder or self.frames or self.size or self.motion_module:
            raise UsageError(
                f"{self.recipe} learns a subject from photos; it takes no --prompts, --prior, --image-encoder, "
                "--frames, --size or --motion-module. Give --noun."
            )
        if not self.noun.strip():
            raise UsageError("--noun is empty; say in one or two words what the subject is, such as dog or toy robot.")
        recipe = SUBJECTS[self.recipe].build(self.noun.strip(), self._preset)
        if self.config is not None:
            recipe = from_jsonable(Recipe, read_json(self.config), where=str(self.config))
        recipe = _shortened(recipe, self.steps)
        recipe.validate()
        return recipe


def _shortened(recipe: Any, steps: int | None) -> Any:
    if steps is None:
        return recipe
    if steps < 1:
        raise UsageError(f"--steps must be at least 1, got {steps}.")
    return recipe.with_steps(steps)
