"""The stages of one request; each is done once and goes on where it was stopped."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pcs_ext.config_io import atomic_write_bytes, from_jsonable
from pcs_ext.image.adapters.layers import merged
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.data import find_photos
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import Recipe
from pcs_ext.image.subject import Artifact
from pcs_ext.image.types import FitState
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.field_config import load_field, save_field
from pcs_ext.threed.field_stage import FieldStage, PosedPictures, distil_field
from pcs_ext.threed.fields import AbstractField
from pcs_ext.threed.guidance import AbstractGuidance, DividedGuidance, SingleViews, TurnTaking, build_guidance
from pcs_ext.threed.pseudo_views import make_pseudo_views, read_pseudo_views
from pcs_ext.threed.recipes import (
    AvatarTo3dRecipe,
    PhotosTo3dRecipe,
    PhotoTo3dRecipe,
    RefinedTo3dRecipe,
    SeenTo3dRecipe,
    TextTo3dRecipe,
)
from pcs_ext.threed.relearn import relearning
from pcs_ext.threed.request import Request
from pcs_ext.threed.shapes import Shape, preview_sheet
from pcs_ext.threed.surface import TetSurface, load_surface, save_surface, start_from
from pcs_ext.threed.surface_stage import SurfaceStage, refine_surface
from pcs_ext.threed.turned_views import both_words, make_turned_views, shape_caption, shape_word
from pcs_ext.threed.variational import VariationalConfig
from pcs_ext.threed.view_guidance import SummedGuidance, ViewGuidance
from pcs_ext.threed.view_model import ViewModel
from pcs_ext.threed.work import WorkFolder

AnyStage = TypeVar("AnyStage", FieldStage, SurfaceStage)
_PREVIEW = 128
"""Sides of larger views in previews, pixels."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What is in the base while a stage is taught, and the prompt it is asked."""

    artifacts: tuple[Artifact, ...]
    """In their order."""
    prompt: str
    """With their words in place."""
    away: str = ""
    """Words that they learned to stay away from."""

    @contextlib.contextmanager
    def applied(self, backbone: AbstractUnetBackbone) -> Iterator[None]:
        """All of them in the base; afterwards it is as before."""
        with contextlib.ExitStack() as stack:
            for artifact in self.artifacts:
                stack.enter_context(artifact.applied(backbone))
            yield


class Job:
    """The stages of one request.

    Args:
        request: what is wanted.
        backbone: its base, without the subject.
        work: where everything lies.
        reporter: hears everything.
        view_model: judges other sides of a known photo; None: words alone do.
    """

    def __init__(
        self,
        request: Request,
        backbone: AbstractUnetBackbone,
        work: WorkFolder,
        reporter: Reporter,
        view_model: ViewModel | None = None,
    ) -> None:
        self.request, self.backbone, self.work, self.reporter = request, backbone, work, reporter
        self.view_model = view_model
        self.recipe, self.artifact = request.recipe, request.artifact
        # Of all stages: what one of them drew by its noise would be torn down by the next one's.
        self.noise_seed = seed_for(request.seed, "kept noise") % 2**31
        if request.joint is not None:
            request.joint.check_base(backbone)
            request.joint.to(backbone.device)

    def run(self) -> tuple[str, Shape]:
        """All stages; the name of the last one's folder inside the work folder, and its shape."""
        if isinstance(self.recipe, PhotosTo3dRecipe):
            return "final/field", self._dreambooth3d(self.recipe)
        if isinstance(self.recipe, RefinedTo3dRecipe):
            return "fine/surface", self._magic3d(self.recipe)
        if isinstance(self.recipe, PhotoTo3dRecipe):
            return "field/field", self._consist3d(self.recipe)
        if isinstance(self.recipe, AvatarTo3dRecipe):
            return "field/field", self._avatarbooth(self.recipe)
        if isinstance(self.recipe, SeenTo3dRecipe):
            return "field/field", self._field("field", self.recipe.field, self._teacher(self.artifact))
        teacher = self._teacher(self._relearned(self.recipe))
        return "field/field", self._field("field", self.recipe.field, teacher)

    def _teacher(self, artifact: Artifact) -> Teacher:
        concept = artifact.concept
        return Teacher((artifact,), concept.prompt(self.request.prompt), concept.negative)

    def _dreambooth3d(self, recipe: PhotosTo3dRecipe) -> AbstractField:
        partial = self._learned("partial", recipe.partial_share, self.request.photos, None)
        initial = self._field("initial", recipe.initial, self._teacher(partial))
        pseudo = self._pseudo_views(recipe, initial)
        views = [path for path in sorted(pseudo.glob("*.png")) if not path.stem.endswith("_mask")]
        multiview = self._learned("multiview", recipe.multiview_share, [*self.request.photos, *views], partial)
        cut, plain = recipe.pseudo, recipe.initial.lighting.plain
        cameras, images = read_pseudo_views(pseudo, cut=cut.cut, background=plain, solid=cut.solid, margin=cut.margin)
        start = initial if recipe.final_start == "initial" else None
        pictures = PosedPictures(cameras, images, plain)
        return self._field("final", recipe.final, self._teacher(multiview), start, pictures)

    def _pseudo_views(self, recipe: PhotosTo3dRecipe, initial: AbstractField) -> Path:
        """The folder of stage 2; made only once."""
        pseudo = self.work.path / "pseudo_views"
        if pseudo.exists():
            return pseudo
        with self.artifact.applied(self.backbone):
            make_pseudo_views(
                pseudo,
                initial,
                self.backbone,
                self.artifact.concept,
                self.request.prompt,
                recipe.pseudo,
                sampling=self.artifact.sampling,
                words=recipe.words,
                samples=recipe.initial.samples,
                plain=recipe.initial.lighting.plain,
                seed=seed_for(self.request.seed, "pseudo views"),
                noise_seed=self.noise_seed,
                reporter=self.reporter,
            )
        return pseudo

    def _consist3d(self, recipe: PhotoTo3dRecipe) -> AbstractField:
        views, concept = self.work.path / "turned_views", self.artifact.concept
        if not views.exists():
            photo = find_photos(self.request.photos)[0]
            target = recipe.field.field.bounds.center
            side, depth = self.backbone.resolution, self.request.depth
            make_turned_views(views, photo, depth, side, shape_caption(concept), recipe.turn, target)
        output = self.work.path / "shape_word"
        if output.exists():
            word = Artifact.load(output)
        else:
            self.reporter.event("stage", "second token, from turned views", stage="shape_word")
            word = learn(
                views,
                noun=concept.class_noun,
                output=output,
                recipe=shape_word(concept.class_noun, recipe.shape_word, self.artifact.sampling),
                base=self.backbone,
                seed=seed_for(self.request.seed, "shape word") % 2**31,
                after=[self.artifact],
                reporter=self.reporter,
            )
        prompt = both_words(concept, word.concept, self.request.prompt)
        return self._field("field", recipe.field, Teacher((self.artifact, word), prompt, concept.negative))

    def _learned(self, name: str, share: float, photos: Sequence[Path], start: Artifact | None) -> Artifact:
        """The subject learned in a share of its steps, anew or from another one; done only once.

        With the subject's own seed: the partial model then sees what the full one saw first, and the class images of
        prior preservation are those made before.
        """
        output = self.work.path / name
        if output.exists():
            return Artifact.load(output)
        whole: Recipe = from_jsonable(Recipe, self.artifact.data.recipe, where="the subject's recipe")
        self.reporter.event("stage", f"{name} model: {len(photos)} pictures", stage=name)
        return learn(
            photos,
            noun=self.artifact.concept.class_noun,
            output=output,
            recipe=whole.with_steps(max(1, round(whole.steps * share))),
            base=self.backbone,
            seed=self.artifact.data.training["seed"],
            start=start,
            reporter=self.reporter,
        )

    def _relearned(self, recipe: TextTo3dRecipe) -> Artifact:
        """The subject as the recipe learns it, where there are photos; done only once."""
        output, photos = self.work.path / "subject", self.request.photos
        if recipe.relearn is None or not photos:
            return self.artifact
        if output.exists():
            return Artifact.load(output)
        self.reporter.event("stage", f"the subject anew: {len(photos)} pictures", stage="subject")
        noun = self.artifact.concept.class_noun
        return learn(
            photos,
            noun=noun,
            output=output,
            recipe=relearning(noun, recipe.relearn, self.artifact.sampling),
            base=self.backbone,
            seed=self.artifact.data.training["seed"],
            reporter=self.reporter,
        )

    def _avatarbooth(self, recipe: AvatarTo3dRecipe) -> AbstractField:
        head = self.request.head
        assert head is not None, "checked with the request"
        close = Teacher((head,), head.concept.prompt(recipe.head_prompt), head.concept.negative)
        return self._field("field", recipe.field, self._teacher(self.artifact), close=close)

    def _magic3d(self, recipe: RefinedTo3dRecipe) -> TetSurface:
        teacher = self._teacher(self.artifact)
        coarse = self._field("coarse", recipe.coarse, teacher)
        folder = self.work.path / "fine" / "surface"
        if folder.exists():
            return load_surface(folder)
        stage, seed = self._seeded(recipe.fine, "fine")
        surface = TetSurface(stage.surface, seed)
        start_from(surface, coarse, recipe.mesh)
        surface.to(self.backbone.device)
        checkpoints = self._checkpoints("fine", stage)
        with self._teaching(stage, teacher, None, seed) as (guidance, _):
            states = refine_surface(surface, stage, guidance, checkpoints=checkpoints, reporter=self.reporter)
            self._follow("fine", surface, stage.side, states)
        save_surface(surface.cpu(), folder)
        self._tidy("fine")
        return surface

    def _field(
        self,
        name: str,
        stage: FieldStage,
        teacher: Teacher,
        start: AbstractField | None = None,
        pictures: PosedPictures | None = None,
        close: Teacher | None = None,
    ) -> AbstractField:
        """A field taught by a model on that one's device, its close-ups by another one; done only once, on the CPU."""
        folder = self.work.path / name / "field"
        if folder.exists():
            return load_field(folder)
        stage, seed = self._seeded(stage, name)
        field = stage.field.build(seed)
        if start is not None:
            field.load_state_dict(start.state_dict())
        field.to(self.backbone.device)
        checkpoints = self._checkpoints(name, stage)
        with self._teaching(stage, teacher, close, seed) as (guidance, near):
            states = distil_field(
                field,
                stage,
                guidance,
                pictures=pictures,
                close=near,
                photo=self.request.photo,
                grown=start is not None,
                checkpoints=checkpoints,
                reporter=self.reporter,
            )
            self._follow(name, field, stage.side, states)
        save_field(field.cpu(), stage.field, folder)
        self._tidy(name)
        return field

    def _seeded(self, stage: AnyStage, name: str) -> tuple[AnyStage, int]:
        """A stage whose randomness is the job's, and the seed."""
        seed = seed_for(self.request.seed, name) % 2**31
        return dataclasses.replace(stage, fit=dataclasses.replace(stage.fit, seed=seed)), seed

    def _checkpoints(self, name: str, stage: FieldStage | SurfaceStage) -> CheckpointFolder:
        """Where a stage's steps are saved; says that it begins."""
        self.reporter.event("stage", f"{name} stage: {stage.fit.steps} steps", stage=name)
        folder = self.work.path / name / "checkpoints"
        return CheckpointFolder(folder, config_hash=f"{self.work.hash}-{name}", reporter=self.reporter)

    @contextlib.contextmanager
    def _teaching(
        self, stage: FieldStage | SurfaceStage, teacher: Teacher, close: Teacher | None, seed: int
    ) -> Iterator[tuple[AbstractGuidance, AbstractGuidance | None]]:
        """The guidance of a stage and that of its close-ups: one model is in the base throughout, two take turns."""
        if isinstance(self.recipe, TextTo3dRecipe) and self.recipe.single is not None:
            yield self._divided(stage, teacher, self.recipe.single, seed), None
        elif close is None:
            # Nothing of the subject learns here, so its adapters cost nothing once they are in the weights.
            with teacher.applied(self.backbone), merged(self.backbone.denoiser):
                yield self._with_view_model(self._guidance(stage, teacher, seed), seed), None
        else:
            yield self._turn(stage, teacher, seed), self._turn(stage, close, seed)

    def _with_view_model(self, guidance: AbstractGuidance, seed: int) -> AbstractGuidance:
        """The guidance, and beside it what the view model says, where there is one."""
        recipe, photo = self.recipe, self.request.photo
        if self.view_model is None or photo is None or not isinstance(recipe, SeenTo3dRecipe):
            return guidance
        known = recipe.field.known
        assert known is not None, "checked with the recipe"
        target = recipe.field.cameras.target
        return SummedGuidance([guidance, ViewGuidance(self.view_model, photo, known, recipe.view, target, seed)])

    def _divided(
        self, stage: FieldStage | SurfaceStage, teacher: Teacher, single: SingleViews, seed: int
    ) -> DividedGuidance:
        """Sets judged by the plain base under the class word, single views by the subject."""
        plain = Teacher((), self.artifact.concept.class_prompt(self.request.prompt))
        joint = self._guidance(stage, plain, seed)
        adapters = [adapter for artifact in teacher.artifacts for adapter in artifact.adapters()]

        def alone() -> AbstractGuidance:
            return build_guidance(
                self.backbone,
                teacher.prompt,
                single.guidance,
                negative_prompt=self._negative(teacher),
                words=single.words,
                seed=self.noise_seed,
            )

        return DividedGuidance(joint, TurnTaking(self.backbone, adapters, alone), single)

    def _turn(self, stage: FieldStage | SurfaceStage, teacher: Teacher, seed: int) -> TurnTaking:
        adapters = [adapter for artifact in teacher.artifacts for adapter in artifact.adapters()]
        return TurnTaking(self.backbone, adapters, lambda: self._guidance(stage, teacher, seed))

    def _negative(self, teacher: Teacher) -> str:
        """What a teacher's guidance goes away from: the words it learned for that, and the recipe's."""
        return ", ".join(part for part in (teacher.away, self.recipe.negative_prompt) if part)

    def _guidance(self, stage: FieldStage | SurfaceStage, teacher: Teacher, seed: int) -> AbstractGuidance:
        """The stage's; its seed is only read by a second score, which trains."""
        return build_guidance(
            self.backbone,
            teacher.prompt,
            stage.guidance,
            negative_prompt=self._negative(teacher),
            words=self.recipe.words,
            joint=self.request.joint,
            views=stage.cameras.views,
            seed=seed if isinstance(stage.guidance, VariationalConfig) else self.noise_seed,
        )

    def _follow(self, name: str, shape: Shape, side: int, states: Iterator[FitState]) -> None:
        """Run a stage to its end, with progress and previews."""
        every = self.request.previews
        for state in states:
            self.reporter.progress(f"3d {name}", state.step, state.total_steps)
            if every and state.step % every == 0:
                path = self.work.path / "previews" / f"{name}-{state.step:06d}.png"
                atomic_write_bytes(path, preview_sheet(shape, side=min(side, _PREVIEW)))
                self.reporter.event("preview", f"preview {path}", path=str(path))

    def _tidy(self, name: str) -> None:
        """What a finished stage no longer needs."""
        shutil.rmtree(self.work.path / name / "checkpoints", ignore_errors=True)
