"""Full weights: of any part of a component, and of none twice."""

import itertools

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import FullConfig, build_adapter, injected

BOTH = FullConfig(components=("denoiser", "text_encoder"))


@pytest.mark.parametrize("part", ["token_embedding", "position_embedding", "layer_norm", "self_attn", "."])
def test_any_part_of_a_low_precision_text_encoder_trains_by_itself(part, sd_bf16, snapshot):
    before = snapshot(sd_bf16)
    plain = sd_bf16.encode_prompt(["a photo of a dog"]).states
    hooks = [len(module._forward_hooks) for module in sd_bf16.text_encoders[0].modules()]
    adapter = build_adapter("subject", FullConfig(components=("text_encoder",), include=(part,)))
    with injected(sd_bf16, adapter):
        states = sd_bf16.encode_prompt(["a photo of a dog"]).states
        torch.testing.assert_close(states.to(plain), plain, atol=0.05, rtol=0.05)
        states.float().square().sum().backward()
        assert all(p.dtype == torch.float32 for p in itertools.chain(*adapter.parameters().values()))
        assert any(p.grad is not None and p.grad.any() for p in itertools.chain(*adapter.parameters().values()))
    assert snapshot(sd_bf16) == before
    assert torch.equal(sd_bf16.encode_prompt(["a photo of a dog"]).states, plain)
    assert [len(module._forward_hooks) for module in sd_bf16.text_encoders[0].modules()] == hooks


def test_two_full_adapters_on_the_same_weights_are_refused(sd):
    with (
        injected(sd, build_adapter("subject", BOTH)),
        pytest.raises(UsageError, match="trained by another full adapter"),
    ):
        build_adapter("two", BOTH).inject(sd)
