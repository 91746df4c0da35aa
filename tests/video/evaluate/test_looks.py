"""Steadiness of frames, and what of a reference's looks came along; against hand-made values."""

import pytest
import torch

from pcs_ext.video.evaluate import leaked_attributes, temporal_consistency

ASKED = {"class": "dog", "context": "in the snow", "style": "a photo of"}
REFERENCE = {"class": "car", "context": "at night", "style": "a photo of"}


def test_steadiness_is_the_mean_cosine_of_neighbours() -> None:
    still = torch.tensor([[1.0, 0.0]] * 3)
    turning = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert temporal_consistency(torch.stack([still, turning])).tolist() == pytest.approx([1.0, 0.4])


def test_only_what_should_differ_can_leak() -> None:
    """Two frames: the first shows the reference's class, the second its place; the style is the same in both."""
    read = [{**ASKED, "class": "car"}, {**ASKED, "context": "at night"}]
    assert leaked_attributes(read, REFERENCE, ASKED) == 0.5
    assert leaked_attributes([ASKED, ASKED], REFERENCE, ASKED) == 0
    assert leaked_attributes([REFERENCE], REFERENCE, ASKED) == 1
    assert leaked_attributes([{"class": "cat", "context": "on the beach"}], REFERENCE, ASKED) == 0
    assert leaked_attributes([ASKED], REFERENCE, {"style": "a photo of", "view": "front view"}) is None
