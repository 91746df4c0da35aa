"""Painting a mesh: the two scores against each other, ControlNets, and `3d texture` end to end on a tiny model."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from diffusers import ControlNetModel

from pcs_ext.cli import main
from pcs_ext.config_io import write_json
from pcs_ext.errors import CheckpointError, ConfigError, InputError, ModelError, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES as IMAGE_RECIPES
from pcs_ext.image.subject import Artifact
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.distillation import DistillationConfig, distilled_score, weight_of
from pcs_ext.threed.export import render_3d
from pcs_ext.threed.fields import Bounds
from pcs_ext.threed.geometry_control import GeometryControl, depth_pictures, normal_pictures
from pcs_ext.threed.materials import MaterialConfig
from pcs_ext.threed.mesh import read_mesh, write_mesh
from pcs_ext.threed.multiview import camera_numbers
from pcs_ext.threed.personalized import PersonalizedConfig, PersonalizedGuidance
from pcs_ext.threed.placed_mesh import place_mesh
from pcs_ext.threed.recipes import TextureRecipe
from pcs_ext.threed.request import resolve_recipe_3d
from pcs_ext.threed.texture import TextureConfig
from pcs_ext.threed.texture_job import Textured, baked, texture_3d
from pcs_ext.threed.texture_request import TextureOptions
from pcs_ext.threed.texture_stage import TextureLoss, TextureStage, geometry, learn_texture
from tests.support.tiny import tiny_folder

PROMPT = "a photo of {subject}"
STAGE = TextureStage(
    materials=MaterialConfig(resolution=10),
    fit=FitConfig(steps=4, optimizer="adam", checkpoint_every_steps=1, checkpoint_every_seconds=None),
    side=32,
    supersampling=1,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> AbstractUnetBackbone:
    return load_backbone(str(tiny_folder(tmp_path_factory.mktemp("tiny") / "base")), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def subject(base: AbstractUnetBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subject of noise on the tiny base."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("subject")
    (folder / "photos").mkdir()
    Image.effect_noise((40, 40), 60).convert("RGB").save(folder / "photos" / "0.png")
    recipe = IMAGE_RECIPES["dreambooth-lora"].build("dog", "toybox")
    recipe = dataclasses.replace(recipe, class_images=0, phases=(_plain(recipe.phases[0]),)).with_steps(3)
    learn(folder / "photos", noun="dog", output=folder / "rex", recipe=recipe, base=base)
    return folder / "rex"


def _plain(phase):
    return dataclasses.replace(phase, batch_size=1, objective=type(phase.objective)())


@pytest.fixture
def ball(tmp_path: Path) -> Path:
    """A ball far from the origin, in millimetres."""
    mesh = trimesh.creation.icosphere(2, radius=40.0)
    mesh.apply_translation([300.0, 20.0, -70.0])
    write_mesh(mesh, tmp_path / "ball.glb")
    return tmp_path / "ball.glb"


def controlled(base: AbstractUnetBackbone, seed: int = 0) -> ControlNetModel:
    """A ControlNet for the tiny base whose output layers are not zero."""
    torch.manual_seed(seed)
    network = ControlNetModel.from_unet(base.denoiser, conditioning_embedding_out_channels=(8, 8, 8, 8))
    with torch.no_grad():
        for layer in [*network.controlnet_down_blocks, network.controlnet_mid_block]:
            layer.weight.normal_(0, 0.2)
    return network


def test_the_score_is_the_difference_of_the_two_models(base: AbstractUnetBackbone, subject: Path) -> None:
    artifact, cameras = Artifact.load(subject), ring(2)
    guidance = PersonalizedGuidance(base, artifact, PROMPT, PersonalizedConfig())
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    t = torch.tensor([300, 700])
    before = {name: value.clone() for name, value in base.denoiser.state_dict().items()}
    plain_config = DistillationConfig(guidance_scale=1.0)
    with guidance.applied():
        _, said = guidance.plain(cameras)
        found = guidance.score(clean, t, noise, cameras, camera_numbers(cameras), said)
    after = base.denoiser.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    # By hand: the subject's SDS less the plain model's; a fresh embedding of cameras adds nothing.
    with torch.no_grad(), artifact.applied(base):
        words = base.encode_prompt([artifact.concept.prompt(PROMPT) + end for end in (", front view", ", back view")])
        with_subject = distilled_score(base, clean, t, noise, words, words, plain_config)
    with torch.no_grad():
        words = base.encode_prompt(["a photo of a dog, front view", "a photo of a dog, back view"])
        without = distilled_score(base, clean, t, noise, words, words, plain_config)
    torch.testing.assert_close(found, with_subject - without, rtol=1e-4, atol=1e-5)
    assert found.abs().max() > 0
    assert weight_of(base, t, clean, "sigma").shape == (2, 1, 1, 1)


def test_only_materials_and_the_cameras_embedding_train(base: AbstractUnetBackbone, subject: Path, ball: Path) -> None:
    placed = place_mesh(ball)
    materials = STAGE.materials.build(Bounds())
    guidance = PersonalizedGuidance(base, Artifact.load(subject), PROMPT, STAGE.guidance)
    start = materials.values.detach().clone()
    camera = [parameter.detach().clone() for parameter in guidance.camera.parameters()]
    for _ in learn_texture(TextureLoss(materials, placed.surface, STAGE, guidance, base)):
        pass
    assert not torch.equal(start, materials.values)
    assert any(not torch.equal(a, b) for a, b in zip(camera, guidance.camera.parameters(), strict=True))
    assert all(not parameter.requires_grad for parameter in base.denoiser.parameters())


def test_a_controlnet_adds_what_diffusers_adds(base: AbstractUnetBackbone) -> None:
    network = controlled(base)
    generator = torch.Generator().manual_seed(0)
    noisy, pictures = torch.randn(4, 4, 8, 8, generator=generator), torch.rand(2, 3, 64, 64, generator=generator)
    t = torch.tensor([10, 500, 900, 20])
    with torch.no_grad():
        words = base.encode_prompt(["a dog", "a cat"])[[0, 1, 1, 0]]
        plain = base.predict(noisy, t, words)
        with GeometryControl(network, "normal").showing(base, pictures):
            found = base.predict(noisy, t, words)
        down, mid = network(noisy, t, words.states, torch.cat([pictures] * 2), return_dict=False)
        expected = base.denoiser(
            noisy, t, words.states, down_block_additional_residuals=tuple(down), mid_block_additional_residual=mid
        ).sample
        again = base.predict(noisy, t, words)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - plain).abs().max() > 1e-3
    assert torch.equal(again, plain)
    three = GeometryControl(network, "normal").showing(base, torch.rand(3, 3, 64, 64))
    with three, pytest.raises(UsageError, match="a multiple of 3 rows, got 4"):
        base.predict(noisy, t, words)


def test_pictures_of_geometry_say_what_is_where(ball: Path) -> None:
    mesh, cameras = place_mesh(ball).surface, ring(2, elevation=0.0)
    seen = geometry(mesh, mesh.vertex_normals(), cameras, 32)
    covered = torch.stack([view.covered for view in seen])
    normals = torch.zeros(2, 32, 32, 3)
    normals[covered] = torch.cat([view.normals for view in seen])
    shown = normal_pictures(normals, covered, cameras)
    left, middle, top = shown[:, :, 16, 9], shown[:, :, 16, 16], shown[:, :, 7, 16]
    assert (left[:, 0] > 0.7).all()
    assert (top[:, 1] > 0.7).all()
    assert (middle[:, 2] > 0.95).all()
    assert shown[0, :, 0, 0].tolist() == [0.5, 0.5, 1.0]
    depth = depth_pictures(torch.stack([view.depth for view in seen]), covered)
    assert depth[0, 0, 16, 16] > 0.95
    assert depth[0, 0, 0, 0] == 0
    assert depth[0, 0, 16, 9] < depth[0, 0, 16, 12]


def test_materials_are_baked_where_they_are(ball: Path, tmp_path: Path) -> None:
    placed = place_mesh(ball)
    assert float((placed.surface.vertices - torch.tensor([0, 0, 0.75])).norm(dim=1).max()) <= 1.1 + 1e-4
    materials = MaterialConfig(resolution=16).build(Bounds())
    with torch.no_grad():
        materials.values[0, :, 8:] = torch.tensor([8.0, -8, -8, -2, 8]).view(5, 1, 1, 1)  # above: red metal, smooth
        materials.values[0, :, :8] = torch.tensor([-8.0, -8, 8, 2, -8]).view(5, 1, 1, 1)
    write_mesh(baked(placed, materials, TextureConfig()), tmp_path / "out.glb")
    found, original = read_mesh(tmp_path / "out.glb"), read_mesh(ball)
    assert len(found.faces) == len(original.faces)
    assert np.asarray(found.bounds) == pytest.approx(np.asarray(original.bounds), abs=1e-3)
    material, height = found.visual.material, np.asarray(found.vertices)[:, 2]
    middle = (height.max() + height.min()) / 2
    for image, above, below in (
        (material.baseColorTexture, (255, 0, 0), (0, 0, 255)),
        (material.metallicRoughnessTexture, (0, 30, 255), (0, 225, 0)),
    ):
        found.visual.material.baseColorTexture = image
        colors = found.visual.to_color().vertex_colors[:, :3].astype(int)
        assert np.median(colors[height > middle + 10], 0) == pytest.approx(above, abs=6)
        assert np.median(colors[height < middle - 10], 0) == pytest.approx(below, abs=6)


def textured(mesh: Path, subject: Path, tmp_path: Path, name: str = "out.glb", **changes: object) -> Textured:
    """`texture_3d` of a small recipe."""
    stage = changes.pop("stage", STAGE)
    write_json(tmp_path / "recipe.json", TextureRecipe(id="texturedreamer", stage=stage))  # pyright: ignore
    settings = {"config": tmp_path / "recipe.json", "device": "cpu", "precision": "fp32", **changes}
    return texture_3d(mesh, subject, tmp_path / name, TextureOptions(**settings))  # pyright: ignore


def test_a_mesh_gets_a_texture_and_keeps_its_shape(
    base: AbstractUnetBackbone, ball: Path, subject: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ball.read_bytes()
    controlled(base).save_pretrained(tmp_path / "control")
    whole = textured(ball, subject, tmp_path, controlnet=tmp_path / "control", previews=2, texture_size=256)
    assert ball.read_bytes() == before
    found: Any = trimesh.load_mesh(tmp_path / "out.glb")
    assert {found.visual.material.baseColorTexture.size, found.visual.material.metallicRoughnessTexture.size} == {
        (256, 256)
    }
    welded = read_mesh(tmp_path / "out.glb")
    welded.merge_vertices(merge_tex=True, merge_norm=True)
    assert welded.is_watertight
    assert welded.volume == pytest.approx(trimesh.creation.icosphere(2, radius=40.0).volume, rel=1e-3)
    assert (whole.work / "previews" / "texture-000004.png").is_file()
    assert not (whole.work / "checkpoints").exists()
    with pytest.raises(InputError, match="give the painted mesh instead"):
        render_3d(whole.work, tmp_path / "sheet.png")
    plain = textured(ball, subject, tmp_path, "plain.obj", layout="grid")
    assert not torch.equal(plain.materials.values, whole.materials.values)
    with pytest.raises(CheckpointError, match="another control, seed"):
        textured(ball, subject, tmp_path, overwrite=True, seed=3)
    # The same weights under other settings are another ControlNet.
    settings = tmp_path / "control" / "config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "act_fn": "mish"}))
    with pytest.raises(CheckpointError, match="another control\\."):
        textured(ball, subject, tmp_path, controlnet=tmp_path / "control", previews=2, overwrite=True)
    main(["3d", "texture", str(ball), str(subject), "-o", str(tmp_path / "cli.glb"), "--config",
          str(tmp_path / "recipe.json"), "--device", "cpu", "--precision", "fp32", "--steps", "1"])  # fmt: skip
    assert str(tmp_path / "cli.html") in capsys.readouterr().out


def test_a_stopped_texture_goes_on_to_the_same_tensors(
    base: AbstractUnetBackbone, ball: Path, subject: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = dataclasses.replace(STAGE, materials=MaterialConfig(kind="hash", resolution=32, learning_rate=0.01))
    whole = textured(ball, subject, tmp_path, "whole.glb", stage=hashed)

    def stopping(loss: TextureLoss, **settings: object) -> object:
        for state in learn_texture(loss, **settings):  # pyright: ignore[reportArgumentType]
            yield state
            if state.step == 2:
                raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("pcs_ext.threed.texture_job.learn_texture", stopping)
        with pytest.raises(MemoryError):
            textured(ball, subject, tmp_path, "parts.glb", stage=hashed)
    assert not (tmp_path / "parts.glb").exists()
    parts = textured(ball, subject, tmp_path, "parts.glb", stage=hashed)
    expected = whole.materials.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in parts.materials.state_dict().items())
    assert (tmp_path / "whole.glb").read_bytes() == (tmp_path / "parts.glb").read_bytes()


def test_wrong_requests_are_refused(ball: Path, subject: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is the mesh itself"):
        textured(ball, subject, tmp_path, "ball.glb", overwrite=True)
    with pytest.raises(UsageError, match="ends in glb, obj"):
        textured(ball, subject, tmp_path, "out.ply")
    # A mesh in whose folder the output's pictures would replace its own, whatever is asked for.
    (tmp_path / "skin.png").write_bytes(b"mine")
    (tmp_path / "wood.mtl").write_text("newmtl wood\nmap_Kd skin.png\n")
    (tmp_path / "chair.obj").write_text("mtllib wood.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    with pytest.raises(UsageError, match=r"skin.png belongs to .*chair.obj"):
        textured(tmp_path / "chair.obj", subject, tmp_path, "skin.obj", overwrite=True)
    with pytest.raises(ModelError, match="is no ControlNet"):
        textured(ball, subject, tmp_path, controlnet=tmp_path)
    with pytest.raises(UsageError, match="does not say where the subject goes"):
        textured(ball, subject, tmp_path, prompt="a dog")
    (tmp_path / "point.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    with pytest.raises(InputError, match="all corners lie in one point"):
        textured(tmp_path / "point.obj", subject, tmp_path)
    with pytest.raises(ConfigError, match="faces need a texture of at least"):
        textured(ball, subject, tmp_path, layout="grid", texture_size=32)
    with pytest.raises(ConfigError, match="a texture of 16 to 8192 texels"):
        textured(ball, subject, tmp_path, texture_size=9)
    with pytest.raises(UsageError, match="--control depth is about a ControlNet; give one, too"):
        textured(ball, subject, tmp_path, control="depth")
    with pytest.raises(ConfigError, match="a background in"):
        dataclasses.replace(STAGE, background=2.0)
    with pytest.raises(UsageError, match="pcs-ext 3d texture MESH SUBJECT"):
        resolve_recipe_3d("texturedreamer", "toybox", "fast")
    assert not list(tmp_path.glob("*.work"))


def test_previews_are_counted_in_steps_for_every_job() -> None:
    with pytest.raises(UsageError, match="--previews must be 0 or a number of steps, got -1"):
        TextureOptions(previews=-1)
