"""Fixtures of adapter tests."""

import pytest
import torch

from tests.image.adapters.tiny_backbone import TinyBackbone, run_denoiser, snapshot_of


@pytest.fixture(params=["sd", "sdxl"])
def backbone(request):
    return TinyBackbone(request.param, torch.float32)


@pytest.fixture
def sd():
    return TinyBackbone("sd", torch.float32)


@pytest.fixture
def sd_bf16():
    return TinyBackbone("sd", torch.bfloat16)


@pytest.fixture
def run():
    return run_denoiser


@pytest.fixture
def snapshot():
    return snapshot_of
