"""The methods inside the real nerfstudio: not collected by the suite, whose environment has none.

In an environment with nerfstudio 1.1.5 and pcs_ext: `pytest tests/threed/studios/check_nerfstudio.py`.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.data.datamanagers.random_cameras_datamanager import (  # pyright: ignore[reportMissingImports]
    random_train_pose,
)
from nerfstudio.plugins.registry import discover_methods  # pyright: ignore[reportMissingImports]
from nerfstudio.plugins.types import MethodSpecification  # pyright: ignore[reportMissingImports]
from PIL import Image

from pcs_ext.threed.cameras import orbit, rays
from pcs_ext.threed.distillation import DistillationConfig
from pcs_ext.threed.studios import nerfstudio_methods
from pcs_ext.threed.studios.guide import Guide, Source
from pcs_ext.threed.studios.guide_diffusion import GuideDiffusion
from pcs_ext.threed.transforms_json import write_transforms

CENTER = (0.0, 0.0, 0.75)


def pipeline(specification: MethodSpecification, **changes: Any) -> Any:
    """A method's own pipeline on the CPU, with a small picture and small grids."""
    config = specification.config.pipeline
    proposals = [{"hidden_dim": 8, "log2_hashmap_size": 8, "num_levels": 2, "max_res": 16}] * 2
    sizes = {"num_proposal_samples_per_ray": (16, 8), "num_nerf_samples_per_ray": 8, "implementation": "torch"}
    model = dataclasses.replace(config.model, proposal_net_args_list=proposals, **sizes, **changes)
    data = dataclasses.replace(config.datamanager, train_resolution=12, num_eval_angles=2)
    return dataclasses.replace(config, model=model, datamanager=data).setup(device="cpu", grad_scaler=None)


def test_nerfstudio_finds_both_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "pcs_ext.threed.studios.nerfstudio_methods"
    named = {"pcs-generfacto": "pcs_generfacto", "pcs-dreambooth3d": "pcs_dreambooth3d"}
    monkeypatch.setenv("NERFSTUDIO_METHOD_CONFIGS", ",".join(f"{k}={module}:{v}" for k, v in named.items()))
    methods, descriptions = discover_methods()
    for name, attribute in named.items():
        assert methods[name] is getattr(nerfstudio_methods, attribute).config
        assert methods[name].method_name == name
        assert "pcs_ext" in descriptions[name]


def test_generfacto_learns_by_the_subjects_score(subject: Path) -> None:
    made = pipeline(nerfstudio_methods.pcs_generfacto, subject=str(subject), precision="fp32", guide_seed=5)
    made.train()
    assert not any("unet" in key or "text_model" in key for key in made.state_dict())
    outputs, losses, _ = made.get_train_loss_dict(0)
    assert {"sds_loss", "opacity_loss", "distortion_loss", "interlevel_loss"} <= losses.keys()
    picture = outputs["train_output"]
    (gradient,) = torch.autograd.grad(losses["sds_loss"], picture, retain_graph=True)
    alone = GuideDiffusion(Guide(Source(subject=str(subject), device="cpu", precision="fp32")), DistillationConfig(), 5)
    text = alone.get_text_embeds("a photo of {subject}, front view", "")  # the first step looks at the front
    pixels = picture.detach().view(1, 12, 12, 3).permute(0, 3, 1, 2).requires_grad_()
    (expected,) = torch.autograd.grad(alone.sds_loss(text, pixels, 101.0), pixels)
    other = alone.get_text_embeds("a photo of {subject}, overhead view", "")
    alone.generator.manual_seed(5)
    (above,) = torch.autograd.grad(alone.sds_loss(other, pixels, 101.0), pixels)
    found = gradient.view(1, 12, 12, 3).permute(0, 3, 1, 2)
    scale = found.abs().max()
    assert scale > 0
    assert min(float((found - one).abs().max() / scale) for one in (expected, above)) < 1e-3
    torch.stack([value for value in losses.values() if isinstance(value, torch.Tensor)]).sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in made.model.field.parameters())


def test_dreambooth3d_reconstructs_pseudo_views(subject: Path, tmp_path: Path) -> None:
    cameras = orbit([0.0, 120.0, 240.0], [10.0] * 3, [5.2] * 3, [32.0] * 3, CENTER)
    names = [f"{index:02d}.png" for index in range(3)]
    for name in names:
        Image.new("RGB", (16, 16), (200, 30, 30)).save(tmp_path / name)
        Image.new("L", (16, 16), 255).save(tmp_path / name.replace(".png", "_mask.png"))
    write_transforms(tmp_path / "transforms.json", cameras, names, 16, 16)
    settings = {"subject": str(subject), "precision": "fp32", "pseudo_views": tmp_path, "pseudo_rays": 64}
    torch.manual_seed(0)
    made = pipeline(nerfstudio_methods.pcs_dreambooth3d, **settings)
    made.train()
    optimizer = torch.optim.Adam(made.model.field.parameters(), lr=1e-2)
    errors = []
    for step in range(25):
        _, losses, _ = made.get_train_loss_dict(step)
        errors.append(losses["pseudo_loss"].item())
        optimizer.zero_grad()
        losses["pseudo_loss"].backward()
        optimizer.step()
    assert sum(errors[-5:]) < 0.85 * sum(errors[:5]), errors
    made.eval()
    without = pipeline(nerfstudio_methods.pcs_dreambooth3d, subject=str(subject), precision="fp32")
    assert "pseudo_loss" not in without.get_train_loss_dict(0)[1]


def test_both_worlds_agree_on_the_front() -> None:
    cameras, vertical, central = random_train_pose(
        1, 8, "cpu", radius_mean=2.0, radius_std=0.0, central_rotation_range=(90, 90),
        vertical_rotation_range=(-30, -30), jitter_std=0.0,
    )  # fmt: skip
    ours = orbit([float(central)], [90 - float(vertical)], [3.0], [40.0], CENTER)
    assert torch.allclose(cameras.camera_to_worlds[0, :, :3], ours.camera_to_world[0, :3, :3], atol=1e-5)
    bundle = nerfstudio_methods.nerfstudio_rays(rays(ours, 2, 2), "cpu")
    assert torch.allclose(bundle.origins[0], cameras.camera_to_worlds[0, :, 3], atol=1e-5)
