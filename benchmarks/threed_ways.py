"""The ways in which `threed_systems` makes something of a learned subject, and what is measured of each."""

import contextlib
import dataclasses
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.threed_measures import carved_mesh, geometry, in_place, look, mesh_pictures, pictures
from benchmarks.true_toys import true_toy
from pcs_ext.config_io import read_json, write_json
from pcs_ext.errors import UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.data import photo_paths
from pcs_ext.image.evaluate import Judges
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.learn import learn
from pcs_ext.image.levels import to_pil
from pcs_ext.image.sample import sample
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.threed.box import Box
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.distillation import DistillationConfig
from pcs_ext.threed.edit_job import edited_splats
from pcs_ext.threed.edit_request import EditOptions
from pcs_ext.threed.edited_splats import EditedSplats
from pcs_ext.threed.field_config import FieldConfig, save_field
from pcs_ext.threed.field_fit import FieldFitConfig, fit_field
from pcs_ext.threed.fields import Bounds
from pcs_ext.threed.guidance import build_guidance
from pcs_ext.threed.make import make_3d
from pcs_ext.threed.mesh import MeshConfig, write_mesh
from pcs_ext.threed.placed_mesh import place_mesh
from pcs_ext.threed.recipes import (
    RECIPES,
    EditRecipe,
    Effort,
    PhotosTo3dRecipe,
    PhotoTo3dRecipe,
    RefinedTo3dRecipe,
    TextTo3dRecipe,
    TextureRecipe,
)
from pcs_ext.threed.request import MakeOptions
from pcs_ext.threed.shapes import Shape, cut_mesh, load_shape
from pcs_ext.threed.texture import TextureConfig
from pcs_ext.threed.texture_job import baked, texture_3d
from pcs_ext.threed.texture_request import TextureOptions
from pcs_ext.threed.texture_stage import TextureLoss, learn_texture
from pcs_ext.threed.work import Result, WorkFolder
from pcs_ext.toybox.world.scene import SceneObject
from pcs_ext.toybox.world.subjects import SUBJECTS, class_noun, novel_views, photos, reference_scenes

ROOT = Path(__file__).parents[1]
PROMPT = "a photo of {subject}"
_ASKED = ("front view", "side view", "back view")
_STEPS, _TEXTURE_STEPS = 8, 4
"""Of a quick run."""
_PLAIN = "on a plain background"
BOX = Box(low=(0.55, -0.5, -0.05), high=(1.45, 0.5, 1.05))
"""Beside a toy, on its left: where a subject is put."""
Measures = dict[str, dict[str, float]]
"""Column (a way to make something) -> measure -> value; `seconds` is one of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What all runs share."""

    backbone: AbstractUnetBackbone
    judges: Judges
    effort: Effort
    quick: bool
    """A few steps of everything."""
    reporter: Reporter


class Made:
    """One way to make something of one learned subject.

    Args:
        setting: what all runs share.
        name: of the subject.
        seed: of everything random.
        folder: of the run's files.
        subject: what was learned.
    """

    def __init__(self, setting: Setting, name: str, seed: int, folder: Path, subject: Path) -> None:
        self.setting, self.name, self.seed, self.folder, self.subject = setting, name, seed, folder, subject
        self.toy: SceneObject = SUBJECTS[name]
        self.clock = folder / "seconds.json"
        folder.mkdir(parents=True, exist_ok=True)

    def make(self, method: str, *, steps: int | None = None, **changes: Any) -> tuple[Shape, Any | None]:
        """What `3d make` makes, and its mesh; None where nothing could be cut out of the field."""
        given = photo_paths(ROOT / "examples" / self.name) if method in ("dreambooth3d", "mvdream") else ()
        subject, output = changes.pop("subject", self.subject), changes.pop("output", self.folder / "made.ply")
        steps = _STEPS if self.setting.quick else steps
        settings = {"method": method, "effort": self.setting.effort, "photos": given, "steps": steps, **changes}
        options = MakeOptions(seed=self.seed, device="cpu", colors="vertex", overwrite=True, **settings)
        with self.timed():
            try:
                made = make_3d(subject, PROMPT, output, options, reporter=self.setting.reporter)
            except UsageError:
                field = (
                    output.with_name(f"{output.name}.work")
                    / ("final" if method == "dreambooth3d" else "field")
                    / "field"
                )
                if not field.is_dir():
                    raise
                return load_shape(field), None
        return made.shape, made.mesh

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Adds to the seconds of earlier, interrupted calls; a killed one is not in them."""
        before, start = (read_json(self.clock)["seconds"] if self.clock.is_file() else 0.0), time.perf_counter()
        try:
            yield
        finally:
            write_json(self.clock, {"seconds": before + time.perf_counter() - start})

    @property
    def seconds(self) -> float:
        """Spent in `timed`."""
        return read_json(self.clock)["seconds"]

    def measured(self, shape: Shape, mesh: Any | None) -> dict[str, float]:
        """All that is measured of an object."""
        truth = true_toy(self.toy)
        images, opacity = pictures(shape, truth.cameras, truth.masks.shape[1])
        return {**look(images, opacity, truth, self.setting.judges), **geometry(mesh, truth)}


def _naive(run: Made) -> Measures:
    recipe = RECIPES["dreambooth3d"].build("toybox", run.setting.effort)
    assert isinstance(recipe, PhotosTo3dRecipe)
    made = run.make("dreamfusion", steps=recipe.initial.fit.steps + recipe.final.fit.steps)
    truth = true_toy(run.toy)
    own = look(truth.images, truth.coverage, truth, run.setting.judges)
    own = {key: own[key] for key in ("janus-rate", "views-right", "class-right")}
    return {"DreamBooth + SDS": {**run.measured(*made), "seconds": run.seconds}, "the toy itself": own}


def _dreambooth3d(run: Made) -> Measures:
    measured = {**run.measured(*run.make("dreambooth3d")), "seconds": run.seconds}
    partial = Artifact.load(run.folder / "made.ply.work" / "partial")
    full = Artifact.load(run.subject)
    return {
        "dreambooth3d": measured,
        "partial model": _views_drawn(run, partial),
        "full model": _views_drawn(run, full),
    }


@torch.no_grad()
def _views_drawn(run: Made, artifact: Artifact) -> dict[str, float]:
    """`views-asked`: how often a model draws the view asked for; `identity`: likeness to true pictures."""
    judges, each = run.setting.judges, 1 if run.setting.quick else 4
    assert judges.dino is not None
    assert judges.attributes is not None
    asked = [view for view in _ASKED for _ in range(each)]
    texts = [artifact.concept.prompt(f"{PROMPT}, {view}") for view in asked]
    with artifact.applied(run.setting.backbone) as backbone:
        drawn = sample(backbone, texts, seeds=list(range(len(texts))), config=artifact.sampling)
    true = novel_views(run.name, 16, generator_for("threed systems", run.name)).images
    alike = judges.dino.encode_images(drawn) @ judges.dino.encode_images(true).T
    read = [entry["view"] for entry in judges.attributes(drawn)]
    right = [one == other for one, other in zip(read, asked, strict=True)]
    return {"views-asked": statistics.fmean(right), "identity": float(alike.mean())}


def _prolificdreamer(run: Made) -> Measures:
    return {"prolificdreamer": {**run.measured(*run.make("prolificdreamer")), "seconds": run.seconds}}


def _mvdream(run: Made) -> Measures:
    """From the photos again: the subject is learned anew, held by the drift of its weights."""
    return {"mvdream": {**run.measured(*run.make("mvdream")), "seconds": run.seconds}}


def _magic3d(run: Made) -> Measures:
    shape, mesh = run.make("magic3d")
    coarse = load_shape(run.folder / "made.ply.work" / "coarse" / "field")
    recipe = RECIPES["magic3d"].build("toybox", run.setting.effort)
    assert isinstance(recipe, RefinedTo3dRecipe)
    first = cut_mesh(coarse, dataclasses.replace(recipe.mesh, resolution=96))
    return {
        "magic3d": {**run.measured(shape, mesh), "seconds": run.seconds},
        "its coarse field": run.measured(coarse, first),
    }


def _consist3d(run: Made) -> Measures:
    """From the first photo and its mask alone; the baseline has the first token and the same field."""
    photo, word = run.folder / "1.jpg", run.folder / "word"
    if not photo.is_file():
        shutil.copyfile(ROOT / "examples" / run.name / photo.name, photo)
        mask = photos(reference_scenes(run.name)[:1], 128).masks[0]
        to_pil(mask.expand(3, -1, -1) * 2 - 1).save(run.folder / "1_mask.png")
    if not word.is_dir():
        learn([photo], noun=class_noun(run.name), output=word, recipe="textual-inversion", base=run.setting.backbone,
              seed=run.seed, steps=_STEPS if run.setting.quick else None, reporter=run.setting.reporter)  # fmt: skip
    recipe = RECIPES["consist3d"].build("toybox", run.setting.effort)
    assert isinstance(recipe, PhotoTo3dRecipe)
    if run.setting.quick:
        recipe = dataclasses.replace(recipe, shape_word=dataclasses.replace(recipe.shape_word, fit=FitConfig(steps=4)))
    write_json(run.folder / "consist3d.json", recipe)
    made = run.make("consist3d", config=run.folder / "consist3d.json", photos=photo, subject=word)
    both = {**run.measured(*made), "seconds": run.seconds}
    plain = TextTo3dRecipe(id="sjc", words=recipe.words, field=recipe.field, mesh=recipe.mesh)
    write_json(run.folder / "sjc.json", plain)
    one = run.make("sjc", config=run.folder / "sjc.json", subject=word, output=run.folder / "one.ply")
    return {"consist3d": both, "SJC by one token": run.measured(*one)}


def _texturedreamer(run: Made) -> Measures:
    """A plain toy of the same class is painted: colours and proportions are the class's own."""
    mesh = run.folder / "plain.glb"
    if not mesh.is_file():
        plain = SceneObject(class_name=run.toy.class_name, color="gray", second_color="gray")
        write_mesh(carved_mesh(true_toy(plain, side=128)), mesh)
    steps = _TEXTURE_STEPS if run.setting.quick else None
    options = TextureOptions(effort=run.setting.effort, steps=steps, seed=run.seed, device="cpu", overwrite=True)
    with run.timed():
        painted = texture_3d(mesh, run.subject, run.folder / "painted.glb", options, reporter=run.setting.reporter)
    seconds = run.seconds
    return {
        "texturedreamer": {**_painted(run, painted.mesh), "seconds": seconds},
        "SDS of the subject's model": _painted(run, _texture_by_sds(run, mesh, steps)),
    }


def _texture_by_sds(run: Made, mesh: Path, steps: int | None) -> Any:
    """The same mesh, materials, light, cameras and steps; the score is the subject's alone, with guidance."""
    recipe = RECIPES["texturedreamer"].build("toybox", run.setting.effort)
    assert isinstance(recipe, TextureRecipe)
    stage, placed, backbone = recipe.stage, place_mesh(mesh), run.setting.backbone
    stage = stage if steps is None else stage.with_steps(steps)
    stage = dataclasses.replace(stage, fit=dataclasses.replace(stage.fit, seed=run.seed))
    artifact, materials = Artifact.load(run.subject), stage.materials.build(Bounds(), run.seed)
    with artifact.applied(backbone):
        score = DistillationConfig(guidance_scale=20.0)
        guidance = build_guidance(backbone, artifact.concept.prompt(PROMPT), score, words=recipe.words)
        for _ in learn_texture(TextureLoss(materials, placed.surface, stage, guidance, backbone)):
            pass
    return baked(placed, materials, TextureConfig())


@torch.no_grad()
def _painted(run: Made, mesh: Any) -> dict[str, float]:
    """Likeness of four views to all references, as the paper has it, by two encoders."""
    truth, judges = true_toy(run.toy, views=4), run.setting.judges
    shown = in_place(*mesh_pictures(mesh, ring(4), truth.masks.shape[1]), truth.scenery)
    true = novel_views(run.name, 16, generator_for("threed systems", run.name)).images
    found = {}
    for name, judge in (("likeness", judges.dino), ("clip-likeness", judges.clip)):
        assert judge is not None
        found[name] = float((judge.encode_images(shown) @ judge.encode_images(true).T).mean())
    return found


def _tip_editor(run: Made) -> Measures:
    """The subject comes into a box beside another toy, whose field is fitted to true views; the box is measured."""
    other = next(name for name in SUBJECTS if name != run.name)
    scene, noun = _fitted_scene(run, other), class_noun(other)
    recipe = RECIPES["tip-editor"].build("toybox", run.setting.effort)
    assert isinstance(recipe, EditRecipe)
    if run.setting.quick:
        recipe = recipe.with_steps(_STEPS)
    alone = dataclasses.replace(recipe, stage=dataclasses.replace(recipe.stage, share=(1.0, 1.0)))
    found: Measures = {}
    for column, one in (("tip-editor", recipe), ("score of the whole scene alone", alone)):
        file = run.folder / column.replace(" ", "-")
        write_json(file.with_suffix(".json"), one)
        options = EditOptions(box=BOX, config=file.with_suffix(".json"), content_prompt=f"{PROMPT} {_PLAIN}",
                              seed=run.seed, device="cpu", overwrite=True)  # fmt: skip
        start = time.perf_counter()
        edited = edited_splats(scene, run.subject, f"a photo of a {noun} and {{subject}} {_PLAIN}",
                             file.with_suffix(".work"), options, run.setting.reporter)  # fmt: skip
        found[column] = {**_content(run, edited), "seconds": time.perf_counter() - start}
    return found


def _fitted_scene(run: Made, name: str) -> Path:
    """A finished job whose field shows a toy as it is."""
    work = WorkFolder(run.folder / "scene.work", {"true": name})
    if not (work.path / "field" / "field").is_dir():
        truth, settings = true_toy(SUBJECTS[name]), FieldConfig()
        field = settings.build()
        fit = FitConfig(steps=_STEPS if run.setting.quick else 400, lr_schedule="cosine", max_gradient_norm=None)
        for _ in fit_field(field, truth.cameras, truth.images, FieldFitConfig(fit=fit)):
            pass
        save_field(field, settings, work.path / "field" / "field")
    prompt = f"a photo of a {class_noun(name)} {_PLAIN}"
    work.finish(Result(field="field/field", mesh=MeshConfig(resolution=64, relative=0.5), prompt=prompt))
    return work.path


@torch.no_grad()
def _content(run: Made, edited: EditedSplats) -> dict[str, float]:
    """Of the box's content alone, from all around in a plain place: likeness to the subject, class read as its own."""
    truth, judges, views = true_toy(run.toy, views=8), run.setting.judges, 8
    cameras = ring(views, target=BOX.middle, distance=5.2 * BOX.half / edited.bounds.half)
    shown = in_place(*pictures(edited.content, cameras, truth.masks.shape[1]), truth.scenery)
    assert judges.dino is not None
    assert judges.attributes is not None
    true = novel_views(run.name, 16, generator_for("threed systems", run.name)).images
    alike = judges.dino.encode_images(shown) @ judges.dino.encode_images(true).T
    kinds = [entry["class"] == run.toy.class_name for entry in judges.attributes(shown)]
    return {"likeness": float(alike.mean()), "class-right": statistics.fmean(kinds)}


WAYS: dict[str, Callable[[Made], Measures]] = {
    "naive": _naive,
    "dreambooth3d": _dreambooth3d,
    "prolificdreamer": _prolificdreamer,
    "mvdream": _mvdream,
    "magic3d": _magic3d,
    "consist3d": _consist3d,
    "texturedreamer": _texturedreamer,
    "tip-editor": _tip_editor,
}
"""What is made of a learned subject, and the columns that come of it."""
_PAIR = ("naive", "dreambooth3d")
