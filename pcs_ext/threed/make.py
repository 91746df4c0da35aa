"""`3d make`: a learned subject and a prompt in, a mesh out. Every stage goes on where it was stopped."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pcs_ext.config_io import atomic_write_bytes, file_sha256, from_jsonable, read_json, to_jsonable, write_json
from pcs_ext.errors import ArtifactError, InputError, Interrupted, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.data import find_photos
from pcs_ext.image.learn import learn, preset_of
from pcs_ext.image.recipes import Recipe
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.export import Colors, check_free, colors_for, finished_mesh, write_with_page
from pcs_ext.threed.field_config import load_field, save_field
from pcs_ext.threed.field_stage import FieldStage, PosedPictures, distil_field
from pcs_ext.threed.fields import AbstractField
from pcs_ext.threed.guidance import build_guidance
from pcs_ext.threed.mesh import FORMATS
from pcs_ext.threed.multiview import MultiViewAdapter
from pcs_ext.threed.pseudo_views import make_pseudo_views, read_pseudo_views
from pcs_ext.threed.recipes import RECIPES, Effort, PhotosTo3dRecipe, Recipe3d, TextTo3dRecipe
from pcs_ext.threed.turntable import contact_sheet
from pcs_ext.threed.work import Result, WorkFolder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """What a finished job left."""

    mesh: Any
    """The `trimesh.Trimesh` that was written."""
    field: AbstractField
    """What it was cut out of."""
    files: tuple[Path, ...]
    """The mesh and, where wanted, the page that shows it."""
    work: Path
    """The job's folder."""


def resolve_recipe_3d(
    method: str, preset: Any, effort: Effort, *, steps: int | None = None, config: Path | None = None
) -> TextTo3dRecipe | PhotosTo3dRecipe:
    """The recipe behind a name or a JSON file, with another number of steps.

    Raises:
        UsageError: an unknown method.
        ConfigError: the JSON does not fit, or the recipe contradicts itself.
    """
    if config is not None:
        recipe = from_jsonable(Recipe3d, read_json(config), where=str(config))
    elif method in RECIPES:
        recipe = RECIPES[method].build(preset, effort)
    else:
        raise UsageError(f"3D method {method!r} is unknown; expected one of {', '.join(RECIPES)}.")
    if steps is not None:
        if steps < 2:
            raise UsageError(f"--steps must be at least 2, got {steps}.")
        recipe = recipe.with_steps(steps)
    recipe.validate()
    return recipe


def make_3d(
    subject: Path,
    prompt: str,
    output: Path,
    *,
    method: str = "dreambooth3d",
    effort: Effort = "balanced",
    photos: Sequence[Path] | Path | str = (),
    multiview: Path | None = None,
    base: str = "",
    steps: int | None = None,
    seed: int = 0,
    config: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    previews: int = 0,
    colors: Colors | Literal["auto"] = "auto",
    viewer: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Made:
    """Make a 3D object of a learned subject.

    The job lives in `OUTPUT.work/`; the same call goes on from there after an interruption, to the same tensors bit for
    bit on the CPU. The folder stays: `3d render` and `3d export` read it.

    Args:
        subject: folder written by `learn`.
        prompt: text with `{subject}`; view words are appended.
        output: ends in .glb, .obj or .ply.
        method: name in `RECIPES`.
        effort: which of its numbers of steps.
        photos: what the subject was learned from; DreamBooth3D needs them.
        multiview: folder of a multi-view adapter, for recipes with a joint score.
        base: another base of the same family than the one the subject was learned on.
        steps: of the fields in all; None takes the recipe's.
        seed: of everything random.
        config: a recipe as JSON instead of the method's.
        device: auto, cuda, mps or cpu; fields are rendered on the CPU.
        precision: of the base's weights.
        previews: steps between contact sheets in `OUTPUT.work/previews/`; 0 writes none.
        colors: at the vertices or in a texture; auto: a texture where the format holds one.
        viewer: write a page that shows the object beside a GLB.
        overwrite: replace the output (never the work folder).
        reporter: hears events and progress.

    Raises:
        UsageError, ConfigError, InputError, ArtifactError, ModelError: before any training, with what to do.
        CheckpointError: the work folder belongs to another request.
        DivergedError: the loss stopped being finite.
        Interrupted: Ctrl-C; what was done is saved.
    """
    reporter = reporter or SilentReporter()
    check_free(output, FORMATS, overwrite)
    artifact = Artifact.load(subject)
    text = artifact.concept.prompt(prompt)
    named = base or artifact.data.base_name
    recipe = resolve_recipe_3d(method, preset_of(named), effort, steps=steps, config=config)
    if previews < 0:
        raise UsageError(f"--previews must be 0 or a number of steps, got {previews}.")
    paths = _checked_photos(recipe, artifact, photos)
    joint = _checked_adapter(recipe, multiview)
    backbone = load_backbone(named, device=device, precision=precision, reporter=reporter)
    request = {
        "recipe": to_jsonable(recipe),
        "prompt": prompt,
        "subject": artifact.data.content_hash,
        "base": backbone.fingerprint,
        "precision": str(backbone.dtype),
        "photos": sorted(file_sha256(path) for path in paths),
        "multiview": None if multiview is None else file_sha256(multiview / "adapter.safetensors"),
        "seed": seed,
    }
    work = WorkFolder(output.with_name(f"{output.name}.work"), request)
    write_json(work.path / "recipe.json", recipe)
    job = Job(recipe, artifact, backbone, work, prompt, paths, joint, seed, previews, reporter)
    try:
        name, field = job.run()
        mesh = finished_mesh(field, recipe.mesh, colors_for(output, colors))
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; what was done is in {work.path}. The same command goes on from there."
        ) from None
    work.finish(Result(field=name, mesh=recipe.mesh, prompt=text))
    page = output.with_suffix(".html") if viewer and output.suffix.lower() == ".glb" else None
    files = write_with_page(mesh, output, page)
    return Made(mesh=mesh, field=field, files=tuple(files), work=work.path)


class Job:
    """The stages of one request.

    Args:
        recipe: which stages.
        artifact: the learned subject.
        backbone: its base, without it.
        work: where everything lies.
        prompt: with `{subject}`.
        photos: of the subject.
        joint: a multi-view adapter, for recipes with a joint score.
        seed: of everything random.
        previews: steps between contact sheets.
        reporter: hears everything.
    """

    def __init__(
        self,
        recipe: TextTo3dRecipe | PhotosTo3dRecipe,
        artifact: Artifact,
        backbone: AbstractUnetBackbone,
        work: WorkFolder,
        prompt: str,
        photos: Sequence[Path],
        joint: MultiViewAdapter | None,
        seed: int,
        previews: int,
        reporter: Reporter,
    ) -> None:
        self.recipe, self.artifact, self.backbone, self.work = recipe, artifact, backbone, work
        self.prompt, self.photos, self.joint = prompt, list(photos), joint
        self.seed, self.previews, self.reporter = seed, previews, reporter

    def run(self) -> tuple[str, AbstractField]:
        """All stages; the name of the last field's folder inside the work folder, and the field."""
        if isinstance(self.recipe, TextTo3dRecipe):
            field = self._field("field", self.recipe.field, self.artifact)
            return "field/field", field
        return "final/field", self._dreambooth3d(self.recipe)

    def _dreambooth3d(self, recipe: PhotosTo3dRecipe) -> AbstractField:
        partial = self._learned("partial", recipe.partial_share, self.photos, None)
        initial = self._field("initial", recipe.initial, partial)
        pseudo = self.work.path / "pseudo_views"
        if not pseudo.exists():
            with self.artifact.applied(self.backbone):
                make_pseudo_views(
                    pseudo,
                    initial,
                    self.backbone,
                    self.artifact.concept,
                    self.prompt,
                    recipe.pseudo,
                    sampling=self.artifact.sampling,
                    words=recipe.words,
                    samples=recipe.initial.samples,
                    plain=recipe.initial.lighting.plain,
                    seed=seed_for(self.seed, "pseudo views"),
                    reporter=self.reporter,
                )
        views = [path for path in sorted(pseudo.glob("*.png")) if not path.stem.endswith("_mask")]
        multiview = self._learned("multiview", recipe.multiview_share, [*self.photos, *views], partial)
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
        seed = seed_for(self.seed, name) % 2**31
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
                teacher.concept.prompt(self.prompt),
                stage.guidance,
                negative_prompt=self.recipe.negative_prompt,
                words=self.recipe.words,
                joint=self.joint,
                views=stage.cameras.views,
                seed=seed,
            )
            for state in distil_field(
                field, stage, guidance, pictures=pictures, checkpoints=checkpoints, reporter=self.reporter
            ):
                self.reporter.progress(f"3d {name}", state.step, state.total_steps)
                if self.previews and state.step % self.previews == 0:
                    self._preview(field, stage, name, state.step)
        save_field(field, stage.field, folder / "field")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return field

    def _preview(self, field: AbstractField, stage: FieldStage, name: str, step: int) -> None:
        path = self.work.path / "previews" / f"{name}-{step:06d}.png"
        atomic_write_bytes(path, contact_sheet(field, side=stage.side, samples=stage.samples))
        self.reporter.event("preview", f"preview {path}", path=str(path))


def _checked_photos(
    recipe: TextTo3dRecipe | PhotosTo3dRecipe, artifact: Artifact, photos: Sequence[Path] | Path | str
) -> list[Path]:
    """The photos' paths, if the recipe needs them; they must be those that the subject was learned from."""
    if isinstance(recipe, TextTo3dRecipe):
        if photos:
            raise UsageError(f"{recipe.id} takes no photos; leave --photos out, or choose --method dreambooth3d.")
        return []
    if not photos:
        raise UsageError(
            f"{recipe.id} learns from the photos again; give those the subject was learned from: --photos FOLDER."
        )
    if artifact.data.training.get("after"):
        raise ArtifactError(
            f"{recipe.id} needs a subject learned on its own; this one was learned after others. Learn it anew."
        )
    paths = [photo.path for photo in find_photos(photos)]
    known = set(artifact.data.training["photos"].values())
    if {file_sha256(path) for path in paths} != known:
        raise InputError(
            f"expected the {len(known)} photos the subject was learned from "
            f"({', '.join(artifact.data.training['photos'])}), got {len(paths)}, not the same. Give those, unchanged."
        )
    return paths


def _checked_adapter(recipe: TextTo3dRecipe | PhotosTo3dRecipe, folder: Path | None) -> MultiViewAdapter | None:
    wanted = isinstance(recipe, TextTo3dRecipe) and recipe.joint
    if wanted and folder is None:
        raise UsageError(f"{recipe.id} judges views together; give a multi-view adapter: --multiview FOLDER.")
    if not wanted and folder is not None:
        raise UsageError(f"{recipe.id} takes no multi-view adapter; leave --multiview out.")
    return None if folder is None else MultiViewAdapter.load(folder)
