"""Training windows and contact sheets."""

from pathlib import Path

import pytest
import torch

from pcs_ext.errors import InputError, UsageError
from pcs_ext.video.clips import Clip, ClipDataset, contact_sheet, to_frames
from tests.support.clips import moving, number_of


def test_windows_are_consecutive_at_their_stride() -> None:
    data = ClipDataset([Clip(moving(), 8), Clip(moving(9), 8)], frames=3, stride=4)
    assert data.windows() == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
    assert data.window(0, 2).shape == (3, 3, 32, 32)
    assert number_of(to_frames(data.window(0, 2))) == [2, 6, 10]


def test_a_batch_is_what_its_keys_say_and_repeats_with_its_generator() -> None:
    data = ClipDataset([Clip(moving(), 8), Clip(moving(20), 8)], frames=4, stride=2)
    a, b = (data.batch(4, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a.videos, b.videos)
    assert a.videos.shape == (4, 3, 4, 32, 32)
    assert sorted(a.clips) == [0, 0, 1, 1]
    for video, clip, start, key in zip(a.videos, a.clips, a.starts, a.keys, strict=True):
        assert key == f"{clip}/{start}"
        assert torch.equal(video, data.window(clip, start))


def test_every_window_comes_and_clips_count_the_same() -> None:
    data = ClipDataset([Clip(moving(6), 8), Clip(moving(20), 8)], frames=4)
    generator = torch.Generator().manual_seed(0)
    batches = [data.batch(1, generator) for _ in range(400)]
    assert {(batch.clips[0], batch.starts[0]) for batch in batches} == set(data.windows())
    assert abs(sum(batch.clips[0] for batch in batches) - 200) < 50


def test_clips_that_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"short\.mp4 holds 5 frames; expected at least 7 \(frames=4, stride=2\)"):
        ClipDataset([Clip(moving(), 8), Clip(moving(5), 8, Path("short.mp4"))], frames=4, stride=2)
    with pytest.raises(InputError, match=r"clip 1 has \(16, 16\) pixels, the first clip \(32, 32\)"):
        ClipDataset([Clip(moving(), 8), Clip(moving(12, 16, 16), 8)], frames=4)
    with pytest.raises(UsageError, match="got 0 clips"):
        ClipDataset([], frames=4)


def test_contact_sheet_shows_evenly_spread_frames() -> None:
    sheet = contact_sheet([Clip(moving(), 8), Clip(moving(2, 32, 64), 8)], columns=4, height=20, gap=2)
    assert sheet.size == (4 * 22 + 2, 2 * 22 + 2)
    reds = [sheet.getpixel((2 + 22 * column + 10, 12)) for column in range(4)]
    assert [pixel[0] for pixel in reds if isinstance(pixel, tuple)] == [0, 40, 70, 110]
    assert sheet.getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(UsageError, match="got 0 clips"):
        contact_sheet([])
