"""What `video learn` is asked: files in, a motion or a subject out. Checks everything cheap before it loads a model."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from pcs_ext.config_io import from_jsonable, read_json, to_jsonable
from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.recipe_request import check_plan, recipe_part
from pcs_ext.image.sample import check_side
from pcs_ext.reporter import Reporter
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.effort import Effort, Expected, StepClock, expected, trial, with_effort
from pcs_ext.video.learn import learn_motion
from pcs_ext.video.recipes import MOTIONS, RECIPES, SUBJECTS, MotionRecipe
from pcs_ext.video.recipes.base import Preset
from pcs_ext.video.size import Size
from pcs_ext.video.subject_request import TOYBOX_CLIP, SubjectRequest, shortened
from pcs_ext.video.training_clips import find_clips, open_training_clips, read_training_clips


def usual_recipe(base: str) -> str:
    """How a motion is learned where nobody says how: on toybox, whose own clips hardly move, by inflating it."""
    return "tune-a-video" if base == "toybox" else "motion-director"


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
    captioned: bool = True
    """Whether every clip needs a prompt; what nobody says of a clip may be learned with its motion."""
    prior: tuple[Path, ...] = ()
    """Clips of something else, with their captions beside them, for recipes that need them."""
    image_encoder: Path | None = None
    """See `learn_motion`; None: toybox has its own."""
    noun: str = ""
    """What the subject is, or who does the motion; for recipes that learn a word for it."""
    frames: int | None = None
    """Of a training clip; None takes the recipe's."""
    size: Size | None = None
    """Height and width in pixels that clips are learned at; None takes the recipe's, or the base's square."""
    steps: int | None = None
    """In all; None takes the recipe's."""
    effort: Effort = "balanced"
    """More or fewer steps than the recipe's own; of motions, and not beside `steps`."""
    config: Path | None = None
    """A recipe as JSON, or all that `plan` gives, instead of the recipe's own values."""
    checkpoint_activations: bool = False
    """See `learn_motion`."""
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
        if self.learns_subject:
            return self._subject().plan()
        common = {"base": self.base, "motion_module": self.motion_module}
        recipe, clips = self._motion(), find_clips(self.sources, self.prompts, captioned=self.captioned)
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
            self._subject().run(output, seed=seed, overwrite=overwrite, reporter=reporter)
            return
        recipe = self._motion()
        self._learn(recipe, self._backbone(recipe, reporter), output, seed=seed, overwrite=overwrite, reporter=reporter)

    def expected(self, reporter: Reporter) -> list[Expected]:
        """What quick, balanced and best take on this machine, or the steps that are asked for, by a few steps of each
        phase; nothing is kept.

        Raises:
            PcsError: the request cannot be met; says what to do.
        """
        if self.learns_subject:
            raise UsageError(f"{self.recipe} learns a subject; minutes are foretold for motions alone.")
        recipe = self._motion() if self.steps is not None else dataclasses.replace(self, effort="balanced")._motion()
        backbone, clock = self._backbone(recipe, reporter), StepClock()
        with tempfile.TemporaryDirectory() as place:
            self._learn(trial(recipe), backbone, Path(place) / "trial", seed=0, overwrite=False, reporter=clock)
        return expected(recipe, clock, backbone.device, asked=self.steps is not None)

    def _backbone(self, recipe: MotionRecipe, reporter: Reporter) -> AbstractVideoBackbone:
        """The model, once the clips are known to be there."""
        find_clips(self.sources, self.prompts, captioned=self.captioned)
        if self.prior:
            find_clips(self.prior)
        return load_video_backbone(
            self.base,
            self.motion_module,
            inflation=recipe.inflation,
            device=self.device,
            precision=self.precision,
            reporter=reporter,
        )

    def _learn(
        self,
        recipe: MotionRecipe,
        backbone: AbstractVideoBackbone,
        output: Path,
        *,
        seed: int,
        overwrite: bool,
        reporter: Reporter,
    ) -> None:
        files = find_clips(self.sources, self.prompts, captioned=self.captioned)
        others = find_clips(self.prior) if self.prior else []
        # The recipe's, which has what was asked: what is learned at a size makes clips of that size.
        size = (recipe.sampling.height or backbone.resolution, recipe.sampling.width or backbone.resolution)
        for name, side in zip(("height", "width"), size, strict=True):
            check_side(name, side, backbone)
        how: Any = {"size": size, "multiple_of": backbone.vae_factor, "reporter": reporter}
        opened = open_training_clips(files, **how)
        clips = [clip.frames.transpose(0, 1) for clip in opened]
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
            fps=opened[0].fps,
            seed=seed,
            checkpoint_activations=self.checkpoint_activations,
            overwrite=overwrite,
            reporter=reporter,
        )

    def _encoder(self, recipe: MotionRecipe) -> Path | None:
        own = self.image_encoder is None and recipe.told and self.base == "toybox"
        return TOYBOX_CLIP if own else self.image_encoder

    def _motion(self) -> MotionRecipe:
        if self.recipe not in RECIPES:
            raise UsageError(f"recipe {self.recipe!r} is unknown; expected one of {', '.join(RECIPES)}.")
        recipe = MOTIONS[self.recipe].build(self._preset)
        if self.config is not None:
            check_plan(self.config, self.noun, self.base)
            recipe = from_jsonable(MotionRecipe, recipe_part(read_json(self.config)), where=str(self.config))
        if self.steps is not None and self.effort != "balanced":
            raise UsageError(
                f"--preset {self.effort} and --steps {self.steps} both say how many steps; give one of them."
            )
        recipe = recipe.with_protagonist(self.noun)
        if self.frames is not None:
            if self.frames < 2:
                raise UsageError(f"--frames must be at least 2, got {self.frames}.")
            recipe = dataclasses.replace(recipe, frames=self.frames)
        if self.size is not None:
            sampling = dataclasses.replace(recipe.sampling, height=self.size[0], width=self.size[1])
            recipe = dataclasses.replace(recipe, sampling=sampling)
        recipe = shortened(with_effort(recipe, self.effort), self.steps)
        recipe.validate()
        return recipe

    def _subject(self) -> SubjectRequest:
        if self.effort != "balanced":
            raise UsageError(f"--preset is for motions; {self.recipe} learns a subject, give --steps.")
        if self.prompts or self.prior:
            raise UsageError(f"{self.recipe} learns a subject from photos; it takes no --prompts or --prior.")
        return SubjectRequest(
            sources=self.sources,
            recipe=self.recipe,
            noun=self.noun,
            base=self.base,
            motion_module=self.motion_module,
            image_encoder=self.image_encoder,
            frames=self.frames,
            size=self.size,
            steps=self.steps,
            config=self.config,
            checkpoint_activations=self.checkpoint_activations,
            device=self.device,
            precision=self.precision,
        )
