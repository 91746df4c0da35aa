"""Keys and values beside the words': the residual they make has its closed form, and only marked prompts get it."""

from typing import Any

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import TextPrefixConfig, build_adapter, injected
from pcs_ext.image.adapters.text_prefix import Prefix, attend_with_prefix
from pcs_ext.image.backbone import AbstractBackbone


def attention_of(backbone: AbstractBackbone) -> Any:
    return next(m for name, m in backbone.text_encoders[0].named_modules() if name.endswith("self_attn"))


@torch.no_grad()
def test_it_is_a_mean_of_what_was_there_and_the_learned_value(sd: AbstractBackbone) -> None:
    """softmax over one more key = (1 - a) softmax + a, a = exp(q k') / (exp(q k') + sum of the others)."""
    attention = attention_of(sd)
    heads, scale = attention.num_heads, attention.scale
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 6, attention.embed_dim, generator=generator)
    prefix = Prefix(attention.embed_dim, TextPrefixConfig(), generator)

    def split(states: torch.Tensor) -> torch.Tensor:
        return states.reshape(*states.shape[:-1], heads, -1).transpose(-3, -2)

    queries, keys, values = (split(part(hidden)) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    scores = scale * queries @ keys.transpose(-1, -2)
    scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    drawn = (scale * queries @ split(prefix.key).transpose(-1, -2)).exp()
    share = drawn / (drawn + scores.exp().sum(-1, keepdim=True))
    mixed = (1 - share) * (scores.softmax(-1) @ values) + share * split(prefix.value)
    expected = attention.out_proj(mixed.transpose(1, 2).reshape(hidden.shape))
    torch.testing.assert_close(attend_with_prefix(attention, hidden, prefix), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_only_marked_prompts_get_it_and_two_adapters_leave_in_any_order(sd: AbstractBackbone) -> None:
    plain = sd.encode_prompt(["a dog on the beach", "a cat"]).states
    one = build_adapter("one", TextPrefixConfig(placeholder="<a>", layers=2))
    two = build_adapter("two", TextPrefixConfig(placeholder="<b>", layers=1, init_seed=1))
    for adapter in (one, two):
        adapter.inject(sd)
    states = sd.encode_prompt(["a <a> dog on the beach", "a cat", "a <b> dog on the beach"]).states
    assert torch.equal(states[1], plain[1])
    assert not torch.allclose(states[0], plain[0])
    assert not torch.allclose(states[0], states[2])
    one.set_scale(0)
    assert torch.equal(sd.encode_prompt(["a <a> dog on the beach", "a cat"]).states, plain)
    one.eject()
    again = sd.encode_prompt(["a cat", "a <b> dog on the beach"]).states
    torch.testing.assert_close(again[1], states[2])
    two.eject()
    assert torch.equal(sd.encode_prompt(["a dog on the beach", "a cat"]).states, plain)


def test_the_papers_size_and_what_does_not_fit(sd: AbstractBackbone) -> None:
    adapter = build_adapter("a", TextPrefixConfig(layers=2, num_vectors=3))
    with injected(sd, adapter):
        width = sd.text_encoders[0].config.hidden_size
        assert (
            sum(p.numel() for p in adapter.parameters()["embedding"]) == 2 * 2 * 3 * width
        )  # 4,608 on SD 1.x: 3 x 2 x 768
    with pytest.raises(ConfigError, match="layers is 3, expected at most that"):
        build_adapter("a", TextPrefixConfig()).inject(sd)
    with pytest.raises(ConfigError, match="layers must be at least 1"):
        TextPrefixConfig(layers=0)
