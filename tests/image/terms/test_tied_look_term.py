"""Tied looks: two maps divided by their largest value, by hand."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import ReferenceAdapter, ReferenceConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.terms import TiedLookConfig, build_term
from tests.image.terms.test_context_term import step_of


def test_against_maps_by_hand(sd: AbstractBackbone) -> None:
    adapter = ReferenceAdapter("picture", ReferenceConfig())
    term = build_term(TiedLookConfig(weight=2.0))
    with pytest.raises(ConfigError, match="maps of an adapter of kind reference"):
        term(step_of(sd, {"picture": adapter}))
    word = torch.tensor([[1.0, 2.0], [0.0, 4.0]], requires_grad=True)
    adapter.maps = word, torch.tensor([[5.0, 5.0], [3.0, 6.0]])
    found = term(step_of(sd, {"picture": adapter}))
    torch.testing.assert_close(found, torch.tensor(2 * (0.5**2 + 0 + 0.5**2 + 0) / 4))
    found.backward()
    assert word.grad is not None
    assert word.grad.any()
