"""Fixtures of adapter tests."""

import pytest
import torch

from tests.image.adapters.tiny_backbone import fresh, run_denoiser, snapshot_of


@pytest.fixture(params=["sd", "sdxl"])
def backbone(request):
    return fresh(request.param)


@pytest.fixture
def sd():
    return fresh("sd")


@pytest.fixture
def sd_bf16():
    return fresh("sd", torch.bfloat16)


@pytest.fixture
def run():
    return run_denoiser


@pytest.fixture
def snapshot():
    return snapshot_of
