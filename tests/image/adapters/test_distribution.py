"""A word for a distribution of prompts: its moments, its draws, and what pictures depend on."""

import dataclasses

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import DistributionConfig, EmbeddingConfig, SpectrumConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.image.terms import build_term
from pcs_ext.image.terms.diversity import DiversityConfig, mean_squared_cosine
from pcs_ext.image.types import Conditioning
from tests.image.terms.test_word_terms import step_of

CONFIG = DistributionConfig(placeholder="<rex>", meanings=3, num_vectors=2, spread=2.0, init_std=0.5)


@torch.no_grad()
def test_mean_and_deviation_are_those_of_the_encoded_meanings(sd: AbstractBackbone) -> None:
    """Each meaning encoded by itself, as a plain learned word."""
    adapter = build_adapter("word", CONFIG)
    with injected(sd, adapter):
        (weight,) = adapter.parameters()["embedding"]
        got = sd.encode_prompt(["a cat", "a photo of <rex> on the beach"])
    each = []
    for rows in weight:
        word = build_adapter("word", EmbeddingConfig(placeholder="<rex>", num_vectors=2))
        with injected(sd, word):
            word.parameters()["embedding"][0].copy_(rows)
            each.append(sd.encode_prompt(["a photo of <rex> on the beach"]).states[0])
    each = torch.stack(each)
    assert got.deviation is not None
    torch.testing.assert_close(got.states[1], each.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.deviation[1], 2.0 * each.std(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got.states[:1], sd.encode_prompt(["a cat"]).states)
    assert not got.deviation[0].any()


def test_draws_have_the_distribution() -> None:
    mean, deviation = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[0.5, 0.0]]])
    told = Conditioning(states=mean.expand(4000, -1, -1), deviation=deviation.expand(4000, -1, -1))
    drawn = told.drawn(torch.randn(4000, 1, 2, generator=torch.Generator().manual_seed(0)))
    assert drawn.deviation is None
    torch.testing.assert_close(drawn.states.mean(0), mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.states.std(0), deviation[0], atol=0.03, rtol=0)
    both = Conditioning.cat([told[:1], Conditioning(states=mean)])
    assert both.deviation is not None
    assert torch.equal(both.deviation, torch.cat([deviation, torch.zeros_like(deviation)]))


@torch.no_grad()
def test_a_picture_depends_on_its_own_seed_alone(sd: AbstractBackbone) -> None:
    adapter = build_adapter("word", CONFIG)
    config = SampleConfig(num_inference_steps=2, guidance_scale=3.0)
    with injected(sd, adapter):
        three = sample(sd, ["<rex>"] * 3, seeds=[5, 6, 5], config=config)
        one = sample(sd, ["<rex>"], seeds=[6], config=config)
        assert torch.equal(three[0], three[2])
        assert not torch.equal(three[0], three[1])
        torch.testing.assert_close(one[0], three[1], atol=1e-4, rtol=0)
    narrow = build_adapter("word", dataclasses.replace(CONFIG, spread=0.0))
    with injected(sd, narrow):
        assert not torch.equal(sample(sd, ["<rex>"], seeds=[6], config=config)[0], one[0])


def test_diversity_against_a_loop(sd: AbstractBackbone) -> None:
    vectors = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    pairs = [
        float(torch.nn.functional.cosine_similarity(vectors[i], vectors[j], dim=0)) ** 2
        for i in range(4)
        for j in range(4)
        if i != j
    ]
    torch.testing.assert_close(mean_squared_cosine(vectors), torch.tensor(sum(pairs) / 12))
    torch.testing.assert_close(mean_squared_cosine(torch.eye(3)), torch.tensor(0.0))
    adapter = build_adapter("word", CONFIG)
    with injected(sd, adapter):
        step = step_of(sd, {"word": adapter}, "<rex>")
        assert adapter.recent is not None  # type: ignore[attr-defined]
        end = 1 + CONFIG.num_vectors
        expected = 0.5 * mean_squared_cosine(adapter.recent[1][:, end])  # type: ignore[attr-defined]
        torch.testing.assert_close(build_term(DiversityConfig(weight=0.5))(step), expected)


def test_what_cannot_be_is_refused(sd: AbstractBackbone) -> None:
    with pytest.raises(ConfigError, match="at least 2 meanings"):
        DistributionConfig(meanings=1)
    words = build_adapter("one", SpectrumConfig(placeholder="<a>")), build_adapter("two", CONFIG)
    with injected(sd, *words), pytest.raises(ConfigError, match="depends on layer or timestep"):
        sd.encode_prompt(["<a> and <rex>"])
