"""Which of a folder's files are clips to learn from."""

from pathlib import Path

import torch
from PIL import Image

from pcs_ext.video.clips import ClipFolder, write_clip
from pcs_ext.video.training_clips import find_clips


def frames() -> torch.Tensor:
    return torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 40, 40).contiguous() * 60


def test_a_folder_of_still_webp_is_one_clip(tmp_path: Path) -> None:
    for index in range(4):
        Image.new("RGB", (40, 40), (60 * index, 0, 0)).save(tmp_path / f"{index}.webp")
    (found,) = find_clips([tmp_path], ["a dog"])
    assert found.path == tmp_path


def test_clips_made_here_are_learned_once(tmp_path: Path) -> None:
    out = tmp_path / "clips"
    ClipFolder(out, 1, fps=8).write(torch.zeros(3, 4, 40, 40), {"prompt": "a dog"})
    write_clip(frames(), tmp_path / "clips" / "own.preview.webp", fps=8)
    names = [clip.path.name for clip in find_clips([out], ["a dog"])]
    assert names == ["00000.mp4", "own.preview.webp"], "what is no copy of a clip is one"


def test_damaged_animations_are_not_passed_over(tmp_path: Path) -> None:
    write_clip(frames(), tmp_path / "a.mp4", fps=8)
    (tmp_path / "b.gif").write_bytes(b"GIF89a")
    assert [clip.path.name for clip in find_clips([tmp_path], ["a dog"])] == ["a.mp4", "b.gif"]
