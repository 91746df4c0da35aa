"""A subject that is moved about: all of it, nothing else, anywhere, in any size."""

import dataclasses

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.data import Augmentation, Photo, SubjectDataset
from pcs_ext.image.data.cutout import moved_about
from pcs_ext.image.masks import bounding_box
from pcs_ext.image.recipes import RECIPES


def subject() -> tuple[torch.Tensor, torch.Tensor]:
    """A square of one colour, 8 of 32 pixels wide, on noise."""
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(1, 32, 32)
    image[:, 4:12, 20:28], mask[:, 4:12, 20:28] = 0.75, 1
    return image, mask


def test_the_subject_keeps_its_colour_and_nothing_else_comes_along() -> None:
    image, mask = subject()
    sizes, places = [], []
    for seed in range(40):
        moved, where = moved_about(image, mask, torch.Generator().manual_seed(seed))
        assert moved.shape == image.shape
        assert where.shape == mask.shape
        inside = where[0] > 0.999
        assert (moved[:, inside] - 0.75).abs().max() < 0.01
        assert not moved[:, where[0] == 0].any(), "outside there is plain gray"
        left, top, right, bottom = bounding_box(where[None])
        sizes.append(max(right - left, bottom - top))
        places.append((left + right) / 2)
    assert 9 <= min(sizes) < 13
    assert 25 < max(sizes) <= 29
    assert min(places) < 10
    assert max(places) > 22


def test_several_masks_move_as_one_and_an_empty_one_moves_nothing() -> None:
    image, mask = subject()
    parts = torch.cat([mask.clone(), mask.clone()])
    parts[0, :, 24:], parts[1, :, :24] = 0, 0
    _, where = moved_about(image, parts, torch.Generator().manual_seed(3))
    (_, _, middle, _), (other, _, _, _) = (bounding_box(part[None, None]) for part in where)
    assert abs(middle - other) <= 1
    same, empty = moved_about(image, torch.zeros(1, 32, 32), torch.Generator().manual_seed(0))
    assert torch.equal(same, image)
    assert not empty.any()


def test_batches_follow_the_generator_and_are_not_cached(tmp_path) -> None:
    image, mask = subject()
    photo = Photo(path=tmp_path / "0.png", image=image, mask=mask)
    concept = dataclasses.replace(RECIPES["pacgen"].build("dog", "toybox").concept, token="sks")
    data = SubjectDataset([photo], concept, resolution=32, augmentation=Augmentation(cutout=True))
    first, second = (data.batch(2, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images[0], first.images[1])
    assert first.keys is None
    assert first.masks is not None
    assert bool((first.masks.mean((1, 2, 3)) < 0.9).all())
    bare = SubjectDataset([dataclasses.replace(photo, mask=None)], concept, resolution=32,
                          augmentation=Augmentation(cutout=True))  # fmt: skip
    assert torch.equal(bare.batch(1, torch.Generator()).images[0], image)
    with pytest.raises(ConfigError, match="cutout moves subjects in squares"):
        Augmentation(cutout=True, relocate=True)
