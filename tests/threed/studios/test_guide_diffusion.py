"""What generfacto asks of a guide; the methods themselves are checked inside nerfstudio (`check_nerfstudio.py`)."""

import ast
import tomllib
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.subject import Artifact
from pcs_ext.threed.distillation import DistillationConfig, distillation_loss
from pcs_ext.threed.studios.guide import Guide, Source
from pcs_ext.threed.studios.guide_diffusion import GuideDiffusion

ROOT = Path(__file__).parents[3]


def test_its_loss_is_the_subjects_score(subject: Path) -> None:
    model = GuideDiffusion(Guide(Source(subject=str(subject), device="cpu", precision="fp32")), DistillationConfig(), 3)
    text = model.get_text_embeds("a photo of {subject}, side view", "blurry").to("cpu")
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(model.sds_loss(text, image, guidance_scale=7, grad_scaler=None), image)
    artifact = Artifact.load(subject)
    with artifact.applied(artifact.backbone(device="cpu", precision="fp32")) as backbone:
        with torch.no_grad():
            prompts = backbone.encode_prompt(["blurry"]), backbone.encode_prompt(["a photo of a sks dog, side view"])
        settings, generator = DistillationConfig(guidance_scale=7.0), torch.Generator().manual_seed(3)
        loss = distillation_loss(backbone, image * 2 - 1, prompts, settings, progress=0.0, generator=generator)
        (expected,) = torch.autograd.grad(loss, image)
    assert gradient.norm() > 0
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
    assert not isinstance(model, torch.nn.Module)
    with pytest.raises(UsageError, match="does not say where the subject goes"):
        model.get_text_embeds("a photo of a pineapple", "")


def test_the_entry_points_name_what_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project["entry-points"]["nerfstudio.method_configs"]
    assert set(points) == {"pcs-generfacto", "pcs-dreambooth3d"}
    for target in points.values():
        module, name = target.split(":")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        assigned = {each.id for node in tree.body if isinstance(node, ast.Assign)
                    for each in node.targets if isinstance(each, ast.Name)}  # fmt: skip
        assert name in assigned
