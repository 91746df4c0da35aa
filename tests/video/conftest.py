"""Tiny bases, modules and clips as files."""

from pathlib import Path

import pytest
import torch

from pcs_ext.video.clips import write_clip
from tests.support.tiny import tiny_folder
from tests.support.tiny_video import tiny_motion_adapter


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "base")


@pytest.fixture
def module(tmp_path: Path) -> Path:
    tiny_motion_adapter().save_pretrained(tmp_path / "module")
    return tmp_path / "module"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A square that moves to the right, with a caption beside it."""
    frames = torch.full((6, 3, 40, 40), 60, dtype=torch.uint8)
    for index in range(6):
        frames[index, :, 10:22, 4 * index : 4 * index + 10] = 230
    (tmp_path / "square.txt").write_text("a red dog")
    return write_clip(frames, tmp_path / "square.mp4", fps=8)
