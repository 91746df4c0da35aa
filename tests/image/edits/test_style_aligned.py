"""Shared attention: its parts by hand, the first picture left alone, exactness when it is off, given pictures."""

import dataclasses
import math

import pytest
import torch

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.aligned_pictures import draw_aligned
from pcs_ext.image.edits.cast import open_cast
from pcs_ext.image.edits.style_aligned import (
    Reference,
    Share,
    StyleAlignedConfig,
    sample_aligned,
    shared,
    shifted,
    style_aligned,
)
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.runtime import seed_for

SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=3, guidance_scale=2.0)
PROMPTS = ["a red dog", "a blue cat", "a toy in snow"]
OFF = {"attend": False, "normalise": False, "group_norm": False}


def quick(**changes) -> StyleAlignedConfig:
    return dataclasses.replace(style_aligned("toybox"), **{"sampling": SAMPLING, "lead": 1, **changes})


def test_the_parts_by_hand() -> None:
    features = torch.randn(6, 10, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)[:, None, None]
    share = Share(3, guided=True)
    assert torch.equal(share.first(features), features[[0, 0, 0, 3, 3, 3]])
    same = share.normalised(features)
    torch.testing.assert_close(same[[0, 3]], features[[0, 3]])
    torch.testing.assert_close(same[2].mean(0), features[0].mean(0))
    torch.testing.assert_close(same[5].std(0), features[3].std(0), atol=1e-4, rtol=1e-4)
    joined = share.joined(features, 0.5)
    assert torch.equal(joined[:, :10], features)
    assert torch.equal(joined[1, 10:], 0.5 * features[0])
    assert torch.equal(joined[3, 10:], features[3]), "the first picture sees itself as it is"
    probabilities = shifted(torch.zeros(1, 1, 2, 4), math.log(2)).softmax(-1)
    torch.testing.assert_close(probabilities[0, 0, 0], torch.tensor([1, 1, 2, 2]) / 6)
    assert torch.equal(Share(2, guided=False).first(features[:2]), features[[0, 0]])


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_the_first_picture_stays_and_the_others_follow_it(family: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(family)
    seeds = [4, seed_for(4, "style", 1), seed_for(4, "style", 2)]
    with torch.no_grad():
        plain = sample(backbone, PROMPTS, seeds=seeds, config=SAMPLING)
    assert torch.equal(sample_aligned(backbone, PROMPTS, seed=4, config=quick(**OFF)), plain)
    for one in OFF:
        made = sample_aligned(backbone, PROMPTS, seed=4, config=quick(**{**OFF, one: True}))
        torch.testing.assert_close(made[0], plain[0], atol=2e-4, rtol=1e-3)
        assert (made[1:] - plain[1:]).abs().amax((1, 2, 3)).min() > 1e-4, one


def test_attention_to_the_first_picture_is_what_concatenation_says(sd: AbstractBackbone) -> None:
    """Against the sum written out by hand in one layer, fused kernel or not."""
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    attention = sd.denoiser.get_submodule(path)
    states = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1))
    query, key, value = attention.to_q(states), attention.to_k(states), attention.to_v(states)
    heads = attention.heads

    def mixed(keys: torch.Tensor, values: torch.Tensor, shift: float) -> torch.Tensor:
        q, k, v = (x.unflatten(1, (heads, -1)).transpose(0, 1) for x in (query[1], keys, values))
        scores = attention.scale * q @ k.transpose(1, 2)
        scores[..., 16:] += shift
        return attention.to_out[0]((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))

    both = torch.cat([key[1], key[0]]), torch.cat([value[1], value[0]])
    for given, shift in ((False, 0.0), (True, 0.7)):
        config = quick(normalise=False, group_norm=False, reference_shift=0.7)
        with shared(sd, config, 2, guided=False, given=given):
            out = attention(states)
        torch.testing.assert_close(out[1], mixed(*both, shift))


def test_a_given_picture_gives_its_style_and_is_not_among_the_results(sd: AbstractBackbone) -> None:
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    reference = Reference(picture, "a toy on grass")
    made = sample_aligned(sd, ["a red dog"], seed=0, config=quick(), reference=reference)
    assert made.shape == (1, 3, 32, 32)
    other = Reference(picture.flip(-1) * 0.3, "a toy on grass")
    assert not torch.equal(made, sample_aligned(sd, ["a red dog"], seed=0, config=quick(), reference=other))
    off = sample_aligned(sd, ["a red dog"], seed=0, config=quick(**OFF, reference_shift=0.0), reference=reference)
    assert torch.equal(
        off, sample_aligned(sd, ["a red dog"], seed=0, config=quick(**OFF, reference_shift=0.0), reference=other)
    ), "with nothing shared the reference does not matter"
    with pytest.raises(UsageError, match="lead 3 must be less than the 3 steps"):
        sample_aligned(sd, ["a red dog"], seed=0, config=quick(lead=3), reference=reference)
    with pytest.raises(UsageError, match="two prompts or more, or one and a reference; got 1"):
        sample_aligned(sd, ["a red dog"], seed=0, config=quick())


def test_sets_of_pictures(sd: AbstractBackbone) -> None:
    made = draw_aligned(open_cast(), PROMPTS, seeds=[0, 1], config=quick(), base=sd)
    assert [(image.prompt, image.facts["seed"]) for image in made] == [(p, s) for s in (0, 1) for p in PROMPTS]
    with pytest.raises(UsageError, match="go together; one of them is missing"):
        draw_aligned(open_cast(), PROMPTS, seeds=[0], config=quick(), reference_prompt="a dog", base=sd)
    with pytest.raises(UsageError, match="at least one seed"):
        draw_aligned(open_cast(), PROMPTS, seeds=[], config=quick(), base=sd)
    with pytest.raises(ConfigError, match="expected scheduler 'ddim'"):
        quick(sampling=SampleConfig())


def test_a_given_picture_takes_the_shape_of_the_results(sd: AbstractBackbone) -> None:
    tall = quick(sampling=dataclasses.replace(SAMPLING, height=48))
    given = torch.rand(3, 40, 70, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = draw_aligned(
        open_cast(), ["a red dog"], seeds=[0], config=tall, reference=given, reference_prompt="a cat", base=sd
    )  # fmt: skip
    assert made[0].image.size == (32, 48)
