"""The stages of one request; each is done once and goes on where it was stopped."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pcs_ext.config_io import atomic_write_bytes, from_jsonable
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import Recipe
from pcs_ext.image.subject import Artifact
from pcs_ext.image.types import FitState
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.field_config import load_field, save_field
from pcs_ext.threed.field_stage import FieldStage, PosedPictures, distil_field
from pcs_ext.threed.fields import AbstractField
from pcs_ext.threed.guidance import AbstractGuidance, build_guidance
from pcs_ext.threed.pseudo_views import make_pseudo_views, read_pseudo_views
from pcs_ext.threed.recipes import PhotosTo3dRecipe, RefinedTo3dRecipe
from pcs_ext.threed.request import Request
from pcs_ext.threed.shapes import Shape, preview_sheet
from pcs_ext.threed.surface import TetSurface, load_surface, save_surface, start_from
from pcs_ext.threed.surface_stage import SurfaceStage, refine_surface
from pcs_ext.threed.work import WorkFolder

AnyStage = TypeVar("AnyStage", FieldStage, SurfaceStage)
_PREVIEW = 128
"""Sides of larger views in previews, pixels."""


class Job:
    """The stages of one request.

    Args:
        request: what is wanted.
        backbone: its base, without the subject.
        work: where everything lies.
        reporter: hears everything.
    """

    def __init__(self, request: Request, backbone: AbstractUnetBackbone, work: WorkFolder, reporter: Reporter) -> None:
        self.request, self.backbone, self.work, self.reporter = request, backbone, work, reporter
        self.recipe, self.artifact = request.recipe, request.artifact

    def run(self) -> tuple[str, Shape]:
        """All stages; the name of the last one's folder inside the work folder, and its shape."""
        if isinstance(self.recipe, PhotosTo3dRecipe):
            return "final/field", self._dreambooth3d(self.recipe)
        if isinstance(self.recipe, RefinedTo3dRecipe):
            return "fine/surface", self._magic3d(self.recipe)
        return "field/field", self._field("field", self.recipe.field, self.artifact)

    def _dreambooth3d(self, recipe: PhotosTo3dRecipe) -> AbstractField:
        partial = self._learned("partial", recipe.partial_share, self.request.photos, None)
        initial = self._field("initial", recipe.initial, partial)
        pseudo = self.work.path / "pseudo_views"
        if not pseudo.exists():
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
                    reporter=self.reporter,
                )
        views = [path for path in sorted(pseudo.glob("*.png")) if not path.stem.endswith("_mask")]
        multiview = self._learned("multiview", recipe.multiview_share, [*self.request.photos, *views], partial)
        cameras, images = read_pseudo_views(pseudo, cut=recipe.pseudo.cut)
        background = 1.0 if recipe.pseudo.cut else recipe.initial.lighting.plain
        start = initial if recipe.final_start == "initial" else None
        return self._field("final", recipe.final, multiview, start, PosedPictures(cameras, images, background))

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

    def _magic3d(self, recipe: RefinedTo3dRecipe) -> TetSurface:
        coarse = self._field("coarse", recipe.coarse, self.artifact)
        folder = self.work.path / "fine" / "surface"
        if folder.exists():
            return load_surface(folder)
        stage, seed = self._seeded(recipe.fine, "fine")
        surface = TetSurface(stage.surface, seed)
        start_from(surface, coarse, recipe.mesh)
        with self._guidance("fine", stage, self.artifact, seed) as (guidance, checkpoints):
            states = refine_surface(surface, stage, guidance, checkpoints=checkpoints, reporter=self.reporter)
            self._follow("fine", surface, stage.side, states)
        save_surface(surface, folder)
        self._tidy("fine")
        return surface

    def _field(
        self,
        name: str,
        stage: FieldStage,
        teacher: Artifact,
        start: AbstractField | None = None,
        pictures: PosedPictures | None = None,
    ) -> AbstractField:
        """A field taught by a model; done only once."""
        folder = self.work.path / name / "field"
        if folder.exists():
            return load_field(folder)
        stage, seed = self._seeded(stage, name)
        field = stage.field.build(seed)
        if start is not None:
            field.load_state_dict(start.state_dict())
        with self._guidance(name, stage, teacher, seed) as (guidance, checkpoints):
            states = distil_field(
                field, stage, guidance, pictures=pictures, checkpoints=checkpoints, reporter=self.reporter
            )
            self._follow(name, field, stage.side, states)
        save_field(field, stage.field, folder)
        self._tidy(name)
        return field

    def _seeded(self, stage: AnyStage, name: str) -> tuple[AnyStage, int]:
        """A stage whose randomness is the job's, and the seed."""
        seed = seed_for(self.request.seed, name) % 2**31
        return dataclasses.replace(stage, fit=dataclasses.replace(stage.fit, seed=seed)), seed

    @contextlib.contextmanager
    def _guidance(
        self, name: str, stage: FieldStage | SurfaceStage, teacher: Artifact, seed: int
    ) -> Iterator[tuple[AbstractGuidance, CheckpointFolder]]:
        """A model's guidance with the subject in it, and where the stage's steps are saved."""
        checkpoints = CheckpointFolder(
            self.work.path / name / "checkpoints", config_hash=f"{self.work.hash}-{name}", reporter=self.reporter
        )
        self.reporter.event("stage", f"{name} stage: {stage.fit.steps} steps", stage=name)
        with teacher.applied(self.backbone):
            guidance = build_guidance(
                self.backbone,
                teacher.concept.prompt(self.request.prompt),
                stage.guidance,
                negative_prompt=self.recipe.negative_prompt,
                words=self.recipe.words,
                joint=self.request.joint,
                views=stage.cameras.views,
                seed=seed,
            )
            yield guidance, checkpoints

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
