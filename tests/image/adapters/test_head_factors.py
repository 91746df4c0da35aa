"""Factors inside attention heads: against attention written out by hand, alone and under programs."""

import torch
from torch import Tensor

from pcs_ext.image.adapters import HeadFactorsAdapter, HeadFactorsConfig, injected
from pcs_ext.image.adapters.head_factors import HeadFactors
from pcs_ext.image.attention import attention_program
from tests.image.adapters.test_adapters import disturb

PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


def by_hand(attention, own: list[HeadFactors], hidden: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Output and probabilities, head by head."""
    size = attention.to_q.out_features // attention.heads
    out, maps = attention.to_out[0].bias.expand(hidden.shape[0], hidden.shape[1], -1).clone(), []
    for head in range(attention.heads):
        rows = slice(head * size, (head + 1) * size)
        scores = (hidden @ attention.to_q.weight[rows].T) @ (states @ attention.to_k.weight[rows].T).transpose(1, 2)
        for factors in own:
            rank = len(factors.query) // attention.heads
            at = slice(head * rank, (head + 1) * rank)
            scores = scores + (hidden @ factors.query[at].T) @ (states @ factors.key[at].T).transpose(1, 2)
        looks = (scores * size**-0.5).softmax(-1)
        maps.append(looks)
        out += looks @ (states @ attention.to_v.weight[rows].T) @ attention.to_out[0].weight[:, rows].T
        for factors in own:
            rank = len(factors.query) // attention.heads
            at = slice(head * rank, (head + 1) * rank)
            out += looks @ (states @ factors.value[at].T) @ factors.out[:, at].T
    return out, torch.stack(maps, 1)


@torch.no_grad()
def test_every_head_gains_its_products(sd):
    generator = torch.Generator().manual_seed(0)
    hidden, states = torch.randn(2, 9, 8, generator=generator), torch.randn(2, 20, 16, generator=generator)
    one, two = (HeadFactorsAdapter(name, HeadFactorsConfig(rank=rank)) for name, rank in (("one", 2), ("two", 3)))
    attention = sd.denoiser.get_submodule(PATH)
    plain, processor = attention(hidden, encoder_hidden_states=states), attention.processor
    with injected(sd, one, two):
        torch.testing.assert_close(attention(hidden, encoder_hidden_states=states), plain)
        for seed, adapter in enumerate((one, two)):
            disturb(adapter, seed=seed, size=0.5)
        own = [adapter.factors[PATH] for adapter in (one, two)]
        expected, maps = by_hand(attention, own, hidden, states)
        torch.testing.assert_close(attention(hidden, encoder_hidden_states=states), expected, rtol=1e-4, atol=1e-5)
        seen: list[Tensor] = []
        for place in ("probabilities", "scores"):
            with attention_program(sd, lambda _, x: seen.append(x) or x, [PATH], at=place):  # type: ignore[arg-type]
                within = attention(hidden, encoder_hidden_states=states)
            torch.testing.assert_close(within, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen[0], maps, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen[1].softmax(-1), maps, rtol=1e-4, atol=1e-5)
        one.set_scale(0.0)
        alone, _ = by_hand(attention, own[1:], hidden, states)
        torch.testing.assert_close(attention(hidden, encoder_hidden_states=states), alone, rtol=1e-4, atol=1e-5)
    assert attention.processor is processor


def test_a_subject_takes_six_megabytes_on_stable_diffusion():
    """Self- and cross-attentions of SD 1.x: eight heads, text states of 768 numbers."""
    generator, total = torch.Generator().manual_seed(0), 0
    for width, count in ((320, 5), (640, 5), (1280, 6)):
        for states in (width, 768):
            factors = HeadFactors(8, (width, states, width), 2, generator)
            total += count * sum(parameter.numel() for parameter in factors.parameters())
    assert total == 1_591_296
