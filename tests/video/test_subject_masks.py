"""Masks from the model's own attention to a noun."""

import dataclasses
from pathlib import Path

import torch

from pcs_ext.image.attention import attention_program
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.data import find_photos
from pcs_ext.video.subject_masks import attention_mask, with_masks


def test_photos_get_a_mask_of_their_size_and_keep_their_own(sd: AbstractUnetBackbone, photos: Path) -> None:
    found = find_photos(photos)
    own = torch.zeros(1, *found[0].image.shape[-2:])
    masked = with_masks([dataclasses.replace(found[0], mask=own), *found[1:]], sd, "toy dog")
    assert masked[0].mask is own
    for photo in masked[1:]:
        assert photo.mask is not None
        assert photo.mask.shape == (1, *photo.image.shape[-2:])
        assert set(photo.mask.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(photo.mask, attention_mask(photo.image, sd, "toy dog"))


def test_the_mask_is_where_attention_to_the_noun_is(sd: AbstractUnetBackbone, photos: Path) -> None:
    """Words are found by position: "a photo of a red dog" has the start mark, four words, then the noun's two."""
    image = find_photos(photos)[1].image

    def attend(path: str, probabilities: torch.Tensor) -> torch.Tensor:
        side = round(probabilities.shape[2] ** 0.5)
        left = (torch.arange(side * side) % side < side // 2).to(probabilities)
        to_noun, to_start = torch.zeros_like(probabilities), torch.zeros_like(probabilities)
        to_noun[..., 5:7], to_start[..., 0] = 0.5, 1.0
        return left[:, None] * to_noun + (1 - left[:, None]) * to_start

    # The mask's own program is put in later and sees what this one made.
    with attention_program(sd, attend):
        mask = attention_mask(image, sd, "red dog")
    width = mask.shape[-1]
    assert mask[..., : width // 2 - 3].min() == 1
    assert mask[..., width // 2 + 3 :].max() == 0
