"""Landmarks: drawn as they lie, read from files and detectors, and the world's own."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pcs_ext.errors import PhotoError, UsageError
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.landmarks import (
    GivenLandmarks,
    drawn,
    find_landmarks,
    load_landmark_detector,
    read_points,
    written,
)
from pcs_ext.image.reference.maps import check_maps, maps_of, read_given, stacked
from pcs_ext.reporter import SilentReporter
from pcs_ext.toybox.world.export_pairs import album_scenes
from pcs_ext.toybox.world.landmarks import landmarks
from pcs_ext.toybox.world.render import render
from tests.support.command_line import run

FACE = torch.tensor([[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.35, 0.7], [0.65, 0.7]])
PLACES = [(0, (1.0, 0.0, 0.0)), (1, (0.0, 1.0, 0.0)), (2, (0.0, 0.0, 1.0)), (3, (1.0, 1.0, 0.0)), (4, (1.0, 0.0, 1.0))]


def at(picture: Tensor, x: float, y: float) -> list[float]:
    height, width = picture.shape[1:]
    return picture[:, int(y * height), int(x * width)].tolist()


def test_points_are_coloured_and_sticks_dimmed_in_the_colour_of_their_outer_point() -> None:
    for side in (64, 256):
        made = drawn(FACE, (side, side))
        for index, colour in PLACES:
            assert at(made, *FACE[index].tolist()) == pytest.approx(colour, abs=1e-5)
            if index != 2:
                half = ((FACE[index] + FACE[2]) / 2).tolist()
                expected = [0.6 * part for part in colour]
                # A stick of one pixel may lie between two: the brightest beside its middle counts.
                x, y = (int(share * side) for share in half)
                near = made[:, y - 1 : y + 2, x - 1 : x + 2].flatten(1)
                most = near[:, near.sum(0).argmax()]
                assert most.tolist() == pytest.approx(expected, abs=0.6 * 0.35)
        assert made[:, : side // 5].max() == 0, "nothing reaches beyond the points"
        assert made[:, :, : side // 5].max() == 0
    # In 1,024 pixels a point has a radius of 10 and a stick half a width of 4.
    large = drawn(FACE, (1024, 1024))
    row = large[0, int(0.3 * 1024)]
    assert float((row == 1).sum()) == pytest.approx(20, abs=2)
    assert drawn(torch.zeros(0, 2), (8, 8)).max() == 0


def test_two_faces_are_not_joined() -> None:
    left, right = FACE * torch.tensor([0.4, 1.0]), FACE * torch.tensor([0.4, 1.0]) + torch.tensor([0.6, 0.0])
    both = drawn(torch.cat([left, right]), (100, 100))
    torch.testing.assert_close(both[:, :, :45], drawn(left, (100, 100))[:, :, :45])
    torch.testing.assert_close(both[:, :, 55:], drawn(right, (100, 100))[:, :, 55:])


def test_points_go_with_what_is_cut_out_of_their_photo() -> None:
    # Of a photo twice as wide as high the middle half of the columns is drawn: 0.5 stays, 0.3 goes to 0.1.
    given = GivenLandmarks(points=FACE, shape=(50, 100))
    moved = torch.stack([2 * FACE[:, 0] - 0.5, FACE[:, 1]], 1)
    torch.testing.assert_close(given.at("landmarks", (64, 64)), drawn(moved, (64, 64)))
    torch.testing.assert_close(given.at("landmarks", (32, 64)), drawn(FACE, (32, 64)))
    torch.testing.assert_close(GivenLandmarks(points=FACE).at("landmarks", (32, 64)), drawn(FACE, (32, 64)))


def test_files_hold_points_and_say_what_is_wrong_with_them(photos: Path, tmp_path: Path) -> None:
    (photo,) = find_photos(photos / "0.png")
    height, width = photo.image.shape[1:]
    file = photos / "landmarks" / "0.txt"
    file.parent.mkdir()
    file.write_bytes(written(FACE))
    torch.testing.assert_close(read_points(file), FACE)
    found = maps_of(photo, ("landmarks",))["landmarks"]
    assert isinstance(found, GivenLandmarks)
    assert found.shape == (height, width)
    made = stacked(maps_of(photo, ("landmarks",)), ("landmarks",), (64, 64))
    assert made.shape == (3, 64, 64)
    check_maps([photo], ("landmarks",), photos)
    given = read_given([f"landmarks-of={photos / '0.png'}"], ("landmarks",))
    torch.testing.assert_close(stacked(given, ("landmarks",), (64, 64)), made)
    given = read_given([f"landmarks={file}"], ("landmarks",))
    torch.testing.assert_close(stacked(given, ("landmarks",), (64, 64)), drawn(FACE, (64, 64)))
    picture = tmp_path / "drawn.png"
    Image.new("RGB", (40, 40), (255, 0, 0)).save(picture)
    given = read_given([f"landmarks={picture}"], ("landmarks",))
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 8, 8)
    torch.testing.assert_close(stacked(given, ("landmarks",), (8, 8)), red)
    with pytest.raises(PhotoError, match=r"1.png has no landmarks beside it; expected landmarks/1.txt"):
        read_given([f"landmarks-of={photos / '1.png'}"], ("landmarks",))
    with pytest.raises(UsageError, match="expected landmarks=FILE, landmarks-of=PHOTO"):
        read_given(["pose=x.png"], ("landmarks",))
    for text, message in (
        ("0.1 0.2\n", "holds 1 points; expected 5 for each face"),
        ("", "holds 0 points"),
        ("0.1 0.2 0.3\n" * 5, "holds no points"),
        ("a b\n" * 5, "holds no points"),
        ("0.1 nan\n" * 5, "has a point at"),
        ("120 40\n" * 5, "expected shares of the photo's width and height"),
    ):
        file.write_text(text)
        with pytest.raises(PhotoError, match=message):
            read_points(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PhotoError, match="holds no points"):
        read_points(file)


def red_spots(picture: Tensor) -> Any:
    """A detector of the tests: the corners and the middle of what is red."""
    assert picture.dtype == torch.uint8
    rows, columns = ((picture[0] > 200) & (picture[1] < 50)).nonzero(as_tuple=True)
    if not len(rows):
        return torch.zeros(0, 2)
    left, right, top, bottom = columns.min(), columns.max(), rows.min(), rows.max()
    middle = (float(left + right) / 2, float(top + bottom) / 2)
    corners = [(left, top), (right, top), middle, (left, bottom), (right, bottom)]
    return torch.tensor([[float(x), float(y)] for x, y in corners])


def no_points(picture: Tensor) -> Any:
    """A detector that gives something else."""
    return torch.zeros(3, 2)


def test_a_detector_of_ones_own_writes_files_beside_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for album, colour in (("one", "red"), ("two", "blue")):
        (tmp_path / "pairs" / album).mkdir(parents=True)
        picture = Image.new("RGB", (80, 40), "white")
        ImageDraw.Draw(picture).rectangle((8, 10, 40, 30), fill=colour)
        picture.save(tmp_path / "pairs" / album / "a.png")
    before = (tmp_path / "pairs" / "one" / "a.png").read_bytes()
    name = "tests.image.reference.test_landmarks:red_spots"
    code, out, err = run("reference", "landmarks", tmp_path / "pairs", "--detector", name, capture=capsys)
    file = tmp_path / "pairs" / "one" / "landmarks" / "a.txt"
    assert (code, out.split()) == (0, [str(file)]), err
    expected = torch.tensor([[0.1, 0.25], [0.5, 0.25], [0.3, 0.5], [0.1, 0.75], [0.5, 0.75]])
    torch.testing.assert_close(read_points(file), expected)
    assert (tmp_path / "pairs" / "one" / "a.png").read_bytes() == before
    file.write_bytes(written(FACE))
    assert find_landmarks([tmp_path / "pairs" / "one"], red_spots) == [file]
    torch.testing.assert_close(read_points(file), FACE)
    find_landmarks([tmp_path / "pairs" / "one" / "a.png"], red_spots, overwrite=True)
    torch.testing.assert_close(read_points(file), expected)
    with pytest.raises(PhotoError, match="found no face in 1 photos"):
        find_landmarks([tmp_path / "pairs" / "two"], red_spots)
    for wrong, message in (
        ("tests.image.reference.test_landmarks", "is unknown; expected MODULE:FUNCTION"),
        ("tests.image.reference.test_landmarks:nobody", "cannot be loaded"),
        ("no.such.module:f", "cannot be loaded"),
        ("tests.image.reference.test_landmarks:FACE", "is unknown"),
    ):
        with pytest.raises(UsageError, match=message):
            load_landmark_detector(wrong)
    with pytest.raises(UsageError, match="gave 3 points for .*expected 5 finite ones"):
        find_landmarks([tmp_path / "pairs" / "two"], no_points)
    given: Any
    for given in (torch.zeros(2, 5, 3), torch.zeros(2, 5), torch.zeros(5, 3), "five"):
        with pytest.raises(UsageError, match="the landmark detector gave (numbers of shape|str)"):
            find_landmarks([tmp_path / "pairs" / "two"], lambda pixels, given=given: given)
    assert find_landmarks([tmp_path / "pairs" / "two"], lambda pixels: torch.ones(2, 5, 2))


class Told(SilentReporter):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        self.events.append((name, message))


def test_photos_without_a_face_are_named_and_one_is_open_at_a_time(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "red")):
        picture = Image.new("RGB", (80, 40), "white")
        ImageDraw.Draw(picture).rectangle((8, 10, 40, 30), fill=colour)
        picture.save(tmp_path / f"{name}.png")
    Image.new("RGB", (80, 40), "red").save(tmp_path / "c_before.png")  # what c.png was made of is no photo of its own
    (tmp_path / "d.png").write_bytes(b"no picture")
    told, asked = Told(), [0]

    def counted(picture: Tensor) -> Any:
        asked[0] += 1
        return red_spots(picture)

    with pytest.raises(PhotoError, match="d.png is not an image"):
        find_landmarks([tmp_path], counted, reporter=told)
    files = [tmp_path / "landmarks" / f"{name}.txt" for name in ("a", "c")]
    assert all(file.exists() for file in files), "what was found before the fault is kept"
    assert told.events == [("no-face", f"no face found in {tmp_path / 'b.png'}")]
    (tmp_path / "d.png").unlink()
    (tmp_path / "a.png").write_bytes(b"is not opened again")
    assert find_landmarks([tmp_path], counted, reporter=told) == files
    assert asked == [4], "a, b and c, and then b again"
    assert told.events[-1] == ("landmarks", "no face in 1 of 3 photos, which are named above")
    Image.new("RGB", (80, 40), "white").save(tmp_path / "a.png")
    assert find_landmarks([tmp_path], counted, overwrite=True, reporter=told) == files[1:]
    assert told.events[-3][1] == f"no face found in {tmp_path / 'a.png'}; {files[0]} stays as it was"


def test_the_worlds_landmarks_lie_on_its_toys_and_turn_with_them() -> None:
    scenes = album_scenes(3, 4, seed=2)
    masks = render(scenes, resolution=64).mask
    for scene, mask in zip(scenes, masks, strict=True):
        points = landmarks(scene)
        assert points.shape == (5, 2)
        near = torch.nn.functional.max_pool2d(mask.float()[None], 17, 1, 8)[0]
        assert all(near[int(64 * y), int(64 * x)] > 0 for x, y in points.clamp(0, 0.99).tolist())
    (toy,) = scenes[0].objects
    straight = dataclasses.replace(toy, heading=0.0, roll=0.0, accessory="")
    for azimuth, sign in ((0.0, 1), (180.0, -1)):
        camera = dataclasses.replace(scenes[0].camera, azimuth=azimuth, elevation=0.0)
        points = landmarks(dataclasses.replace(scenes[0], objects=(straight,), camera=camera))
        assert sign * float(points[1, 0] - points[0, 0]) > 0, "the left of who looks at the front comes first"
        assert sign * float(points[4, 0] - points[3, 0]) > 0
        assert float(points[0, 1]) < float(points[3, 1]), "the head is above the neck"
    assert landmarks(album_scenes(0, 2, couple=True)[0]).shape == (10, 2)
