"""The two contestants train the same layers, and their steps run."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.motion_director_step import LoraLinear, _wrapped, ours, released_script
from pcs_ext.image.adapters import build_adapter
from pcs_ext.image.adapters.base import injected
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.recipes import MOTIONS
from tests.support.tiny import tiny_folder
from tests.support.tiny_video import tiny_text_to_video


@pytest.fixture
def backbone(tmp_path: Path) -> Any:
    folder = tiny_text_to_video(tiny_folder(tmp_path / "base"), tmp_path / "t2v")
    return load_video_backbone(folder, device="cpu", precision="bf16")


@pytest.mark.parametrize("kind", ["spatial", "temporal"])
def test_the_peer_wraps_the_layers_that_we_train(kind: Any, backbone: Any) -> None:
    layers = {"spatial": "appearance", "temporal": "motion"}[kind]
    adapter = build_adapter(layers, MOTIONS["motion-director"].build("sd").adapters[layers].adapter(backbone))
    with injected(backbone, adapter):
        trained = sum(len(group) for group in adapter.parameters().values())
    first, second = _wrapped(backbone, kind), _wrapped(backbone, kind)
    assert 2 * len(first) == 2 * len(second) == trained
    assert all(isinstance(lora.inner, LoraLinear) for lora in second)


@pytest.mark.parametrize("contestant", [ours, released_script])
def test_steps_of_both_have_finite_losses(contestant: Any, backbone: Any) -> None:
    latents = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    step = contestant(backbone, latents, 3)
    assert all(math.isfinite(step()) for _ in range(3))
