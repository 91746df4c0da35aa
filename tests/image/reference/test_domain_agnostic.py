"""The domain-agnostic tuning encoder: its contrast by hand, words that are real, and attentions in two paths."""

import dataclasses
from pathlib import Path

import torch
from torch import nn

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.shown import Shown
from pcs_ext.image.reference.systems.domain_agnostic import (
    DomainAgnosticEncoder,
    UpdateHeads,
    blended,
    nearest,
    neighbour_contrast,
    vocabularies,
)
from tests.support.tiny_reference import at_random, drawn, layers, tiny_system


def test_words_are_pulled_to_their_neighbours_and_pushed_from_each_other() -> None:
    """Words (1, 0) and (0, 2): one neighbour each, at cosines 1 and 0.8; between them 0."""
    words, table = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.6, 0.8], [0.0, -1.0]])
    assert nearest(words, table, 2).tolist() == [[0, 1], [1, 0]]
    losses = [torch.tensor([cosine, 0.0]).div(0.5).logsumexp(0) - cosine / 0.5 for cosine in (1.0, 0.8)]
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(neighbour_contrast(words, table, 1, 0.5), expected)
    # Two neighbours: their exponentials add up, above and below.
    first = torch.tensor([1.0, 0.6, 0.0]).logsumexp(0) - torch.tensor([1.0, 0.6]).logsumexp(0)
    second = torch.tensor([0.8, 0.0, 0.0]).logsumexp(0) - torch.tensor([0.8, 0.0]).logsumexp(0)
    torch.testing.assert_close(neighbour_contrast(words, table, 2, 1.0), (first + second) / 2)
    assert neighbour_contrast(words[:1], table, 1, 1.0) == 0, "nothing to be told from"


def test_heads_begin_at_nothing_and_give_factors_of_each_layer() -> None:
    torch.manual_seed(0)
    heads = UpdateHeads(6, {"a.to_q": (4, 3)}, 2)
    up, down = heads(drawn(5, 6))["a.to_q"]
    assert (up.shape, down.shape) == ((5, 4, 2), (5, 2, 3))
    assert not up.any()
    assert down.abs().amax((1, 2)).min() > 0.1
    nn.init.normal_(heads.up["a_to_q"].weight)  # type: ignore[arg-type]
    up, down = heads(drawn(5, 6))["a.to_q"]
    assert (up[0] - up[1]).abs().max() > 0.1


@torch.no_grad()
def test_what_attentions_put_out_is_blended_in_a_row_and_its_double(sd: AbstractBackbone) -> None:
    path = sd.cross_attention_paths()[0]
    attention = sd.denoiser.get_submodule(path)
    cells, text = drawn(3, 5, attention.to_q.weight.shape[1]), drawn(3, 4, attention.to_k.weight.shape[1], seed=1)  # type: ignore[union-attr, operator]
    plain = attention(cells, encoder_hidden_states=text)
    with blended(sd, torch.tensor([1]), 2, 0.75):
        mixed = attention(cells, encoder_hidden_states=text)
        assert torch.equal(attention(cells[:2], encoder_hidden_states=text[:2]), attention(cells[:2], text[:2]))
    torch.testing.assert_close(mixed[1], 0.75 * plain[1] + 0.25 * plain[2])
    assert torch.equal(mixed[1], mixed[2])
    assert torch.equal(mixed[0], plain[0])


@torch.no_grad()
def test_the_hard_path_is_the_base_with_the_nearest_real_word(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("domain-agnostic-encoder", sd, eye)
    assert isinstance(adapter, DomainAgnosticEncoder)
    at_random(adapter, sd)
    adapter.eval()
    shown = Shown(sight=layers(), nouns=(("dog",),))
    prompt, noisy, timesteps = "the dog on beach", drawn(1, 4, 8, 8, seed=4), torch.tensor([300])
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, [prompt], shown)
        both = sd.predict(noisy, timesteps, told)
        assert adapter._made is not None
        # A word that lies beside "cat" stands for it in the hard path.
        table = vocabularies(sd)[0]
        cat = sd.tokenizers[0]("cat", add_special_tokens=False).input_ids[0]
        adapter._made = [table[[cat]] + 1e-3]
        hard = adapter._hard(sd, told)
        torch.testing.assert_close(hard.states, sd.encode_prompt(["the cat on beach"]).states, atol=1e-5, rtol=1e-4)
        plain = sd.predict(noisy, timesteps, sd.encode_prompt([prompt]))
    adapter.config = dataclasses.replace(adapter.config, blend=1.0)
    with adapter.inserted(sd):
        soft = sd.predict(noisy, timesteps, adapter.conditioned(sd, sd.encode_prompt, [prompt], shown))
    assert (both - plain).abs().max() > 1e-3
    assert (both - soft).abs().max() > 1e-4


@torch.no_grad()
def test_an_untrained_word_is_as_long_as_the_vocabularys(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("domain-agnostic-encoder", sd, eye)
    assert isinstance(adapter, DomainAgnosticEncoder)
    adapter.eval()
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, ["the dog"], Shown(sight=layers(), nouns=(("dog",),)))
        sd.predict(drawn(1, 4, 8, 8), torch.tensor([300]), told)
        assert adapter._made is not None
        length = float(adapter._made[0].norm())
    assert 0.2 * adapter.length[0] < length < 3 * adapter.length[0]
