"""Squares around things: where they are, what they say, and what photos must have."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import PhotoError
from pcs_ext.image.data import Photo
from pcs_ext.image.data.concept_crops import concept_crops, square_around
from pcs_ext.image.recipes import RECIPES


def test_squares_stay_in_the_picture() -> None:
    mask = torch.zeros(40, 60)
    mask[10:20, 5:15] = 1
    assert square_around(mask) == (slice(9, 21), slice(4, 16)), "a tenth on each side"
    mask[:] = 0
    mask[:4, 50:] = 1
    assert square_around(mask) == (slice(0, 12), slice(48, 60)), "moved into the picture"
    assert square_around(torch.ones(40, 60)) == (slice(0, 40), slice(0, 60)), "no larger than it"


def test_every_thing_is_a_picture_with_its_line(tmp_path: Path) -> None:
    parts = torch.zeros(2, 80, 80)
    parts[0, :40, :40], parts[1, 50:60, 50:60] = 1, 1
    image = torch.rand(3, 80, 80, generator=torch.Generator().manual_seed(0)) * 2 - 1
    photo = Photo(
        path=tmp_path / "a.png", image=image, mask=parts.amax(0, keepdim=True), parts=parts,
        caption="a house and a tree {subject}\na house {subject}\n\na tree {subject}\n",
    )  # fmt: skip
    plain = Photo(path=tmp_path / "b.png", image=image)
    whole, house, tree, other = concept_crops([photo, plain])
    assert (whole.caption, whole.mask, whole.parts) == ("a house and a tree {subject}", None, None)
    assert house.caption == "a house {subject}"
    assert torch.equal(house.image, image[:, :48, :48])
    assert house.mask is not None
    assert house.mask.sum() == 40 * 40
    assert tree.image.shape == (3, 32, 32), "enlarged to what can be read"
    assert other is plain
    with pytest.raises(PhotoError, match="has 2 numbered masks and 1 lines in a.txt; expected 3"):
        concept_crops([dataclasses.replace(photo, caption="a house")])
    with pytest.raises(PhotoError, match=r"put black and white b_mask1\.png"):
        RECIPES["finestyle"].build("in flat style", "toybox").check_photos([plain])
    black = dataclasses.replace(photo, parts=torch.stack([parts[0], torch.zeros(80, 80)]))
    with pytest.raises(PhotoError, match="is black; expected one thing"):
        concept_crops([black])
