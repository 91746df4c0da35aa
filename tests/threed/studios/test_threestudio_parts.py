"""The threestudio plug-in against a stand-in of its registry; the real package cannot be imported without CUDA."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from pcs_ext.errors import InputError, UsageError
from pcs_ext.image.subject import Artifact
from pcs_ext.threed.cameras import orbit, ring
from pcs_ext.threed.distillation import DistillationConfig, distillation_loss
from pcs_ext.threed.studios.plugin_folder import install, yaml_recipes
from pcs_ext.threed.transforms_json import write_transforms
from pcs_ext.threed.view_prompts import ViewPrompts

ANGLES = {"elevation": torch.tensor([10.0, 80.0]), "azimuth": torch.tensor([170.0, 0.0])}
DISTANCES = {"camera_distances": torch.ones(2)}


def processor(registry: Any, subject: Path, **changes: Any) -> Any:
    fields = {"subject": str(subject), "device": "cpu", "precision": "fp32", **changes}
    return registry.find("pcs-prompt-processor")(fields)


def test_the_guidance_is_the_subjects_score(registry: Any, subject: Path) -> None:
    rgb = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    guidance = registry.find("pcs-guidance")({"guidance_scale": 7.5, "seed": 3})
    prompts = processor(registry, subject)()
    with torch.autocast("cpu", torch.bfloat16):  # as its trainer does
        out = guidance(rgb, prompts, **ANGLES, **DISTANCES, c2w=None)
    assert list(out) == ["loss_sds"]
    (gradient,) = torch.autograd.grad(out["loss_sds"], rgb)

    artifact = Artifact.load(subject)
    with artifact.applied(artifact.backbone(device="cpu", precision="fp32")) as backbone:
        with torch.no_grad():
            prompts = ViewPrompts(backbone, "a photo of a sks dog")
        cameras = orbit(ANGLES["azimuth"], ANGLES["elevation"], [1.0] * 2, [30.0] * 2)
        images = rgb.permute(0, 3, 1, 2) * 2 - 1
        config, generator = DistillationConfig(guidance_scale=7.5), torch.Generator().manual_seed(3)
        loss = distillation_loss(backbone, images, prompts(cameras), config, progress=0, generator=generator)
        (expected,) = torch.autograd.grad(loss, rgb)
    assert gradient.norm() > 0
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-7)


def test_the_subject_matters(registry: Any, subject: Path) -> None:
    def gradient(strength: float) -> torch.Tensor:
        rgb = torch.full((2, 32, 32, 3), 0.5, requires_grad=True)
        prompts = processor(registry, subject, strength=strength)()
        out = registry.find("pcs-guidance")({})(rgb, prompts, **ANGLES, **DISTANCES)
        return torch.autograd.grad(out["loss_sds"], rgb)[0]

    whole, none = gradient(1.0), gradient(0.0)
    assert (whole - none).norm() > 0.01 * none.norm()


def test_prompts_serve_threestudios_own_guidances(registry: Any, subject: Path) -> None:
    output = processor(registry, subject)()
    states = output.get_text_embeddings(**ANGLES, **DISTANCES)
    expected = [output.guide.encode([f"a photo of a sks dog, {view} view"]).states for view in ("back", "overhead")]
    assert torch.allclose(states[:2], torch.cat(expected), atol=1e-5)
    assert torch.equal(states[2], states[3])
    plain = output.get_text_embeddings(**ANGLES, **DISTANCES, view_dependent_prompting=False)
    assert torch.equal(plain[0], plain[1])


def test_latents_and_foreign_prompts_are_refused(registry: Any, subject: Path) -> None:
    guidance = registry.find("pcs-guidance")({})
    with pytest.raises(UsageError, match="needs pcs-prompt-processor"):
        guidance(torch.zeros(2, 8, 8, 3), object(), **ANGLES, **DISTANCES)


def test_progress_follows_the_steps(registry: Any) -> None:
    guidance = registry.find("pcs-guidance")({"max_steps": 200})
    guidance.update_step(0, 50)
    assert guidance.progress == 0.25


def test_the_system_adds_the_pseudo_views(registry: Any, tmp_path: Path) -> None:
    cameras = ring(3)
    for index in range(3):
        Image.new("RGB", (8, 6), (255, 255, 255)).save(tmp_path / f"{index}.png")
    write_transforms(tmp_path / "transforms.json", cameras, [f"{i}.png" for i in range(3)], 6, 8)
    fields = {"pseudo_views": str(tmp_path / "transforms.json"), "loss": {"lambda_pseudo": 2.0}}
    system = registry.find("pcs-dreambooth3d-system")(fields)
    loss = system.training_step({}, 0)["loss"]
    assert loss.item() == pytest.approx(2 * 0.75)
    loss.backward()
    assert system.grey.grad.item() == pytest.approx(-2.0)
    (batch,) = system.seen
    assert batch["rays_o"].shape == batch["rays_d"].shape == (1, 6, 8, 3)
    assert any(torch.allclose(batch["rays_o"][0, 0, 0], place, atol=1e-6) for place in cameras.positions)


def test_the_recipes_name_only_what_the_parts_know(registry: Any) -> None:
    recipes = {name: yaml.safe_load(text) for name, text in yaml_recipes().items()}
    assert sorted(recipes) == ["pcs-dreambooth3d-1-partial.yaml", "pcs-dreambooth3d-3-multiview.yaml"]
    for recipe in recipes.values():
        system = recipe["system"]
        for key in ("prompt_processor", "guidance"):
            config = registry.find(system[f"{key}_type"]).Config
            assert system[key].keys() <= {field.name for field in dataclasses.fields(config)}
        assert system["guidance"]["guidance_scale"] == 101.0
        assert registry.find(recipe["system_type"])
    last = recipes["pcs-dreambooth3d-3-multiview.yaml"]["system"]
    assert "pseudo_views" in last
    assert "lambda_pseudo" in last["loss"]


def test_installing_writes_the_folder(registry: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkout of threestudio"):
        install(tmp_path)
    (tmp_path / "threestudio").mkdir()
    (tmp_path / "launch.py").touch()
    folder = install(tmp_path)
    assert folder == tmp_path / "custom" / "pcs_ext"
    registry.classes = {"dreamfusion-system": registry.find("dreamfusion-system")}
    exec((folder / "__init__.py").read_text())
    assert "pcs-guidance" in registry.classes
    for name, text in yaml_recipes().items():
        assert (folder / "configs" / name).read_text() == text
