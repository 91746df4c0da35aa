"""Parts of photos that are hidden: gray where they are, out of the mask, new in every step, never all."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.hiding import HideConfig, hidden
from pcs_ext.image.types import Batch

IMAGES = torch.linspace(0.1, 1, 2 * 3 * 64).view(2, 3, 8, 8)


def batch(masks: torch.Tensor | None = None) -> Batch:
    return Batch(images=IMAGES, captions=("a", "b"), masks=masks, keys=("0", "1"))


def test_squares_are_gray_and_do_not_count() -> None:
    settings = HideConfig(cells=4, share=0.5)
    drawn = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    away = drawn.repeat_interleave(2, 2).repeat_interleave(2, 3)
    masks = torch.zeros(2, 1, 8, 8)
    masks[..., 2:] = 1
    for given in (None, masks):
        found = hidden(batch(given), settings, torch.Generator().manual_seed(1))
        assert torch.equal(found.images, torch.where(away, torch.zeros(()), IMAGES))
        expected = torch.where(away, torch.zeros(()), torch.ones(2, 1, 8, 8) if given is None else masks)
        assert found.masks is not None
        assert torch.equal(found.masks, expected)
        assert found.keys is None
    other = hidden(batch(), settings, torch.Generator().manual_seed(2))
    assert not torch.equal(other.images, hidden(batch(), settings, torch.Generator().manual_seed(1)).images)


def test_a_mask_is_never_hidden_whole_and_nothing_is_hidden_of_a_share_of_none() -> None:
    masks = torch.zeros(2, 1, 8, 8)
    masks[0, 0, 0, 0] = masks[1, 0, 7, 7] = 1
    for seed in range(20):
        found = hidden(batch(masks), HideConfig(cells=2, share=0.9), torch.Generator().manual_seed(seed))
        assert found.masks is not None
        assert (found.masks.flatten(1).sum(1) == 1).all()
    assert torch.equal(hidden(batch(), HideConfig(share=0.0), torch.Generator()).images, IMAGES)
    for cells, share in ((0, 0.5), (8, 1.0)):
        with pytest.raises(ConfigError, match="1 cell or more and a share"):
            HideConfig(cells=cells, share=share)
