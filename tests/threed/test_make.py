"""`3d make` end to end on a tiny random model: every stage, kill and resume, refusals."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pcs_ext.config_io import from_jsonable, read_json, to_jsonable, write_json
from pcs_ext.errors import ArtifactError, CheckpointError, ConfigError, InputError, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES as IMAGE_RECIPES
from pcs_ext.image.subject import Artifact
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.distillation import RECONSTRUCTION
from pcs_ext.threed.export import export_3d, render_3d
from pcs_ext.threed.field_config import FieldConfig
from pcs_ext.threed.field_stage import FieldStage, Penalties, Reconstruction
from pcs_ext.threed.lighting import Lighting
from pcs_ext.threed.make import Made, make_3d
from pcs_ext.threed.materials import MaterialConfig
from pcs_ext.threed.mesh import MeshConfig, read_mesh
from pcs_ext.threed.multiview import MultiViewAdapter
from pcs_ext.threed.pseudo_views import PseudoViewConfig
from pcs_ext.threed.recipes import (
    RECIPES,
    EditRecipe,
    PhotosTo3dRecipe,
    Recipe3d,
    RefinedTo3dRecipe,
    TextTo3dRecipe,
    TextureRecipe,
)
from pcs_ext.threed.request import MakeOptions
from pcs_ext.threed.surface import SurfaceConfig
from pcs_ext.threed.surface_stage import SurfaceStage
from pcs_ext.threed.variational import VariationalConfig
from tests.support.tiny import tiny_folder

ROOT = Path(__file__).parents[2]
PROMPT = "a photo of {subject}"


@dataclasses.dataclass(frozen=True)
class Learned:
    """A subject on a tiny base, with the photos it was learned from."""

    subject: Path
    photos: Path


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    folder = tmp_path_factory.mktemp("learned")
    photos = folder / "photos"
    photos.mkdir()
    for index in range(2):
        Image.effect_noise((40, 40), 60).convert("RGB").save(photos / f"{index}.png")
    recipe = IMAGE_RECIPES["dreambooth-lora"].build("dog", "toybox")
    phase = dataclasses.replace(recipe.phases[0], batch_size=1, objective=type(recipe.phases[0].objective)())
    recipe = dataclasses.replace(
        recipe,
        phases=(phase,),
        class_images=0,
        sampling=dataclasses.replace(recipe.sampling, num_inference_steps=3, guidance_scale=1.0),
    ).with_steps(8)
    base = tiny_folder(folder / "tiny")
    learn(photos, noun="dog", output=folder / "rex", recipe=recipe, base=str(base), device="cpu", precision="fp32")
    return Learned(folder / "rex", photos)


def stage(steps: int, **changes: Any) -> FieldStage:
    """A stage of a second or less, with every term switched on."""
    return FieldStage(
        field=FieldConfig(resolution=12),
        fit=FitConfig(steps=steps, optimizer="adam", checkpoint_every_steps=2, checkpoint_every_seconds=None),
        side=16,
        samples=12,
        lighting=Lighting(albedo_until=0.3),
        penalties=Penalties(opacity=1.0, entropy=1.0, orientation=1.0, distortion=1.0, variation=1.0),
        occupancy_every=3,
        **changes,
    )


MESH = MeshConfig(resolution=24, relative=0.5)


def small(method: str, tmp_path: Path) -> Path:
    """A small recipe of a method as a JSON file."""
    if method == "dreambooth3d":
        recipe = PhotosTo3dRecipe(
            id=method,
            initial=stage(5),
            pseudo=PseudoViewConfig(views=3),
            final=stage(6, reconstruction=Reconstruction(weight=0.1, rays_per_step=64)),
            mesh=MESH,
        )
    elif method == "magic3d":
        fine = SurfaceStage(
            surface=SurfaceConfig(cells=12, materials=MaterialConfig(resolution=10)),
            fit=FitConfig(steps=3, optimizer="adam", checkpoint_every_steps=1, checkpoint_every_seconds=None),
            side=32,
            supersampling=1,
        )
        recipe = RefinedTo3dRecipe(id=method, coarse=stage(3), fine=fine, mesh=MESH)
    else:
        changes = {"guidance": VariationalConfig()} if method == "vsd" else {}
        if method == "mvdream":
            changes = {"guidance": RECONSTRUCTION, "cameras": CameraLaw(views=4), "views_per_step": 4}
        field = stage(3 if method == "mvdream" else 6, **changes)
        recipe = TextTo3dRecipe(id=method, joint=method == "mvdream", field=field, mesh=MESH)
    path = tmp_path / f"{method}.json"
    write_json(path, recipe)
    return path


def make(learned: Learned, tmp_path: Path, method: str, **changes: Any) -> Made:
    """`make_3d` of the small recipe."""
    settings = {"config": small(method, tmp_path), "device": "cpu", "precision": "fp32", **changes}
    prompt, output = settings.pop("prompt", PROMPT), settings.pop("output", tmp_path / "rex.glb")
    if method == "dreambooth3d":
        settings.setdefault("photos", learned.photos)
    return make_3d(learned.subject, prompt, output, MakeOptions(**settings))


@pytest.mark.parametrize("effort", ["fast", "balanced", "paper"])
@pytest.mark.parametrize("preset", ["toybox", "sd", "sdxl"])
def test_every_recipe_builds_and_survives_json(preset: Any, effort: Any, tmp_path: Path) -> None:
    for entry in RECIPES.values():
        recipe = entry.build(preset, effort)
        recipe.validate()
        assert recipe.id == entry.id
        write_json(tmp_path / "recipe.json", recipe)
        kind = type(recipe) if isinstance(recipe, (TextureRecipe, EditRecipe)) else Recipe3d
        assert from_jsonable(kind, read_json(tmp_path / "recipe.json"), where="the file") == recipe
        assert to_jsonable(recipe.with_steps(10)) != to_jsonable(recipe)


@pytest.fixture(scope="module")
def left_alone(learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A DreamBooth3D job that nothing disturbed, on one core as the killed one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = make(learned, tmp_path_factory.mktemp("alone"), "dreambooth3d", previews=3)
    torch.set_num_threads(threads)
    return made


def field_tensors(work: Path, stage: str) -> dict[str, torch.Tensor]:
    """What a stage's field holds."""
    return load_file(work / stage / "field" / "field.safetensors")


def test_dreambooth3d_leaves_a_mesh_and_all_stages(learned: Learned, left_alone: Made) -> None:
    work = left_alone.work
    names = {path.name for path in work.iterdir()}
    assert names == {
        *("request.json", "recipe.json", "result.json", "partial", "initial"),
        *("pseudo_views", "multiview", "final", "previews"),
    }
    assert (work / "pseudo_views" / "02.txt").read_text().startswith(PROMPT + ", ")
    previews = {path.name for path in (work / "previews").iterdir()}
    assert previews == {"initial-000003.png", "final-000003.png", "final-000006.png"}
    partial, multiview = (load_file(work / name / "adapter.safetensors") for name in ("partial", "multiview"))
    assert partial.keys() == multiview.keys()
    assert any(not torch.equal(partial[key], multiview[key]) for key in partial)
    initial, final = (field_tensors(work, stage) for stage in ("initial", "final"))
    assert not torch.equal(initial["density_grid"], final["density_grid"])
    assert read_mesh(left_alone.files[0]).volume > 0
    again = make(learned, work.parent, "dreambooth3d", overwrite=True)  # nothing is left to do but the mesh
    assert torch.equal(again.shape.state_dict()["density_grid"], final["density_grid"])


@pytest.mark.parametrize("method", ["dreamfusion", "vsd"])
def test_text_recipes_leave_a_mesh(learned: Learned, tmp_path: Path, method: str) -> None:
    made = make(learned, tmp_path, method, colors="vertex")
    assert made.mesh.is_watertight
    assert not (made.work / "field" / "checkpoints").exists()


def test_magic3d_refines_the_surface_of_its_field(learned: Learned, tmp_path: Path) -> None:
    made = make(learned, tmp_path, "magic3d", previews=3)
    assert {path.name for path in (made.work / "previews").iterdir()} == {"coarse-000003.png", "fine-000003.png"}
    mesh = read_mesh(made.files[0])
    assert mesh.visual.kind == "texture"
    assert len(mesh.faces) == len(made.mesh.faces)
    assert mesh.volume > 0
    stored = load_file(made.work / "fine" / "surface" / "surface.safetensors")
    assert torch.equal(stored["distances"], made.shape.state_dict()["distances"])
    export_3d(made.work, tmp_path / "again.ply")
    assert read_mesh(tmp_path / "again.ply").volume == pytest.approx(mesh.volume, rel=1e-4)
    render_3d(made.work, tmp_path / "sheet.png", frames=2, side=32)
    with pytest.raises(UsageError, match="leave out --resolution"):
        export_3d(made.work, tmp_path / "finer.glb", resolution=64)


def test_a_joint_recipe_takes_an_adapter_and_only_it(learned: Learned, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--multiview FOLDER"):
        make(learned, tmp_path, "mvdream")
    base = load_backbone(Artifact.load(learned.subject).data.base_name, device="cpu", precision="fp32")
    MultiViewAdapter.of(base).save(tmp_path / "adapter")
    made = make(learned, tmp_path, "mvdream", multiview=tmp_path / "adapter", colors="vertex")
    assert made.mesh.volume > 0


def killed(learned: Learned, tmp_path: Path, sign: Path) -> None:
    """Start the command in a process of its own and kill it as soon as a file or folder is there."""
    command = [
        sys.executable, "-m", "pcs_ext.cli", "3d", "make", str(learned.subject), PROMPT, "-o",
        str(tmp_path / "rex.glb"), "--config", str(small("dreambooth3d", tmp_path)), "--photos", str(learned.photos),
        "--device", "cpu", "--precision", "fp32", "--no-viewer",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not sign.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors


def test_a_killed_job_ends_like_one_left_alone(learned: Learned, tmp_path: Path, left_alone: Made) -> None:
    work = tmp_path / "rex.glb.work"
    killed(learned, tmp_path, work / "final" / "checkpoints" / "step-00000002")
    assert not (tmp_path / "rex.glb").exists()
    torch.set_num_threads(1)
    resumed = make(learned, tmp_path, "dreambooth3d")
    for stage_name in ("initial", "final"):
        expected, found = (field_tensors(folder, stage_name) for folder in (left_alone.work, work))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert (left_alone.mesh.vertices == resumed.mesh.vertices).all()


def test_wrong_requests_are_refused_before_anything_is_made(learned: Learned, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--photos FOLDER"):
        make(learned, tmp_path, "dreambooth3d", photos=())
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (40, 40)).save(other / "0.png")
    with pytest.raises(InputError, match=r"the 2 photos the subject was learned from \(0.png, 1.png\)"):
        make(learned, tmp_path, "dreambooth3d", photos=other)
    with pytest.raises(UsageError, match="takes no photos"):
        make(learned, tmp_path, "dreamfusion", photos=learned.photos)
    with pytest.raises(UsageError, match="ends in glb, obj, ply"):
        make(learned, tmp_path, "dreamfusion", output=tmp_path / "rex.fbx")
    with pytest.raises(UsageError, match="does not say where the subject goes"):
        make(learned, tmp_path, "dreamfusion", prompt="a dog")
    with pytest.raises(UsageError, match="takes no multi-view adapter"):
        make(learned, tmp_path, "dreamfusion", multiview=tmp_path)
    with pytest.raises(UsageError, match="expected one of dreamfusion, dreambooth3d, prolificdreamer, magic3d"):
        make_3d(learned.subject, PROMPT, tmp_path / "a.glb", MakeOptions(method="nerf"))
    assert not list(tmp_path.glob("*.work"))
    with pytest.raises(ConfigError, match="initial.field when the final stage starts there"):
        PhotosTo3dRecipe(
            id="x", initial=stage(2), final=dataclasses.replace(stage(2), field=FieldConfig(resolution=16))
        ).validate()


def test_a_work_folder_belongs_to_one_request(learned: Learned, tmp_path: Path) -> None:
    make(learned, tmp_path, "dreamfusion")
    with pytest.raises(UsageError, match="exists already"):
        make(learned, tmp_path, "dreamfusion")
    with pytest.raises(CheckpointError, match="a job with another prompt, seed"):
        make(learned, tmp_path, "dreamfusion", overwrite=True, seed=1, prompt="{subject} in snow")


def test_models_go_on_from_their_own_kind_alone(learned: Learned, tmp_path: Path) -> None:
    artifact = Artifact.load(learned.subject)
    settings = {"noun": "dog", "output": tmp_path / "new", "base": artifact.data.base_name, "start": artifact}
    with pytest.raises(ArtifactError, match="expected those of recipe textual-inversion"):
        learn(learned.photos, recipe="textual-inversion", device="cpu", precision="fp32", **settings)
