"""What a user may type for a video model, and what goes wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from pcs_ext.errors import ModelError, UsageError
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.backbones.modelscope import ModelScopeBackbone
from pcs_ext.video.backbones.motion_files import load_motion_adapter
from tests.support.published import published_folder, published_motion
from tests.support.tiny_video import original_layout, tiny_motion_adapter, tiny_text_to_video

OPTIONS: Any = {"device": "cpu", "precision": "fp32"}


@torch.no_grad()
def test_the_original_layout_loads_as_the_folder_does(tiny_sd_path: Path, tmp_path: Path) -> None:
    adapter = tiny_motion_adapter(motion_num_attention_heads=8)
    adapter.save_pretrained(tmp_path / "folder")
    file = original_layout(adapter, tmp_path / "module.safetensors")
    noisy, timesteps = torch.randn(1, 4, 4, 8, 8), torch.tensor([500])
    outputs = []
    for motion in (tmp_path / "folder", file):
        video = load_video_backbone(tiny_sd_path, motion, **OPTIONS)
        assert isinstance(video, AnimateDiffBackbone)
        outputs.append(video.predict(noisy, timesteps, video.encode_prompt(["a dog"])))
        betas = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear").alphas_cumprod
        torch.testing.assert_close(video.schedule.alphas_cumprod, betas, atol=1e-5, rtol=0)
        assert not torch.allclose(video.image.schedule.alphas_cumprod, betas, atol=0.01)
    assert torch.equal(*outputs)


def test_a_text_to_video_folder_is_known_by_its_index(tiny_sd_path: Path, tmp_path: Path) -> None:
    # As the published ones are called: 1.7b and 3B-Diffusers are no suffixes of files.
    folder = tiny_text_to_video(tiny_sd_path, tmp_path / "text-to-video-ms-1.7b")
    assert isinstance(load_video_backbone(folder, **OPTIONS), ModelScopeBackbone)
    with pytest.raises(UsageError, match="makes clips by itself and takes no motion adapter"):
        load_video_backbone(folder, tmp_path / "motion", **OPTIONS)


def test_an_image_model_alone_is_named(tiny_sd_path: Path) -> None:
    with pytest.raises(UsageError, match="makes pictures; for clips name a motion adapter too .--motion-module"):
        load_video_backbone(tiny_sd_path, **OPTIONS)


def test_bad_motion_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist; expected a motion adapter"):
        load_motion_adapter(tmp_path / "missing.safetensors")
    (tmp_path / "mm.ckpt").write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match="is a pickle, which can run code"):
        load_motion_adapter(tmp_path / "mm.ckpt")
    (tmp_path / "broken.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(ModelError, match="cannot be read"):
        load_motion_adapter(tmp_path / "broken.safetensors")
    save_file({"lora.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="has no motion modules among its 1 tensors"):
        load_motion_adapter(tmp_path / "lora.safetensors")


def test_incomplete_motion_files_are_named(tmp_path: Path) -> None:
    adapter = tiny_motion_adapter(motion_num_attention_heads=8)
    file = original_layout(adapter, tmp_path / "module.safetensors")
    state = load_file(file)
    key = next(key for key in state if key.endswith("proj_out.weight"))
    save_file({name: value for name, value in state.items() if name != key}, tmp_path / "less.safetensors")
    with pytest.raises(ModelError, match="lacks 1 tensors"):
        load_motion_adapter(tmp_path / "less.safetensors", norm_groups=8)
    save_file(state | {key: torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="has other shapes for 1 tensors"):
        load_motion_adapter(tmp_path / "other.safetensors", norm_groups=8)


def test_a_motion_folder_may_hold_half_precision_alone(tmp_path: Path) -> None:
    adapter = tiny_motion_adapter()
    adapter.half().save_pretrained(tmp_path, variant="fp16")
    loaded = load_motion_adapter(tmp_path).state_dict()
    assert all(torch.equal(value.half(), loaded[name].half()) for name, value in adapter.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("middle", [True, False])
def test_published_motion_modules_move_the_model_they_are_for(tmp_path: Path, middle: bool) -> None:
    base = published_folder(tmp_path / "sd-1.5", "sd15", share=20, cells=8)
    motion = published_motion(tmp_path / "motion", share=20, middle=middle, variant="fp16")
    video = load_video_backbone(base, motion, **OPTIONS)
    assert isinstance(video, AnimateDiffBackbone)
    assert (video.motion.mid_block is not None) == middle
    assert video.max_frames == 32
    noisy, told = torch.randn(1, 4, 3, 8, 8), video.encode_prompt(["a dog"])
    moved = video.predict(noisy, torch.tensor([500]), told)
    with video.frame_by_frame():
        still = video.predict(noisy, torch.tensor([500]), told)
    assert moved.isfinite().all()
    assert not torch.allclose(moved, still, atol=1e-3)


def test_bad_motion_folders_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "motion"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_motion_adapter(folder)
    tiny_motion_adapter().save_pretrained(folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "ControlNetModel"}))
    with pytest.raises(ModelError, match="holds a ControlNetModel, expected a MotionAdapter"):
        load_motion_adapter(folder)
    config.write_text("{")
    with pytest.raises(ModelError, match="is not valid JSON"):
        load_motion_adapter(folder)


@pytest.mark.parametrize("inflated", [False, True])
def test_what_was_learned_in_one_precision_belongs_to_the_base_in_all(
    inflated: bool, tiny_sd_path: Path, tmp_path: Path
) -> None:
    tiny_motion_adapter().save_pretrained(tmp_path / "module")
    how: Any = {"inflation": "sparse-causal"} if inflated else {"motion": tmp_path / "module"}
    videos = [
        load_video_backbone(tiny_sd_path, **how, device="cpu", precision=name) for name in ("fp32", "bf16", "fp16")
    ]
    assert len({video.fingerprint for video in videos}) == 1
    assert [video.dtype for video in videos] == [torch.float32, torch.bfloat16, torch.float16]
    tiny_motion_adapter(seed=1).save_pretrained(tmp_path / "module")
    if not inflated:
        assert load_video_backbone(tiny_sd_path, **how, **OPTIONS).fingerprint != videos[0].fingerprint
