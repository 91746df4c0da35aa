"""Motions in AnimateDiff's file formats, read back by readers that are not ours."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.export import ExportOptions
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.backbones.inflated import InflatedBackbone
from pcs_ext.video.backbones.motion_files import load_motion_adapter
from pcs_ext.video.export import export_motion
from pcs_ext.video.learn import learn_motion
from pcs_ext.video.motion import Motion
from pcs_ext.video.recipes import MOTIONS
from tests.support.tiny_video import original_layout, tiny_motion_adapter


def learned(recipe: str, backbone: AnimateDiffBackbone, folder: Path) -> Motion:
    """A motion of two steps with a rate at which they show."""
    small = MOTIONS[recipe].build("toybox").with_steps(2 * len(MOTIONS[recipe].build("toybox").phases))
    clip = torch.rand(3, 8, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return learn_motion([clip], ["a red dog"], folder / recipe, backbone=backbone, recipe=small)


def predicted(backbone: AnimateDiffBackbone) -> Tensor:
    latents = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return backbone.predict(latents, torch.tensor([500]), backbone.encode_prompt(["a red dog"]))


def rule_of_animatediff(weights: dict[str, Tensor], lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """How AnimateDiff's own reader adds a motion LoRA to weights under its own names."""
    added = dict(weights)
    for key in (key for key in lora if ".down." in key):
        name = key.replace("processor.", "").replace("_lora", "").replace("down.", "").replace("to_out.", "to_out.0.")
        added[name] = added[name] + lora[key.replace(".down.", ".up.")] @ lora[key]
    return added


@pytest.fixture
def video(sd: AbstractUnetBackbone) -> Any:
    backbone = AnimateDiffBackbone(sd, tiny_motion_adapter())
    yield backbone
    backbone.remove()


@pytest.mark.parametrize("recipe", ["motion-director", "vmc"])
def test_a_whole_module_is_read_by_diffusers(
    recipe: str, video: AnimateDiffBackbone, sd: AbstractUnetBackbone, tmp_path: Path
) -> None:
    motion = learned(recipe, video, tmp_path)
    with motion.applied(video):
        expected = predicted(video)
    assert not torch.allclose(predicted(video), expected, atol=1e-4)
    path = export_motion(motion, "motion-module", tmp_path / "moved", backbone=video)
    plain: Any = tiny_motion_adapter(seed=5)
    lacking, unknown = plain.load_state_dict(convert_animatediff_checkpoint_to_diffusers(load_file(path)), strict=False)
    assert unknown == []
    assert {key.rsplit(".", 1)[1] for key in lacking} <= {"pe"}
    video.remove()
    for adapter in (plain, load_motion_adapter(path, heads=2, norm_groups=8)):
        other = AnimateDiffBackbone(sd, adapter)
        assert torch.allclose(predicted(other), expected, atol=1e-5)
        other.remove()


def test_a_motion_lora_is_added_by_animatediffs_rule(
    video: AnimateDiffBackbone, sd: AbstractUnetBackbone, tmp_path: Path
) -> None:
    motion = learned("motion-director", video, tmp_path)
    with motion.applied(video):
        expected = predicted(video)
    assert not torch.allclose(predicted(video), expected, atol=1e-4)
    lora = load_file(export_motion(motion, "motion-lora", tmp_path / "lora"))
    assert all(".motion_modules." in key and ".temporal_transformer." in key for key in lora)
    # A block has two attentions of four projections, and a feed-forward of two layers.
    layers = [key.split(".down.")[0] for key in lora if ".down." in key]
    blocks = sum(".attention_blocks.0." in layer and layer.endswith(".to_q_lora") for layer in layers)
    assert len(layers) == (2 * 4 + 2) * blocks > 0
    assert len(lora) == 2 * len(layers)
    own = load_file(original_layout(tiny_motion_adapter(), tmp_path / "own.safetensors"))
    merged: Any = tiny_motion_adapter(seed=5)
    weights = convert_animatediff_checkpoint_to_diffusers(rule_of_animatediff(own, lora))
    lacking, unknown = merged.load_state_dict(weights, strict=False)
    assert unknown == []
    assert {key.rsplit(".", 1)[1] for key in lacking} <= {"pe"}
    video.remove()
    other = AnimateDiffBackbone(sd, merged)
    assert torch.allclose(predicted(other), expected, atol=1e-5)
    other.remove()


def test_looks_and_motion_are_apart(video: AnimateDiffBackbone, tmp_path: Path) -> None:
    motion = learned("motion-director", video, tmp_path)
    looks = load_file(export_motion(motion, "spatial-lora", tmp_path / "looks"))
    assert all(key.startswith("lora_unet_") and "motion_modules" not in key for key in looks)
    assert any(key.endswith("attn1_to_q.lora_down.weight") for key in looks)
    assert not any("attn2" in key for key in looks), "MotionDirector's spatial set leaves the text alone"
    path = export_motion(motion, "motion-lora", tmp_path / "m", ExportOptions(precision="fp16", title="Spin"))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "kind": "motion-lora", "title": "Spin", "recipe": "motion-director",
                                   "base": video.name}  # fmt: skip
    assert {value.dtype for value in load_file(path).values()} == {torch.float16}
    with pytest.raises(UsageError, match="exists already"):
        export_motion(motion, "motion-lora", path)


def test_what_a_format_cannot_hold_is_said(
    video: AnimateDiffBackbone, sd: AbstractUnetBackbone, tmp_path: Path
) -> None:
    whole = learned("vmc", video, tmp_path)
    with pytest.raises(UsageError, match="no LoRA on temporal layers.*motion-module"):
        export_motion(whole, "motion-lora", tmp_path / "a")
    with pytest.raises(UsageError, match="learned nothing of its clip's looks"):
        export_motion(whole, "spatial-lora", tmp_path / "a")
    with pytest.raises(UsageError, match="must be loaded for it"):
        export_motion(whole, "motion-module", tmp_path / "a")
    with pytest.raises(UsageError, match="'gif' is unknown; expected one of motion-lora"):
        export_motion(whole, "gif", tmp_path / "a")
    video.remove()
    inflated = InflatedBackbone(sd)
    with pytest.raises(UsageError, match="was learned on InflatedBackbone"):
        export_motion(learned("tune-a-video", inflated, tmp_path), "motion-module", tmp_path / "a", backbone=inflated)
    inflated.remove()
    assert not list(tmp_path.glob("a*"))
