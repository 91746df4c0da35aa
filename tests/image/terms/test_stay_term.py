"""How far weights have gone: by hand, and what it pulls."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.terms import StayConfig, build_term
from tests.image.terms.test_context_term import step_of


def test_the_sum_of_squares(sd: AbstractBackbone) -> None:
    weights = build_adapter("weights", FullConfig(components=("denoiser",), include=(r"conv_out",)))
    term = build_term(StayConfig(weight=0.5))
    with injected(sd, weights):
        step = step_of(sd, {"weights": weights})
        assert term(step) == 0
        parameters = weights.parameters()["denoiser"]
        with torch.no_grad():
            for parameter in parameters:
                parameter += 0.1
        count = sum(parameter.numel() for parameter in parameters)
        torch.testing.assert_close(term(step), torch.tensor(0.5 * 0.01 * count), rtol=1e-4, atol=0.0)
        (gradient, *_) = torch.autograd.grad(term(step), parameters)
        torch.testing.assert_close(gradient, torch.full_like(gradient, 0.1), rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="adapters of kind full; the recipe has none"):
        term(step_of(sd, {}))
