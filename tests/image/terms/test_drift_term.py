"""The drift of whole weights, by hand."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullConfig, LowRankConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.terms import DriftConfig, build_term
from tests.image.terms.test_context_term import step_of


def test_the_mean_distance_of_all_weights_to_the_base(sd: AbstractBackbone) -> None:
    adapter = build_adapter("whole", FullConfig(include=(r"attn2\.to_k",)))
    term = build_term(DriftConfig(weight=2.0))
    with injected(sd, adapter):
        (parameters,) = adapter.parameters().values()
        step = step_of(sd, {"whole": adapter})
        assert term(step) == 0
        with torch.no_grad():
            parameters[0].add_(0.5)
            parameters[1].sub_(1.0)
        moved = 0.5 * parameters[0].numel() + parameters[1].numel()
        total = sum(parameter.numel() for parameter in parameters)
        found = term(step)
        torch.testing.assert_close(found, torch.tensor(2 * moved / total), rtol=1e-5, atol=0)
        found.backward()
        assert parameters[0].grad is not None
        assert parameters[1].grad is not None
        # || . ||_1 pulls every moved weight by the same amount, against the way it went.
        torch.testing.assert_close(parameters[0].grad, torch.full_like(parameters[0], 2 / total))
        torch.testing.assert_close(parameters[1].grad, torch.full_like(parameters[1], -2 / total))


def test_the_sum_of_squares(sd: AbstractBackbone) -> None:
    weights = build_adapter("weights", FullConfig(components=("denoiser",), include=(r"conv_out",)))
    term = build_term(DriftConfig(weight=0.5, measure="sum_of_squares"))
    with injected(sd, weights):
        step = step_of(sd, {"weights": weights})
        parameters = weights.parameters()["denoiser"]
        with torch.no_grad():
            for parameter in parameters:
                parameter += 0.1
        count = sum(parameter.numel() for parameter in parameters)
        torch.testing.assert_close(term(step), torch.tensor(0.5 * 0.01 * count), rtol=1e-4, atol=0.0)
        (gradient, *_) = torch.autograd.grad(term(step), parameters)
        torch.testing.assert_close(gradient, torch.full_like(gradient, 0.1), rtol=1e-4, atol=1e-6)


def test_updates_beside_the_weights_have_no_drift(sd: AbstractBackbone) -> None:
    adapter = build_adapter("lora", LowRankConfig(rank=2))
    with injected(sd, adapter), pytest.raises(ConfigError, match="none of the adapters"):
        build_term(DriftConfig())(step_of(sd, {"lora": adapter}))
