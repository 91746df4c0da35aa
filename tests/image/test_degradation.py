"""Noise on what masks leave out: its course by hand, and pixels inside that stay."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.degradation import DegradeConfig, degraded
from pcs_ext.image.types import Batch


def test_strength_over_both_phases() -> None:
    first, second = DegradeConfig(end=0.4), DegradeConfig(begin=0.4)
    assert first.strength(199, 200) == pytest.approx(0.5 * (1 - 0.4**32))
    assert second.strength(299, 300) == pytest.approx(0), "at the end photos are seen as they are"
    assert second.strength(149, 300) == pytest.approx(0.5 * (1 - 0.7**32))
    assert DegradeConfig(gamma=1.0).strength(4, 10) == pytest.approx(0.25)


def test_inside_every_pixel_stays_and_outside_is_noise() -> None:
    masks = torch.zeros(2, 1, 8, 8)
    masks[..., :4] = 1
    images = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)
    batch = Batch(images=images, captions=("a", "b"), masks=masks, keys=("0", "1"))
    once, again = (degraded(batch, 0.5, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(once.images[..., :4], images[..., :4])
    assert torch.equal(once.images, again.images)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    expected = (images + 0.5 * noise).clamp(-1, 1)
    torch.testing.assert_close(once.images[..., 4:], expected[..., 4:])
    assert once.keys is None
    assert torch.equal(degraded(batch, 0.0, torch.Generator()).images, images)
    bare = Batch(images=images, captions=("a", "b"), keys=("0", "1"))
    assert degraded(bare, 0.5, torch.Generator()) is bare


def test_settings_are_checked() -> None:
    for wrong in ({"alpha": -1.0}, {"gamma": 0.0}, {"begin": 0.5, "end": 0.5}, {"end": 1.5}):
        with pytest.raises(ConfigError, match="out of range"):
            DegradeConfig(**wrong)
