"""The stages of one request; each is done once and goes on where it was stopped."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from pcs_ext.config_io import atomic_write_bytes, from_jsonable
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import Recipe
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.field_config import load_field, save_field
from pcs_ext.threed.field_stage import FieldStage, PosedPictures, distil_field
from pcs_ext.threed.fields import AbstractField
from pcs_ext.threed.guidance import build_guidance
from pcs_ext.threed.pseudo_views import make_pseudo_views, read_pseudo_views
from pcs_ext.threed.recipes import PhotosTo3dRecipe
from pcs_ext.threed.request import Request
from pcs_ext.threed.turntable import contact_sheet
from pcs_ext.threed.work import WorkFolder


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

    def run(self) -> tuple[str, AbstractField]:
        """All stages; the name of the last field's folder inside the work folder, and the field."""
        if isinstance(self.recipe, PhotosTo3dRecipe):
            return "final/field", self._dreambooth3d(self.recipe)
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

    def _field(
        self,
        name: str,
        stage: FieldStage,
        teacher: Artifact,
        start: AbstractField | None = None,
        pictures: PosedPictures | None = None,
    ) -> AbstractField:
        """A field taught by a model; done only once."""
        folder = self.work.path / name
        if (folder / "field").exists():
            return load_field(folder / "field")
        seed = seed_for(self.request.seed, name) % 2**31
        stage = dataclasses.replace(stage, fit=dataclasses.replace(stage.fit, seed=seed))
        field = stage.field.build(seed)
        if start is not None:
            field.load_state_dict(start.state_dict())
        checkpoints = CheckpointFolder(
            folder / "checkpoints", config_hash=f"{self.work.hash}-{name}", reporter=self.reporter
        )
        self.reporter.event("stage", f"{name} field: {stage.fit.steps} steps", stage=name)
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
            for state in distil_field(
                field, stage, guidance, pictures=pictures, checkpoints=checkpoints, reporter=self.reporter
            ):
                self.reporter.progress(f"3d {name}", state.step, state.total_steps)
                if self.request.previews and state.step % self.request.previews == 0:
                    self._preview(field, stage, name, state.step)
        save_field(field, stage.field, folder / "field")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return field

    def _preview(self, field: AbstractField, stage: FieldStage, name: str, step: int) -> None:
        path = self.work.path / "previews" / f"{name}-{step:06d}.png"
        atomic_write_bytes(path, contact_sheet(field, side=stage.side, samples=stage.samples))
        self.reporter.event("preview", f"preview {path}", path=str(path))
