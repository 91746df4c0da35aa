"""`3d make` end to end on a tiny random model: every stage, refusals."""

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pcs_ext.config_io import from_jsonable, read_json, to_jsonable, write_json
from pcs_ext.errors import ArtifactError, CheckpointError, ConfigError, InputError, ResourceError, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.learn import learn
from pcs_ext.image.subject import Artifact
from pcs_ext.threed.distillation import DistillationConfig
from pcs_ext.threed.export import export_3d, render_3d
from pcs_ext.threed.field_config import FieldConfig
from pcs_ext.threed.make import Made, make_3d
from pcs_ext.threed.mesh import read_mesh
from pcs_ext.threed.recipes import (
    RECIPES,
    AnimateRecipe,
    EditRecipe,
    GeneratorRecipe,
    PhotosTo3dRecipe,
    PosedRecipe,
    Recipe3d,
    TextureRecipe,
)
from pcs_ext.threed.recipes.stages import placed, score
from pcs_ext.threed.request import MakeOptions, read_request, resolve_recipe_3d
from pcs_ext.threed.view_prompts import ViewWords
from pcs_ext.threed.view_sets import draw_views
from pcs_ext.threed.work import WorkFolder
from tests.support.small_jobs import HERE, PROMPT, Learned, make, relearn, small, small_recipe, stage


@pytest.mark.parametrize("effort", ["fast", "balanced", "paper"])
@pytest.mark.parametrize("preset", ["toybox", "sd", "sdxl"])
def test_every_recipe_builds_and_survives_json(preset: Any, effort: Any, tmp_path: Path) -> None:
    for entry in RECIPES.values():
        recipe = entry.build(preset, effort)
        recipe.validate()
        assert recipe.id == entry.id
        write_json(tmp_path / "recipe.json", recipe)
        kind = (
            type(recipe)
            if isinstance(recipe, (TextureRecipe, EditRecipe, AnimateRecipe, PosedRecipe, GeneratorRecipe))
            else Recipe3d
        )
        assert from_jsonable(kind, read_json(tmp_path / "recipe.json"), where="the file") == recipe
        assert to_jsonable(recipe.with_steps(10)) != to_jsonable(recipe)


def test_only_toybox_is_told_its_place_and_keeps_its_noise() -> None:
    said = ViewWords(front_angle=33.0)
    assert placed(said, "sd") == said
    assert placed(said, "toybox") == ViewWords(
        front=" on a plain background, front view",
        side=" on a plain background, side view",
        back=" on a plain background, back view",
        overhead=" on a plain background, overhead view",
        front_angle=33.0,
    )
    assert score("sd") == DistillationConfig(guidance_scale=101.0)
    kept = score("toybox", highest=0.5)
    assert kept.noise == "kept"
    assert kept.timesteps.bounds(0.0) == (0.5, 0.5)
    assert kept.timesteps.bounds(1.0)[1] < 0.2


@pytest.fixture(scope="module")
def left_alone(learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A DreamBooth3D job that nothing disturbed."""
    return make(learned, tmp_path_factory.mktemp("alone"), "dreambooth3d", previews=3)


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
    with pytest.raises(UsageError, match="no multi-view adapter ships for .*--multiview FOLDER"):
        make(learned, tmp_path, "mvdream")
    made = make(learned, tmp_path, "mvdream", multiview=learned.multiview, colors="vertex")
    assert made.mesh.volume > 0
    assert not (made.work / "subject").exists(), "without photos the subject is taken as it was learned"


def test_a_subject_is_drawn_from_four_sides_together(learned: Learned, tmp_path: Path) -> None:
    given: dict[str, Any] = {"device": "cpu", "precision": "fp32", "steps": 2}
    with pytest.raises(UsageError, match="no multi-view adapter ships for"):
        draw_views(learned.subject, PROMPT, tmp_path / "views.png", **given)
    draw_views(learned.subject, PROMPT, tmp_path / "views.png", seeds=(0, 1), multiview=learned.multiview, **given)
    with Image.open(tmp_path / "views.png") as drawn:
        assert drawn.size == (4 * 32, 2 * 32)
        rows = [drawn.crop((0, top, 128, top + 32)).tobytes() for top in (0, 32)]
    assert rows[0] != rows[1]
    with pytest.raises(UsageError, match="one or more seeds"):
        draw_views(learned.subject, PROMPT, tmp_path / "more.png", seeds=(), multiview=learned.multiview, **given)


def test_mvdream_learns_the_subject_anew_held_by_the_drift_of_its_weights(learned: Learned, tmp_path: Path) -> None:
    given: dict[str, Any] = {"multiview": learned.multiview, "photos": learned.photos}
    distances = []
    for weight in (0.0, 1000.0):
        folder = tmp_path / str(weight)
        folder.mkdir()
        recipe = dataclasses.replace(small_recipe("mvdream"), relearn=relearn(drift_weight=weight))
        write_json(folder / "recipe.json", recipe)
        made = make(learned, folder, "mvdream", config=folder / "recipe.json", **given)
        again = Artifact.load(made.work / "subject")
        assert again.data.recipe["id"] == "mvdream-dreambooth"
        whole = again.data.tensors_of("denoiser")
        base = load_backbone(again.data.base_name, device="cpu", precision="fp32")
        start = dict(base.denoiser.named_parameters())
        moved = [(value - start[key.removeprefix("denoiser.")]).abs().sum() for key, value in whole.items()]
        distances.append(float(sum(moved)))
    assert 0 < distances[1] < 0.8 * distances[0]


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
    with pytest.raises(UsageError, match="ends in glb, obj, ply, usdz"):
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


def test_what_is_in_the_way_beside_the_output_is_told_before_any_work(learned: Learned, tmp_path: Path) -> None:
    for beside, name in (("a.html", "a.glb"), ("b.mtl", "b.obj"), ("c.png", "c.obj")):
        (tmp_path / beside).write_bytes(b"mine")
        with pytest.raises(UsageError, match=f"{beside} exists already"):
            make_3d(learned.subject, PROMPT, tmp_path / name, MakeOptions(method="dreamfusion", viewer=True))
    # A job of which only that file is in the way would be refused for another reason without it.
    with pytest.raises(ArtifactError):
        make_3d(tmp_path, PROMPT, tmp_path / "a.glb", MakeOptions(method="dreamfusion"))
    assert {path.name for path in tmp_path.iterdir()} == {"a.html", "b.mtl", "c.png"}


def test_models_go_on_from_their_own_kind_alone(learned: Learned, tmp_path: Path) -> None:
    artifact = Artifact.load(learned.subject)
    settings = {"noun": "dog", "output": tmp_path / "new", "base": artifact.data.base_name, "start": artifact}
    with pytest.raises(ArtifactError, match="expected those of recipe textual-inversion"):
        learn(learned.photos, recipe="textual-inversion", device="cpu", precision="fp32", **settings)


def test_a_job_is_of_its_photos_masks_and_captions(learned: Learned, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(learned.photos, photos)
    options = MakeOptions(config=small("dreambooth3d", tmp_path), photos=photos, **HERE)

    def identity() -> dict[str, Any]:
        request = read_request(learned.subject, PROMPT, options)
        backbone = load_backbone(request.base, **HERE)
        assert isinstance(backbone, AbstractUnetBackbone)
        return request.identity(backbone)

    before = identity()
    assert identity() == before
    Image.new("L", (40, 40), 255).save(photos / "0_mask.png")
    with_other_mask = identity()
    assert with_other_mask != before
    (photos / "1.txt").write_text("a photo of {subject} at night")
    assert identity() != with_other_mask


@pytest.mark.parametrize("library", ["trimesh", "skimage", "xatlas"])
def test_what_is_missing_is_told_before_anything_is_learned(
    learned: Learned, tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ResourceError, match=library if library != "skimage" else "scikit-image"):
        make(learned, tmp_path, "dreamfusion", colors="xatlas")
    assert not (tmp_path / "rex.glb.work").exists()


def test_a_texture_in_a_ply_is_refused_before_anything_is_learned(learned: Learned, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="would lose the texture"):
        make(learned, tmp_path, "dreamfusion", colors="grid", output=tmp_path / "rex.ply")
    assert not (tmp_path / "rex.ply.work").exists()


def test_json_of_another_shape_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"deep\.json is nested too deeply"):
        resolve_recipe_3d("dreamfusion", "toybox", "fast", config=tmp_path / "deep.json")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "request.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"request\.json is damaged; move the folder away"):
        WorkFolder(tmp_path / "work", {"prompt": "a dog"})
