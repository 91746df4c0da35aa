"""Encoders and pictures for the tests of the measures."""

from pathlib import Path

import pytest
import torch

from tests.support.encoders import tiny_clip, tiny_dino, tiny_resnet, tiny_vit


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("encoders") / "clip")


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dino(tmp_path_factory.mktemp("encoders") / "dino")


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vit(tmp_path_factory.mktemp("encoders") / "vit")


@pytest.fixture(scope="session")
def resnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_resnet(tmp_path_factory.mktemp("encoders") / "resnet")


@pytest.fixture
def pictures() -> torch.Tensor:
    """Six different smooth pictures, `6 3 32 32` in [-1, 1]."""
    coarse = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
