"""Faces are found in a real photograph, protected alone, and counted in what attackers painted."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from pcs_ext.defense.budget import Budget
from pcs_ext.defense.canvas import Canvas
from pcs_ext.defense.faces import Box, cascade_faces, face_mask, load_detector, score_faces
from pcs_ext.defense.photos import OwnPhoto, read_own_photo
from pcs_ext.defense.protect import Options, protect
from pcs_ext.defense.regions import on_faces, on_subject
from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.toybox.world.subjects import reference_photos


def astronaut() -> Image.Image:
    """NASA's portrait of Eileen Collins, which ships with scikit-image: one face at about (220, 110)."""
    return Image.fromarray(data.astronaut())


def no_faces(picture: torch.Tensor) -> list[Box]:
    """A detector that never finds any."""
    return []


def bright_side(picture: torch.Tensor) -> list[Box]:
    """A detector of pictures whose left half is bright: its "face" is that half."""
    half = picture.shape[2] // 2
    left = picture[:, :, :half].float().mean()
    return [Box(0, 0, half, picture.shape[1])] if left > 128 else []


def test_the_cascade_finds_a_real_face_at_several_sizes() -> None:
    for side in (256, 512, 900):
        levels = torch.from_numpy(np.array(astronaut().resize((side, side)))).permute(2, 0, 1)
        box = cascade_faces(levels)[0]
        scale = side / 512
        assert 150 < (box.left + box.right) / 2 / scale < 290
        assert 50 < (box.top + box.bottom) / 2 / scale < 180
    assert cascade_faces(torch.full((3, 200, 200), 90, dtype=torch.uint8)) == []
    assert cascade_faces(torch.zeros(3, 1, 1, dtype=torch.uint8)) == []


def test_boxes_are_widened_and_cut_at_the_edge() -> None:
    mask = face_mask([Box(4, 8, 12, 16)], 20, 13)
    assert mask[6:18, 2:13].all()
    assert int(mask.sum()) == 12 * 11
    assert not face_mask([], 5, 5).any()


def test_only_faces_change_and_an_unseen_face_is_not_left_alone(tmp_path: Path, sd: AbstractBackbone) -> None:
    album = tmp_path / "album"
    album.mkdir()
    astronaut().resize((160, 160)).save(album / "a.png")
    Image.new("RGB", (50, 40), (90, 120, 90)).save(album / "b.png")
    options = Options(noun="person", region="faces", seed=1)
    report = protect(album, output=tmp_path / "out", recipe="photoguard", base=sd, steps=2, options=options)
    original, written = (read_own_photo(place / "a.png").pixels for place in (album, tmp_path / "out"))
    changed = (original != written).any(0)
    mask = face_mask(cascade_faces(original), 160, 160)
    assert changed[mask].float().mean() > 0.8
    assert not changed[~mask].any()
    assert "1 face found" in report.photos["a.png"]["notes"][0]
    assert "no face was found: all of the photo was changed" in report.photos["b.png"]["notes"]
    assert (read_own_photo(album / "b.png").pixels != read_own_photo(tmp_path / "out" / "b.png").pixels).any()


def test_detectors_are_pluggable_and_mistakes_are_named() -> None:
    assert load_detector("tests.defense.test_faces:no_faces")(torch.zeros(3, 4, 4, dtype=torch.uint8)) == []
    for name in ("retina", "tests.defense.test_faces:nothing", "no_such_module:f", "json:__doc__", ":"):
        with pytest.raises(UsageError, match="face detector"):
            load_detector(name)


def test_scores_tell_survivors_from_all() -> None:
    bright, dark = torch.ones(3, 8, 8), -torch.ones(3, 8, 8)

    def encoder(crops: torch.Tensor) -> torch.Tensor:
        return crops.flatten(1)

    score = score_faces(torch.stack([bright, dark, dark, bright]), bright[None], bright_side, encoder)
    assert (score.fdfr, score.faces, score.pictures) == (0.5, 2, 4)
    assert score.ism == pytest.approx(1.0)
    assert score.ism_of_all == pytest.approx(0.5)
    none = score_faces(dark[None], bright[None], bright_side, encoder)
    assert (none.fdfr, none.ism, none.ism_of_all) == (1.0, None, None)
    beside = score_faces(bright[None], bright[None], lambda picture: [Box(-9, 0, -1, 8)], encoder)
    assert (beside.fdfr, beside.faces) == (1.0, 0)


def test_the_background_is_kept_where_the_base_finds_the_subject(toybox: AbstractBackbone, tmp_path: Path) -> None:
    shots = reference_photos("rex", 128, 2)
    overlaps = []
    for image, truth in zip(shots.images, shots.masks, strict=True):
        pixels = ((image + 1) * 127.5).round().to(torch.uint8)
        photo = OwnPhoto(path=tmp_path / "a.png", sha256="0" * 64, pixels=pixels)
        limited = on_subject(photo, Canvas(photo, Budget()), toybox, "robot")
        assert limited.mask is not None
        assert "robot found" in limited.notes[0]
        overlaps.append(float((limited.mask & (truth[0] > 0.5)).sum() / (limited.mask | (truth[0] > 0.5)).sum()))
    assert sum(overlaps) / 2 > 0.3
    gray = dataclasses.replace(photo, pixels=torch.full((3, 64, 64), 128, dtype=torch.uint8))
    assert on_faces(gray, no_faces).mask is None
