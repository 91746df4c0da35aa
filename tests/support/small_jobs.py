"""Every 3D job at a size of seconds: subjects of noise on a tiny base, recipes of a few steps with every term on."""

import dataclasses
from pathlib import Path
from typing import Any

import trimesh
from PIL import Image, ImageDraw

from pcs_ext.config_io import write_json
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES as IMAGE_RECIPES
from pcs_ext.image.recipes import Recipe
from pcs_ext.reporter import Reporter
from pcs_ext.threed.body_template import HEAD
from pcs_ext.threed.box import Box
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.distillation import RECONSTRUCTION, SJC, DistillationConfig
from pcs_ext.threed.edit_job import edit_3d
from pcs_ext.threed.edit_refine import RefineConfig
from pcs_ext.threed.edit_request import EditOptions
from pcs_ext.threed.edit_stage import EditStage
from pcs_ext.threed.field_config import FieldConfig, save_field
from pcs_ext.threed.field_stage import CloseUps, FieldStage, Penalties, Reconstruction
from pcs_ext.threed.fields import Blob
from pcs_ext.threed.guidance import SingleViews
from pcs_ext.threed.known_view import KnownView
from pcs_ext.threed.lighting import Lighting
from pcs_ext.threed.localization import LocalizationConfig
from pcs_ext.threed.make import Made, make_3d
from pcs_ext.threed.materials import MaterialConfig
from pcs_ext.threed.mesh import MeshConfig, write_mesh
from pcs_ext.threed.multiview import MultiViewAdapter
from pcs_ext.threed.pseudo_views import PseudoViewConfig
from pcs_ext.threed.recipes import (
    AnyRecipe3d,
    AvatarTo3dRecipe,
    EditRecipe,
    PhotosTo3dRecipe,
    PhotoTo3dRecipe,
    RefinedTo3dRecipe,
    SeenTo3dRecipe,
    TextTo3dRecipe,
    TextureRecipe,
)
from pcs_ext.threed.relearn import RelearnConfig
from pcs_ext.threed.request import MakeOptions
from pcs_ext.threed.splat_fit import SplatFit
from pcs_ext.threed.surface import SurfaceConfig
from pcs_ext.threed.surface_stage import SurfaceStage
from pcs_ext.threed.texture_job import Textured, texture_3d
from pcs_ext.threed.texture_request import TextureOptions
from pcs_ext.threed.texture_stage import TextureStage
from pcs_ext.threed.turned_views import ShapeWordConfig, TurnConfig
from pcs_ext.threed.variational import VariationalConfig
from pcs_ext.threed.work import Result, WorkFolder
from tests.support.tiny import tiny_folder
from tests.support.tiny_views import tiny_controlnet, tiny_view_model

PROMPT = "a photo of {subject}"
MESH = MeshConfig(resolution=24, relative=0.5)
BOX = Box(low=(-0.4, -0.4, 1.0), high=(0.4, 0.4, 1.6))
SCENE = FieldConfig(resolution=16, blob=Blob(height=40.0, radius=0.5))
HERE: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


@dataclasses.dataclass(frozen=True)
class Learned:
    """What jobs start from, all on one tiny base."""

    subject: Path
    """Learned from two photos by dreambooth-lora."""
    photos: Path
    """Their folder; `0.png` has a mask."""
    word: Path
    """A subject learned from `0.png` alone by textual inversion."""
    multiview: Path
    """A fresh multi-view adapter."""
    view_model: Path
    """A view model of noise."""
    controlnet: Path
    """A ControlNet of noise."""
    mesh: Path
    """A ball."""
    scene: Path
    """A finished job: a ball."""

    @property
    def photo(self) -> Path:
        """The one that `word` was learned from."""
        return self.photos / "0.png"


def learn_small(folder: Path) -> Learned:
    """Make all of it."""
    photos = folder / "photos"
    photos.mkdir()
    for index in range(2):
        Image.effect_noise((40, 40), 60).convert("RGB").save(photos / f"{index}.png")
    mask = Image.new("L", (40, 40))
    ImageDraw.Draw(mask).ellipse((8, 8, 32, 32), fill=255)
    mask.save(photos / "0_mask.png")
    base = load_backbone(str(tiny_folder(folder / "tiny")), **HERE)
    assert isinstance(base, AbstractUnetBackbone)
    learn(photos, noun="dog", output=folder / "rex", recipe=_short("dreambooth-lora", 8), base=base)
    learn([photos / "0.png"], noun="dog", output=folder / "word", recipe=_short("textual-inversion", 4), base=base)
    MultiViewAdapter.of(base).save(folder / "multiview")
    tiny_view_model(base, folder).save(folder / "views")
    tiny_controlnet(base).save_pretrained(folder / "controlnet")
    write_mesh(trimesh.creation.icosphere(2, radius=40.0), folder / "ball.glb")
    work = WorkFolder(folder / "ball.glb.work", {"what": "ball"})
    save_field(SCENE.build(), SCENE, work.path / "field" / "field")
    work.finish(Result(field="field/field", mesh=MESH, prompt="a photo of a cat"))
    return Learned(
        subject=folder / "rex",
        photos=photos,
        word=folder / "word",
        multiview=folder / "multiview",
        view_model=folder / "views",
        controlnet=folder / "controlnet",
        mesh=folder / "ball.glb",
        scene=work.path,
    )


def _short(recipe: str, steps: int) -> Recipe:
    """A recipe of the core without class images, one photo and a few steps long."""
    whole = IMAGE_RECIPES[recipe].build("dog", "toybox")
    phase = dataclasses.replace(whole.phases[0], batch_size=1, objective=type(whole.phases[0].objective)())
    sampling = dataclasses.replace(whole.sampling, num_inference_steps=3, guidance_scale=1.0)
    return dataclasses.replace(whole, phases=(phase,), class_images=0, sampling=sampling).with_steps(steps)


def fit_of(steps: int, every: int = 1) -> FitConfig:
    """Steps that are saved every so many."""
    return FitConfig(steps=steps, optimizer="adam", checkpoint_every_steps=every, checkpoint_every_seconds=None)


def stage(steps: int, **changes: Any) -> FieldStage:
    """A stage of a second or less, with every term switched on."""
    return FieldStage(
        field=FieldConfig(resolution=12),
        fit=fit_of(steps, every=2),
        side=16,
        samples=12,
        lighting=Lighting(albedo_until=0.3),
        penalties=Penalties(opacity=1.0, entropy=1.0, orientation=1.0, distortion=1.0, variation=1.0),
        occupancy_every=3,
        **changes,
    )


def relearn(drift_weight: float = 1.0) -> RelearnConfig:
    """A subject learned anew in three steps."""
    return RelearnConfig(fit=fit_of(3), learning_rate=1e-3, batch_size=1, drift_weight=drift_weight)


def small_recipe(method: str) -> AnyRecipe3d:
    """A recipe of a second or less."""
    if method == "dreambooth3d":
        weak = Reconstruction(weight=0.1, rays_per_step=64)
        views = PseudoViewConfig(views=3)
        turning = DistillationConfig(noise="kept", harmonics=2)
        return PhotosTo3dRecipe(
            id=method, initial=stage(5, guidance=turning), pseudo=views, final=stage(6, reconstruction=weak), mesh=MESH
        )
    if method == "magic3d":
        surface = SurfaceConfig(cells=12, materials=MaterialConfig(resolution=10))
        fine = SurfaceStage(surface=surface, fit=fit_of(3), side=32, supersampling=1)
        return RefinedTo3dRecipe(id=method, coarse=stage(3), fine=fine, mesh=MESH)
    if method == "consist3d":
        word = ShapeWordConfig(fit=fit_of(4), learning_rate=1e-2, batch_size=2)
        turn = TurnConfig(azimuths=(-20.0, 15.0))
        return PhotoTo3dRecipe(id=method, turn=turn, shape_word=word, field=stage(4, guidance=SJC), mesh=MESH)
    if method == "avatarbooth":
        part = CloseUps(cameras=CameraLaw(distance=(1.4, 1.9), target=HEAD), share=0.5)
        body = dataclasses.replace(
            stage(6, close_ups=part), field=FieldConfig(kind="sdf", resolution=16, template="body")
        )
        body = dataclasses.replace(body, penalties=Penalties(eikonal=1.0, variation=1.0))
        return AvatarTo3dRecipe(id=method, field=body, mesh=MeshConfig(resolution=32, threshold=1000.0, relative=0.5))
    if method == "animate124-still":
        return SeenTo3dRecipe(id=method, field=stage(6, known=KnownView(first=2, every=3, side=16)), mesh=MESH)
    joint = method in ("mvdream", "dream-in-4d-still")
    changes: dict[str, Any] = {"guidance": VariationalConfig()} if method == "vsd" else {}
    if joint:
        changes = {"guidance": RECONSTRUCTION, "cameras": CameraLaw(views=4), "views_per_step": 4}
    anew = relearn() if method == "mvdream" else None
    single = SingleViews(farthest=145.0) if method == "dream-in-4d-still" else None
    return TextTo3dRecipe(
        id=method, joint=joint, relearn=anew, single=single, field=stage(3 if joint else 6, **changes), mesh=MESH
    )


def small(method: str, folder: Path) -> Path:
    """A small recipe of a method as a JSON file."""
    path = folder / f"{method}.json"
    write_json(path, small_recipe(method))
    return path


def make(learned: Learned, folder: Path, method: str, *, reporter: Reporter | None = None, **changes: Any) -> Made:
    """`make_3d` of the small recipe into `folder/rex.glb`."""
    settings: dict[str, Any] = {"config": small(method, folder), **HERE, **changes}
    prompt, output = settings.pop("prompt", PROMPT), settings.pop("output", folder / "rex.glb")
    subject = settings.pop("subject", learned.word if method == "consist3d" else learned.subject)
    if method == "avatarbooth":
        settings.setdefault("head", learned.word)
    if method in ("dreambooth3d", "consist3d", "animate124-still"):
        settings.setdefault("photos", learned.photos if method == "dreambooth3d" else learned.photo)
    return make_3d(subject, prompt, output, MakeOptions(**settings), reporter=reporter)


def paint(learned: Learned, folder: Path, *, reporter: Reporter | None = None) -> Textured:
    """`texture_3d` of a small recipe."""
    materials = MaterialConfig(kind="hash", resolution=32, learning_rate=0.01)
    painting = TextureStage(materials=materials, fit=fit_of(4), side=32, supersampling=1)
    write_json(folder / "texture.json", TextureRecipe(id="texturedreamer", stage=painting))
    options = TextureOptions(config=folder / "texture.json", **HERE)
    return texture_3d(learned.mesh, learned.subject, folder / "rex.glb", options, reporter=reporter)


def edit(learned: Learned, folder: Path, *, reporter: Reporter | None = None) -> Made:
    """`edit_3d` of a small recipe."""
    place = LocalizationConfig(fit=fit_of(3), side=8, views=3)
    score = DistillationConfig(guidance_scale=5.0, max_gradient=1.0)
    filling = EditStage(count=40, fit=fit_of(4), guidance=score, side=16)
    seen = SplatFit(fit=fit_of(4), count=60, side=16, views=3)
    recipe = EditRecipe(id="tip-editor", scene=seen, place=place, stage=filling, refine=RefineConfig(pictures=seen))
    write_json(folder / "edit.json", recipe)
    options = EditOptions(box=BOX, config=folder / "edit.json", **HERE)
    return edit_3d(learned.scene, learned.subject, "a photo of a cat on {subject}", folder / "rex.glb", options,
                   reporter=reporter)  # fmt: skip
