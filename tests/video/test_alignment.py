"""Test-time training: what a pair owes its teachers, and that it leaves no trace."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import AbstractAdapter, LowRankConfig, build_adapter, injected
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.reporter import SilentReporter
from pcs_ext.video.alignment import AlignmentConfig, AlignmentLoss, Pair, aligned, alignment_losses
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.influence import block_of, most_influential, prompt_influence, swapped_in, with_chosen_blocks
from pcs_ext.video.recipes import LayersConfig
from pcs_ext.video.recipes.custom_ttt import custom_ttt
from tests.support.tiny_video import tiny_motion_adapter

FRAMES = 3


def clips(seed: int) -> Tensor:
    return torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_the_teachers_never_contradict_each_other() -> None:
    """The mean of one and the differences of the other make a clip that costs nothing."""
    looks, moves = clips(0), clips(1)
    both = moves - moves.mean(2, keepdim=True) + looks.mean(2, keepdim=True)
    appearance, motion = alignment_losses(both, looks, moves)
    assert float(appearance) < 1e-12
    assert float(motion) < 1e-12
    # An offset that all frames share is appearance alone, one that moves is both.
    appearance, motion = alignment_losses(both + 0.5, looks, moves)
    assert float(appearance) == pytest.approx(0.25)
    assert float(motion) < 1e-10
    ramp = torch.tensor([-0.5, 0.0, 0.5]).reshape(1, 1, 3, 1, 1)
    appearance, motion = alignment_losses(both + ramp, looks, moves)
    assert float(appearance) < 1e-10
    assert float(motion) == pytest.approx(0.25)


def adapter(name: str, video: AnimateDiffBackbone, kind: str) -> AbstractAdapter:
    config = LayersConfig(layers=kind, rank=2).adapter(video)  # pyright: ignore[reportArgumentType]
    assert isinstance(config, LowRankConfig)
    return build_adapter(name, config)


def trained(built: AbstractAdapter) -> None:
    generator = torch.Generator().manual_seed(3)
    for group in built.parameters().values():
        for parameter in group:
            with torch.no_grad():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def pair(sd: AbstractUnetBackbone) -> Iterator[Pair]:
    """A subject and a motion with weights, in a backbone."""
    video = AnimateDiffBackbone(sd, tiny_motion_adapter())
    subject, motion = adapter("subject", video, "spatial"), adapter("motion", video, "temporal")
    with injected(video, subject, motion):
        for built in (subject, motion):
            trained(built)
            for parameters in built.parameters().values():
                for parameter in parameters:
                    parameter.requires_grad_(False)
        yield Pair(video, [subject], [motion])


def owed(pair: Pair, seed: int, teachers: tuple[Tensor, Tensor] | None = None) -> tuple[float, tuple[Tensor, Tensor]]:
    """What the pair owes teachers made by switching adapters by hand, on the noise and level of a seed."""
    generator, video = torch.Generator().manual_seed(seed), pair.backbone
    noise = torch.randn(1, 4, FRAMES, 8, 8, generator=generator)
    level = torch.randint(video.schedule.num_train_timesteps, (1,), generator=generator)
    noisy, prompt = video.schedule.add_noise(clips(4), noise, level), video.encode_prompt(["a dog"])

    def predicted(subject: float, motion: float) -> Tensor:
        pair.subject[0].set_scale(subject)
        pair.motion[0].set_scale(motion)
        return video.predict(noisy, level, prompt)

    with torch.no_grad():
        teachers = teachers or (predicted(1, 0), predicted(0, 1))
        return float(sum(alignment_losses(predicted(1, 1), *teachers))), teachers


def test_the_loss_is_that_of_teachers_switched_by_hand(pair: Pair) -> None:
    loss = AlignmentLoss(pair, AlignmentConfig(), clips(4), "a dog", "a dog")
    expected, _ = owed(pair, 0)
    assert float(loss(0, 0, torch.Generator().manual_seed(0)).total.detach()) == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-6
    for parameter in pair.layers():
        parameter.zero_()  # nothing left of either, but the teachers are those of before
    assert float(loss(0, 0, torch.Generator().manual_seed(0)).total) > expected


def test_a_pair_is_tuned_towards_its_teachers_and_is_as_before_afterwards(pair: Pair) -> None:
    before = [parameter.clone() for parameter in pair.layers()]
    start = [owed(pair, seed) for seed in range(4)]
    config = AlignmentConfig(steps=15, learning_rate=5e-3)
    options: Any = {"text": "a dog", "plain": "a dog", "seed": 0, "reporter": SilentReporter()}
    with torch.no_grad(), aligned(pair, config, clips(4), **options) as losses:
        tuned = sum(owed(pair, seed, teachers)[0] for seed, (_, teachers) in enumerate(start))
    assert len(losses) == 15
    assert tuned < sum(error for error, _ in start)
    assert all(torch.equal(one, other) for one, other in zip(pair.layers(), before, strict=True))
    assert not any(parameter.requires_grad for parameter in pair.layers())
    with aligned(pair, AlignmentConfig(steps=0), clips(4), **options) as losses:
        assert losses == []


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="learning_rate positive"):
        AlignmentConfig(learning_rate=0.0)


@torch.no_grad()
def test_influence_is_the_change_that_one_blocks_text_makes(sd: AbstractUnetBackbone) -> None:
    video = AnimateDiffBackbone(sd, tiny_motion_adapter())
    influence = prompt_influence(video, clips(6), "a red dog")
    assert list(influence) == ["down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"]
    assert min(influence.values()) > 0
    own, empty = video.encode_prompt(["a red dog"]), video.encode_prompt([""])
    noisy, level = clips(7), torch.tensor([500])
    # All blocks swapped is the other prompt; none of that name is the first.
    torch.testing.assert_close(
        video.predict(noisy, level, swapped_in(own, own, "mid_block")), video.predict(noisy, level, own)
    )
    assert torch.equal(
        video.predict(noisy, level, swapped_in(empty, own, "nowhere")), video.predict(noisy, level, empty)
    )
    muted = video.denoiser.mid_block.attentions[0].transformer_blocks[0].attn2.to_v
    muted.weight.zero_()
    assert prompt_influence(video, clips(6), "a red dog")["mid_block"] == pytest.approx(0, abs=1e-12)


def test_the_most_influential_blocks_are_chosen_and_alone_are_trained(sd: AbstractUnetBackbone, tmp_path: Path) -> None:
    assert block_of("up_blocks.1.attentions.0") == "up_blocks.1"
    assert block_of("mid_block.attentions.0") == "mid_block"
    assert most_influential({"a": 1.0, "b": 3.0, "c": 2.0}, 0.5) == ("b", "c")
    assert most_influential({"a": 1.0, "b": 3.0}, 0.01) == ("b",)
    video = AnimateDiffBackbone(sd, tiny_motion_adapter())
    recipe = custom_ttt("sd")
    assert recipe.chooses_blocks
    chosen = with_chosen_blocks(recipe, video, clips(8), "a red dog")
    layers = chosen.adapters["motion"]
    assert isinstance(layers, LayersConfig)
    assert len(layers.blocks) == 2
    assert not chosen.chooses_blocks
    built = build_adapter("motion", layers.adapter(video))
    with injected(video, built):
        places = {block_of(key.removeprefix("motion.")) for key in built.state_dict()}
    assert places == set(layers.blocks)
