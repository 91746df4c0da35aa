"""Fixtures that every test may use."""

import ctypes
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from pcs_ext.image.backbone import AbstractBackbone

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# torch and what stands on it take ten seconds to import: the process that only hands tests to others goes without.


def pytest_collection_finish() -> None:
    """Take two threads at most, and walk through less garbage: torch's, transformers' and the tests' own objects stay,
    and modules are many."""
    import torch

    torch.set_num_threads(min(2, torch.get_num_threads()))
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("PCS_EXT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def same_noise() -> None:
    """Every run of a test sees the same pictures: Pillow's noise is drawn by the C library."""
    ctypes.CDLL(None).srand(0)


@pytest.fixture(scope="session")
def tiny_sd_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion folder; do not change it."""
    from tests.support.tiny import tiny_backbone

    backbone = tiny_backbone(tmp_path_factory.mktemp("models") / "sd")
    return Path(backbone.name)


@pytest.fixture
def sd(tmp_path: Path) -> "AbstractBackbone":
    """A tiny Stable Diffusion of the epsilon kind."""
    from tests.support.tiny import tiny_backbone

    return tiny_backbone(tmp_path / "sd")


@pytest.fixture
def sdxl(tmp_path: Path) -> "AbstractBackbone":
    """A tiny SDXL."""
    from tests.support.tiny import tiny_backbone

    return tiny_backbone(tmp_path / "sdxl", family="sdxl")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three small photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        Image.effect_noise((48, 40 + 4 * index), 60).convert("RGB").save(folder / f"{index}.png")
    return folder


@pytest.fixture
def terminal() -> Iterator[None]:
    """Signals as in a terminal: a shell that runs its jobs in the background starts them with SIGINT ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)
