"""Pictures in the prompt's place (Prompt-Free Diffusion) and behind it as context (Context Diffusion)."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import Reading
from pcs_ext.image.reference.control import controlled
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.context_diffusion import ContextDiffusion, ContextDiffusionConfig
from pcs_ext.image.reference.systems.prompt_free_diffusion import (
    ContextQueries,
    LevelDecoder,
    PromptFreeConfig,
    PromptFreeDiffusion,
)
from pcs_ext.image.types import Conditioning
from tests.support.tiny_conditions import NOISY, PROMPTS, TIMES, pictures, predicted, random_maps, system
from tests.support.tiny_reference import HIDDEN, drawn


@torch.no_grad()
def test_seecoders_queries_ask_levels_in_turns_and_mix_with_the_global_ones() -> None:
    config = PromptFreeConfig(query_depth=3, query_hidden=12, heads=2, global_queries=1, local_queries=3)
    queries = ContextQueries(config, 2, 8)
    for parameter in queries.parameters():
        nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(len(parameter)))
    levels = [drawn(2, 5, 8, seed=1), drawn(2, 5, 8, seed=2)]

    def attended(layer: Any, asking: Tensor, keys: Tensor, values: Tensor, rest: Tensor) -> Tensor:
        attention = layer.attention
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        parts = zip((asking, keys, values), weights, biases, strict=True)
        q, k, v = (F.linear(x, w, b).unflatten(2, (2, 4)).transpose(1, 2) for x, w, b in parts)
        found = ((q @ k.transpose(2, 3) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return layer.norm(rest + attention.out_proj(found))

    first, local = queries.queries[:1].expand(2, -1, -1), queries.queries[1:].expand(2, -1, -1)
    for number in range(3):
        told = levels[number % 2] + queries.levels[number % 2]
        local = attended(queries.asking[number], local + queries.places[1:], told, told, local)
        both = torch.cat([first, local], dim=1)
        placed = both + queries.places
        both = attended(queries.mixing[number], placed, placed, both, both)
        fed: Any = queries.feeding[number]
        both = fed.norm(both + fed.feed[2](fed.feed[0](both).relu()))
        first, local = both[:, :1], both[:, 1:]
    torch.testing.assert_close(queries(levels), torch.cat([first, local], dim=1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_seecoders_decoder_mixes_levels_and_adds_a_short_way_round() -> None:
    config = PromptFreeConfig(depth=1, hidden=12, heads=2, groups=2)
    decoder = LevelDecoder(config, Reading(sees="layers", width=6, layers=2, places=5), 8)
    features = drawn(2, 2, 4, 6)
    made = decoder(features)
    assert [tuple(level.shape) for level in made] == [(2, 4, 8), (2, 4, 8)]
    around = [
        decoder.across_norms[index](decoder.across[index](features[:, index]).transpose(1, 2)).transpose(1, 2)
        for index in range(2)
    ]
    changed = decoder(torch.stack([features[:, 0], features[:, 1] + 1], dim=1))
    moved = made[0] - changed[0]
    assert moved.abs().max() > 1e-3, "the first level has heard of the second"
    entered = [
        decoder.enter_norms[index](decoder.enter[index](features[:, index]).transpose(1, 2)).transpose(1, 2)
        + decoder.levels[index]
        for index in range(2)
    ]
    mixed = decoder.blocks[0](torch.cat(entered, dim=1))
    torch.testing.assert_close(made[1], mixed[:, 4:] + around[1])


@torch.no_grad()
def test_a_picture_stands_in_the_prompts_place(sd: AbstractBackbone, eye: Path) -> None:
    adapter = system("prompt-free-diffusion", sd, eye)
    assert isinstance(adapter, PromptFreeDiffusion)
    shown = pictures(adapter, count=2)
    context = adapter.seen_as(shown.sight.features)
    assert context.shape == (2, 10, 16)
    expected = sd.predict(NOISY, TIMES, Conditioning(states=context))
    torch.testing.assert_close(predicted(sd, adapter, shown), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(predicted(sd, adapter, shown, ["hat", "snow"]), expected, atol=2e-5, rtol=0)
    words = sd.predict(NOISY, TIMES, sd.encode_prompt(PROMPTS))
    half = predicted(sd, adapter, shown, scale=0.5)
    torch.testing.assert_close(half, (words + expected) / 2, atol=2e-5, rtol=0)
    # Guidance goes away from zeros, as the released code has it, or from words.
    away = predicted(sd, adapter, pictures(adapter, seen=False), ["", "a cat"])
    zeros = sd.predict(NOISY[:1], TIMES[:1], Conditioning(states=torch.zeros(1, 5, 16)))
    torch.testing.assert_close(away[0], zeros[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(away[1], words[1], atol=2e-5, rtol=0)
    with pytest.raises(ArtifactError, match="16 wide, which 3 heads or 4 groups do not divide"):
        PromptFreeDiffusion(PromptFreeConfig(heads=3, groups=4), sd, Reading(sees="layers", width=4))


@torch.no_grad()
def test_the_branch_of_a_prompt_free_picture_reads_the_same_context(sd: AbstractBackbone, eye: Path) -> None:
    adapter = system("prompt-free-diffusion", sd, eye)
    maps = random_maps(adapter)
    shown = pictures(adapter, maps=maps)
    context = adapter.seen_as(shown.sight.features)
    with controlled(sd.denoiser, adapter.branch(NOISY, TIMES, context, maps, None)):
        expected = sd.predict(NOISY, TIMES, Conditioning(states=context))
    torch.testing.assert_close(predicted(sd, adapter, shown), expected, atol=2e-5, rtol=0)
    adapter.train()
    adapter.begin_stage("context")
    torch.testing.assert_close(
        predicted(sd, adapter, shown), predicted(sd, adapter, pictures(adapter)), atol=2e-5, rtol=0
    )
    bare = PromptFreeDiffusion(
        PromptFreeConfig(maps=(), heads=2, groups=2), sd, Reading(sees="layers", width=HIDDEN, layers=2)
    )
    assert [stage.name for stage in bare.stages] == ["context"]
    assert bare.branch is None


@torch.no_grad()
def test_context_pictures_are_averaged_and_stand_behind_the_prompt(sd: AbstractBackbone, eye: Path) -> None:
    adapter = system("context-diffusion", sd, eye)
    assert isinstance(adapter, ContextDiffusion)
    features = drawn(2, 3, 1, 17, HIDDEN, seed=5)
    by_hand = torch.stack([adapter.project(features[:, index, 0]) for index in range(3)]).mean(0)
    torch.testing.assert_close(adapter.tokens_of(features), by_hand)
    shown = Shown(sight=Sight(features=features))
    states = torch.cat([sd.encode_prompt(PROMPTS).states, by_hand], dim=1)
    expected = sd.predict(NOISY, TIMES, Conditioning(states=states))
    torch.testing.assert_close(predicted(sd, adapter, shown), expected, atol=2e-5, rtol=0)
    # With a query the branch reads both, too, and the query as a picture.
    depth = torch.cat([random_maps(adapter)[:, :1], torch.zeros(2, 3, 32, 32)], dim=1)
    query = depth[:, :1].expand(-1, 3, -1, -1)
    with controlled(sd.denoiser, adapter.branch(NOISY, TIMES, states, query, None)):
        expected = sd.predict(NOISY, TIMES, Conditioning(states=states))
    mapped = Shown(sight=Sight(features=features), maps=depth)
    torch.testing.assert_close(predicted(sd, adapter, mapped), expected, atol=2e-5, rtol=0)
    chosen = adapter.told_maps(random_maps(adapter, rows=64), torch.Generator().manual_seed(0))
    kinds = torch.stack([chosen[:, :1].flatten(1).amax(1) > 0, chosen[:, 1:].flatten(1).amax(1) > 0], 1)
    assert kinds.sum(1).tolist() == [1] * 64
    assert 16 < int(kinds[:, 0].sum()) < 48
    with pytest.raises(ConfigError, match="one kind or more"):
        ContextDiffusionConfig(maps=())
