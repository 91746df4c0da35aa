"""Boxes, edited splats, the loss that says where, and `3d edit` end to end on a tiny model."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh
from PIL import Image
from safetensors.torch import load_file

from pcs_ext.config_io import write_json
from pcs_ext.errors import CheckpointError, ConfigError, UsageError
from pcs_ext.image.attention import attention_program
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES as IMAGE_RECIPES
from pcs_ext.threed.box import Box
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.distillation import DistillationConfig
from pcs_ext.threed.edit_job import edit_3d
from pcs_ext.threed.edit_refine import RefineConfig
from pcs_ext.threed.edit_request import EditOptions
from pcs_ext.threed.edit_stage import EditLoss, EditStage, edit_splats
from pcs_ext.threed.edited_splats import EditedConfig, EditedSplats, Pruning, load_edited
from pcs_ext.threed.export import export_3d, render_3d
from pcs_ext.threed.field_config import FieldConfig, save_field
from pcs_ext.threed.fields import Blob
from pcs_ext.threed.guidance import ScoreGuidance
from pcs_ext.threed.localization import LocalizationConfig, SceneLoss, SceneUpdates, localization_loss
from pcs_ext.threed.make import Made
from pcs_ext.threed.mesh import MeshConfig, read_mesh
from pcs_ext.threed.mesh_views import render_mesh
from pcs_ext.threed.recipes import EditRecipe
from pcs_ext.threed.splat_fit import SplatFit
from pcs_ext.threed.splat_render import render_splats
from pcs_ext.threed.splats import SplatRates, Splats, SplatsConfig, load_splats
from pcs_ext.threed.work import Result, WorkFolder
from tests.support.gaussian import GaussianBackbone
from tests.support.tiny import tiny_folder

BOX = Box(low=(-0.4, -0.4, 1.0), high=(0.4, 0.4, 1.6))
SCENE = FieldConfig(resolution=16, blob=Blob(height=40.0, radius=0.5))
PROMPT = "a photo of a cat on {subject}"


def ball(count: int = 120) -> Splats:
    """Splats all over a ball about (0, 0, 0.75) that reaches into the box."""
    splats = Splats(SplatsConfig(count=count))
    place = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        splats.places.copy_(torch.nn.functional.normalize(place, dim=1) * 0.6 + torch.tensor([0.0, 0.0, 0.75]))
        splats.raw_colors.copy_(place)
        splats.raw_opacities.fill_(2.0)
    return splats


def edited(mode: Any = "add", count: int = 50) -> EditedSplats:
    """A ball and a box on top of it."""
    scene = ball()
    content = SplatsConfig(count=count)
    splats = EditedSplats(EditedConfig(scene=scene.settings, content=content, box=BOX, mode=mode))
    splats.begin(scene, -4.5, 0)
    return splats


def test_a_box_is_seen_where_it_is() -> None:
    points = torch.tensor([[0.0, 0, 1.3], [0.4, 0.4, 1.6], [0, 0, 0.9], [0.5, 0, 1.3]])
    assert BOX.contains(points).tolist() == [True, True, False, False]
    mesh = trimesh.creation.box(bounds=[BOX.low, BOX.high])
    cameras = ring(4, elevation=25.0)
    seen = render_mesh(mesh, cameras, 48, 48, background=1.0, lit=False).mean(1) < 0.85
    masks = BOX.masks(cameras, 48).bool()
    assert masks.sum() > 100
    assert (seen == masks).float().mean() > 0.97
    with pytest.raises(ConfigError, match="its low corner first"):
        Box(low=(0, 0, 0), high=(1, -1, 1))


def test_the_content_begins_in_the_box_nearly_transparent_and_the_scene_stays() -> None:
    scene, field, replaced = ball(), edited(), edited("replace")
    inside = BOX.contains(scene.places)
    copied = int(inside.sum())
    assert 5 < copied < 50
    for splats in (field, replaced):
        assert BOX.contains(splats.content.places).all()
        assert (torch.sigmoid(splats.content.raw_opacities) < 0.012).all()
        begun = {tuple(place) for place in splats.content.places.tolist()}
        assert {tuple(place) for place in scene.places[inside].tolist()} <= begun
        kept = splats.scene.alive
        for name, value in scene.state_dict().items():
            assert torch.equal(value[kept], splats.scene.state_dict()[name][kept])
    assert field.scene.alive.all()
    assert torch.equal(replaced.scene.alive, ~inside)
    assert len(edited(count=3).content.places) == 3
    outside = torch.tensor([[0.0, -0.55, 0.5], [0.55, 0.0, 0.5], [0.0, 0.5, 0.4]])
    torch.testing.assert_close(field.query(outside).density, scene.query(outside).density)
    # Where the content is seen: nowhere but through the box.
    cameras = ring(3)
    share = render_splats(field.marked(), cameras, 32, 32, background=0.0).rgb
    assert 0 < float(share.detach().max()) < 0.5
    assert float(share.detach()[..., -8:, :].max()) == 0  # below the box


def test_splats_that_leave_grow_or_fade_are_pruned() -> None:
    splats = edited()
    with torch.no_grad():
        splats.content.log_scales.fill_(-3.0)
        splats.content.places[0, 2] += 2.0
        splats.content.log_scales[1, 1] = 0.0
        splats.content.raw_opacities[2] = -12.0
    splats.prune(Pruning())
    assert splats.content.alive.tolist() == [False] * 3 + [True] * 47
    assert len(splats.content.cloud()) == 47
    with torch.no_grad():
        splats.content.raw_opacities.fill_(-12.0)
        splats.content.places[3, 2] += 2.0
    splats.prune(Pruning())
    assert splats.content.alive.tolist() == [False] * 4 + [True] * 46  # an empty box could not learn


STAGE = EditStage(
    count=40,
    pruning=Pruning(every=2),
    fit=FitConfig(steps=4, optimizer="adam", checkpoint_every_steps=1, checkpoint_every_seconds=None),
    guidance=dataclasses.replace(EditStage(fit=FitConfig(steps=1)).guidance, guidance_scale=1.0),
    side=16,
)
PICTURES = SplatFit(fit=dataclasses.replace(STAGE.fit, steps=3), count=60, side=16, views=3)


def test_only_the_content_learns_and_shares_move() -> None:
    splats, backbone = edited(), GaussianBackbone(mean=0.3)
    guidance = [ScoreGuidance(backbone, "a", DistillationConfig(guidance_scale=1.0)) for _ in range(2)]
    loss = EditLoss(splats, STAGE, guidance[0], guidance[1])
    assert loss.close.target == BOX.middle
    assert loss.close.distance == pytest.approx((4.6 * 0.4 / 1.5, 5.8 * 0.4 / 1.5))
    before = {name: value.clone() for name, value in splats.state_dict().items()}
    terms = loss(0, 0, torch.Generator().manual_seed(0)).terms
    assert set(terms) == {"scene/score", "content/score"}
    for _ in edit_splats(loss):
        pass
    for name, value in splats.state_dict().items():
        assert torch.equal(value, before[name]) == (name.startswith("scene.") or name == "content.alive"), name
    # The same draws with all of the weight on one side.
    sides = [dataclasses.replace(STAGE, share=(share, share)) for share in (1.0, 0.0)]
    whole, alone = (
        EditLoss(splats, side, guidance[0], guidance[1])(0, 0, torch.Generator().manual_seed(0)).terms for side in sides
    )
    assert float(whole["content/score"].detach()) == 0
    assert float(alone["scene/score"].detach()) == 0


def test_a_score_that_wants_a_color_paints_the_box_and_nothing_else() -> None:
    splats, backbone = edited(count=300), GaussianBackbone(mean=-1.0)  # of pictures that are black
    guidance = ScoreGuidance(backbone, "a", DistillationConfig(guidance_scale=1.0))
    rates = SplatRates(place=1e-3, color=0.1, opacity=0.3, scale=0.01, turn=0.01)
    stage = dataclasses.replace(STAGE, share=(0.5, 0.5), rates=rates, fit=dataclasses.replace(STAGE.fit, steps=60))
    for _ in edit_splats(EditLoss(splats, stage, guidance, guidance)):
        pass
    with torch.no_grad():
        cameras = ring(3)
        before, after = (render_splats(cloud, cameras, 24, 24).rgb for cloud in (splats.scene.cloud(), splats.cloud()))
        seen = render_splats(splats.marked(), cameras, 24, 24, background=0.0).rgb[:, 0]
        assert (seen > 0.5).sum() > 20
        assert after.mean(1)[seen > 0.5].mean() < 0.3 < before.mean(1)[seen > 0.5].mean()
        torch.testing.assert_close(after.mean(1)[seen < 1e-4], before.mean(1)[seen < 1e-4], atol=1e-3, rtol=0)


def test_the_loss_says_where() -> None:
    settings = LocalizationConfig(fit=FitConfig(steps=1), outside=0.1, inside=1.0)
    mask = torch.zeros(1, 4, 4)
    mask[:, :2] = 1
    word = torch.zeros(1, 3, 4, 4)
    word[:, 0] = 0.5
    there, away = word.clone(), word.clone()
    there[:, 1, :2], away[:, 1, 2:] = 1.0, 1.0
    assert float(localization_loss(there, (1,), mask, settings)) == pytest.approx(0.0, abs=1e-6)
    assert float(localization_loss(away, (1,), mask, settings)) == pytest.approx(1.1, abs=1e-6)
    assert float(localization_loss(away, (1,), mask * 0, settings)) == pytest.approx(0.05, abs=1e-6)
    maps = torch.rand(2, 3, 4, 4, dtype=torch.float64).mul(0.02).requires_grad_()
    masks = mask.expand(2, -1, -1).double()
    assert torch.autograd.gradcheck(lambda m: localization_loss(m, (1, 2), masks, settings), (maps,))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> AbstractUnetBackbone:
    return load_backbone(str(tiny_folder(tmp_path_factory.mktemp("tiny") / "base")), device="cpu", precision="fp32")


def test_attention_moves_into_the_box_and_leaves_no_trace(base: AbstractUnetBackbone) -> None:
    settings = LocalizationConfig(fit=FitConfig(steps=40, optimizer="adam"), learning_rate=2e-2, side=8, views=4)
    cameras = ring(4)
    pictures = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    loss = SceneLoss(base, pictures, cameras, BOX, "a photo of a dog", "a photo of a dog in hat", "hat", settings)
    updates = SceneUpdates(base, settings)
    before = {name: value.clone() for name, value in base.denoiser.state_dict().items()}

    def place() -> float:
        with torch.no_grad():
            draws = [loss(1, 0, torch.Generator().manual_seed(seed)).terms["place"] for seed in range(6)]
        return float(torch.stack(draws).mean())

    start = place()
    with updates.applied(training=True):
        for _ in fit(loss, updates.groups(), settings.fit):
            pass
        end = place()
    assert end < start - 0.05, (start, end)
    after = base.denoiser.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    with pytest.raises(UsageError, match="does not stand in the prompt"):
        SceneLoss(base, pictures, cameras, BOX, "a dog", "a photo of a dog", "hat", settings)


def test_attention_is_held_where_maps_are_of_that_side_alone(base: AbstractUnetBackbone) -> None:
    settings, found = LocalizationConfig(fit=FitConfig(steps=2), side=8, views=1), []

    def keep(path: str, probabilities: torch.Tensor) -> torch.Tensor:
        if probabilities.shape[2] == 8 * 8:
            found.append(probabilities.mean(1).mT.unflatten(2, (8, 8)))
        return probabilities

    loss = SceneLoss(base, torch.zeros(1, 3, 32, 32), ring(1), BOX, "a dog", "a dog in hat", "hat", settings)
    with torch.no_grad(), attention_program(base, keep):
        place = loss(1, 0, torch.Generator().manual_seed(0)).terms["place"]
    assert len(found) == 3  # of seven: the others are of 4 cells per side
    masks = torch.nn.functional.avg_pool2d(BOX.masks(ring(1), 32), 4)
    expected = localization_loss(torch.stack(found).mean(0), loss.words, masks, settings)
    torch.testing.assert_close(place, expected)


@pytest.fixture(scope="module")
def subject(base: AbstractUnetBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subject of noise on the tiny base."""
    folder = tmp_path_factory.mktemp("subject")
    (folder / "photos").mkdir()
    Image.effect_noise((40, 40), 60).convert("RGB").save(folder / "photos" / "0.png")
    recipe = IMAGE_RECIPES["dreambooth-lora"].build("dog", "toybox")
    phase = dataclasses.replace(recipe.phases[0], batch_size=1, objective=type(recipe.phases[0].objective)())
    recipe = dataclasses.replace(recipe, class_images=0, phases=(phase,)).with_steps(3)
    learn(folder / "photos", noun="dog", output=folder / "rex", recipe=recipe, base=base)
    return folder / "rex"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job: a ball."""
    work = WorkFolder(tmp_path_factory.mktemp("scene") / "ball.glb.work", {"what": "ball"})
    save_field(SCENE.build(), SCENE, work.path / "field" / "field")
    work.finish(Result(field="field/field", mesh=MeshConfig(resolution=24, relative=0.5), prompt="a photo of a cat"))
    return work.path


def make(scene: Path, subject: Path, tmp_path: Path, name: str = "out.glb", **changes: Any) -> Made:
    """`edit_3d` of a small recipe."""
    place = LocalizationConfig(fit=FitConfig(steps=3, checkpoint_every_steps=1), side=8, views=3)
    refine = RefineConfig(pictures=PICTURES, strength=0.3)
    recipe = EditRecipe(id="tip-editor", scene=PICTURES, place=place, stage=STAGE, refine=refine)
    write_json(tmp_path / "recipe.json", recipe)
    settings = {"box": BOX, "config": tmp_path / "recipe.json", "device": "cpu", "precision": "fp32", **changes}
    return edit_3d(scene, subject, PROMPT, tmp_path / name, EditOptions(**settings))


def test_an_edit_keeps_the_scene_and_goes_on_after_a_stop(
    scene: Path, subject: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(scene, subject, tmp_path, previews=4)
    kept = load_splats(whole.work / "scene" / "splats").state_dict()
    edit, refined = (load_edited(whole.work / stage / "edited") for stage in ("edit", "refine"))
    for splats in (edit, refined):
        assert all(torch.equal(value, splats.scene.state_dict()[name]) for name, value in kept.items())
    assert not torch.equal(edit.content.raw_colors, refined.content.raw_colors)
    assert read_mesh(whole.files[0]).volume > 0
    assert (whole.work / "previews" / "edit-000004.png").is_file()
    render_3d(whole.work, tmp_path / "sheet.png", frames=2, side=24)
    export_3d(whole.work, tmp_path / "splats.ply", splats=True)
    alive = sum(int(part.alive.sum()) for part in refined.parts())
    assert f"element vertex {alive}\n".encode() in (tmp_path / "splats.ply").read_bytes()
    with pytest.raises(UsageError, match="written as they were learned"):
        export_3d(whole.work, tmp_path / "other.ply", splats=True, resolution=20)
    with pytest.raises(UsageError, match="holds a surface or an edited scene"):
        make(whole.work, subject, tmp_path, "twice.glb")

    def stopping(loss: EditLoss, **settings: Any) -> Iterator[Any]:
        for state in edit_splats(loss, **settings):
            yield state
            if state.step == 2:
                raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("pcs_ext.threed.edit_job.edit_splats", stopping)
        with pytest.raises(MemoryError):
            make(scene, subject, tmp_path, "parts.glb")
    make(scene, subject, tmp_path, "parts.glb")
    first, second = (
        load_file(tmp_path / f"{name}.glb.work" / "refine" / "edited" / "edited.safetensors")
        for name in ("out", "parts")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    with pytest.raises(CheckpointError, match="another mode"):
        make(scene, subject, tmp_path, overwrite=True, mode="replace")


def test_wrong_edits_are_refused(scene: Path, subject: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leaves the scene's cube"):
        make(scene, subject, tmp_path, box=Box(low=(0, 0, 0), high=(1, 1, 3)))
    with pytest.raises(UsageError, match="does not say where the subject goes"):
        edit_3d(scene, subject, "a hat", tmp_path / "a.glb", EditOptions(box=BOX))
    with pytest.raises(ConfigError, match="single views"):
        dataclasses.replace(STAGE, plain=2.0)
    assert not list(tmp_path.glob("*.work"))
