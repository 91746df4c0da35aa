"""What clips are told besides: how they move, maps of their frames, and what of both lies beside training clips."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcs_ext.errors import InputError, UsageError
from pcs_ext.image.levels import in_unit_range
from pcs_ext.reporter import SilentReporter
from pcs_ext.video.clips import write_clip
from pcs_ext.video.reference.directions import AskedDirections, coarser, edges_of, intensity_of
from pcs_ext.video.reference.tracks import ClipTrack, Tracking, digests, directions_of, is_track, track_of
from pcs_ext.video.training_clips import ClipFile, read_training_clips


def square(speed: int, frames: int = 4) -> Tensor:
    """A textured square that moves to the right by so many pixels of 64 in every frame."""
    texture = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    clip = torch.zeros(3, frames, 64, 64)
    for index in range(frames):
        clip[:, index, 20:40, 8 + speed * index : 28 + speed * index] = texture
    return clip


def test_intensity_is_the_mean_speed_of_what_moves_in_pictures_of_512() -> None:
    still, slow, fast = (
        track_of(ClipFile(Path("x.mp4"), "a dog"), square(speed), Tracking(motion=True), 4) for speed in (0, 1, 2)
    )
    told = directions_of([still, slow, fast])
    assert told.intensity is not None
    assert told.intensity[0] == 0
    # One pixel of 64 is eight of 512; cells at the square's rim hold less of it.
    assert 4 < told.intensity[1] <= 8.5
    assert 1.5 < told.intensity[2] / told.intensity[1] <= 2.3
    assert told.actions == ("a dog",) * 3
    speed = torch.tensor([[[[0.0, 0.5], [6.0, 10.0]]], [[[0.0, 0.0], [0.0, 99.0]]]])
    assert intensity_of(speed).tolist() == [8.0, 20.0]


def test_a_stretch_sums_what_moves_between_its_frames_and_a_frozen_one_stands_still() -> None:
    speed = torch.arange(6.0)[:, None, None].expand(6, 2, 2)
    track = ClipTrack(speed=speed, maps=torch.arange(6)[None, :, None, None].expand(3, 6, 2, 2).to(torch.uint8))
    picked = track.along([0, 2, 4])
    assert picked.speed is not None
    assert picked.maps is not None
    assert picked.speed[:, 0, 0].tolist() == [1.0, 5.0, 5.0]
    assert picked.maps[0, :, 0, 0].tolist() == [0, 2, 4]
    frozen = directions_of([track.along([3, 3, 3])])
    assert frozen.intensity is not None
    assert frozen.intensity.tolist() == [0.0]
    covers = directions_of([ClipTrack(cover=torch.zeros(2, 2, 2)), ClipTrack()]).cover
    assert covers is not None
    assert covers.mean((1, 2, 3)).tolist() == [0.0, 1.0], "where no mask is known all counts"
    assert directions_of([ClipTrack(), ClipTrack()]).cover is None
    assert frozen.frame(1).maps.shape == (1, 3, 1, 2, 2)  # type: ignore[union-attr]


def test_edges_are_steepness_and_coarser_maps_are_means_of_squares() -> None:
    clip = torch.full((3, 1, 8, 8), -1.0)
    clip[..., 4:] = 1.0
    edges = edges_of(clip)
    assert edges.shape == clip.shape
    assert torch.equal(edges[:, 0, :, :3], torch.full((3, 8, 3), -1.0))
    assert torch.equal(edges[:, 0, :, 3:5], torch.full((3, 8, 2), 1.0))
    maps = torch.rand(1, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(coarser(maps, 0), maps)
    once = torch.nn.functional.avg_pool2d(maps[0].transpose(0, 1), 2)
    once = torch.nn.functional.interpolate(once, size=(8, 8), mode="bilinear")
    torch.testing.assert_close(coarser(maps, 1)[0].transpose(0, 1), once)
    torch.testing.assert_close(coarser(maps, 7), maps.mean((3, 4), keepdim=True).expand_as(maps))
    assert (coarser(maps, 2) - maps).square().mean() > (coarser(maps, 1) - maps).square().mean() > 0


def test_what_lies_beside_a_clip_is_read_and_must_fit_it(tmp_path: Path) -> None:
    frames = torch.randint(256, (5, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    write_clip(frames, tmp_path / "a.webp", fps=8)
    write_clip(frames.flip(1), tmp_path / "a_depth.webp", fps=8)
    mask = torch.full((5, 3, 16, 16), 255, dtype=torch.uint8)
    mask[2:, :, :8] = 0
    write_clip(mask, tmp_path / "a_mask.mp4", fps=8)
    (tmp_path / "a_action.txt").write_text("jumps\n")
    file = ClipFile(tmp_path / "a.webp", "a dog jumps")
    known = digests(file.path)
    assert len(known) == 3
    (tmp_path / "a_action.txt").write_text("jumps high\n")
    assert digests(file.path)[:2] == known[:2]
    assert digests(file.path) != known, "a training does not go on with other maps or phrases"
    (tmp_path / "a_action.txt").write_text("jumps\n")
    (read,) = read_training_clips([file], size=(16, 16), multiple_of=4, reporter=SilentReporter())
    clip = in_unit_range(read)
    track = track_of(file, clip, Tracking(motion=True, structure="depth", masks=True), 4)
    assert track.maps is not None
    assert track.cover is not None
    assert (track.action, track.maps.shape, track.cover.shape) == ("jumps", (3, 5, 16, 16), (5, 4, 4))
    assert track.cover.mean((1, 2)).tolist() == pytest.approx([1, 1, 0.5, 0.5, 0.5], abs=0.05)
    assert [is_track(tmp_path / name) for name in ("a_depth.webp", "a.webp", "a_mask.gif")] == [True, False, True]
    assert not any(is_track(tmp_path / name) for name in ("pose.mp4", "depth.webp", "sad_pose.mp4")), "clips themselves"
    with pytest.raises(InputError, match=r"has no pose beside it; expected a_pose\.mp4"):
        track_of(file, clip, Tracking(structure="pose"), 4)
    with pytest.raises(InputError, match="has 5 frames and"):
        track_of(file, clip[:, :3], Tracking(structure="depth"), 4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"action": "waves", "intensity": 3.0}, "--action and --intensity go with a photo"),
        ({"intensity": 21.0}, "--intensity must be from 0"),
        ({"coarseness": 8}, "--coarseness must be 0 to 7"),
    ],
)
def test_directions_that_nobody_can_follow_are_refused(asked: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AskedDirections(**asked).check(has_photos=message.startswith("--action") is False)


def test_a_clip_of_maps_that_is_not_there_is_missed_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; expected a clip after --structure"):
        AskedDirections(structure=tmp_path / "no.mp4").check(has_photos=True)


def test_an_adapter_is_told_what_it_reads_and_nothing_else() -> None:
    with pytest.raises(UsageError, match="not told how clips move"):
        AskedDirections(action="waves").fitting(moves=False, structure="edges")
    with pytest.raises(UsageError, match="reads no maps"):
        AskedDirections(structure=Path("x.mp4")).fitting(moves=True, structure=None)
    with pytest.raises(UsageError, match="pass a clip of depth maps, with --structure"):
        AskedDirections().fitting(moves=False, structure="depth")
