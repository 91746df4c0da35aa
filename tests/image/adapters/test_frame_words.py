"""A word by frame: what each frame reads, and that it is a plain word where all rows are alike."""

import pytest
import torch

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import EmbeddingConfig, FrameWordConfig, build_adapter, injected
from pcs_ext.image.adapters.frame_words import FrameWordAdapter
from pcs_ext.image.backbones.unet import AbstractUnetBackbone

PROMPT = "a dog <move> on grass"


def adapter(frames: int = 3) -> FrameWordAdapter:
    built = build_adapter("word", FrameWordConfig(placeholder="<move>", frames=frames, initializer="dog"))
    assert isinstance(built, FrameWordAdapter)
    return built


@torch.no_grad()
def test_every_frame_reads_its_own_row_as_a_plain_word_with_that_row_would(sd: AbstractUnetBackbone) -> None:
    word = adapter()
    with injected(sd, word):
        (rows,) = word.parameters()["embedding"]
        drawn = torch.randn(3, 1, 16, generator=torch.Generator().manual_seed(0))
        rows.copy_(drawn)
        with word.reading_frames(3):
            states = sd.encode_prompt([PROMPT] * 3).states
        typical = sd.encode_prompt([PROMPT]).states
    plain = build_adapter("plain", EmbeddingConfig(placeholder="<move>", initializer="dog"))
    with injected(sd, plain):
        group = plain.parameters()["embedding"][0]
        for frame in range(3):
            group.copy_(drawn[frame])
            torch.testing.assert_close(states[frame], sd.encode_prompt([PROMPT]).states[0])
        group.copy_(drawn.mean(0))
        torch.testing.assert_close(typical, sd.encode_prompt([PROMPT]).states)


def test_a_frame_teaches_its_own_row_alone(sd: AbstractUnetBackbone) -> None:
    word = adapter()
    with injected(sd, word):
        with word.reading_frames(3):
            states = sd.encode_prompt([PROMPT] * 3).states
        states[1].square().sum().backward()
        gradient = word.parameters()["embedding"][0].grad
    assert gradient is not None
    assert gradient.abs().amax((1, 2)).gt(0).tolist() == [False, True, False]


@torch.no_grad()
def test_it_saves_loads_scales_and_leaves(sd: AbstractUnetBackbone) -> None:
    before = sd.encode_prompt(["a dog"]).states
    word, other = adapter(), adapter()
    with injected(sd, word):
        (rows,) = word.parameters()["embedding"]
        start = sd.encode_prompt([PROMPT]).states
        rows[..., 0].add_(3.0)
        after = sd.encode_prompt([PROMPT]).states
        word.set_scale(0.0)
        torch.testing.assert_close(sd.encode_prompt([PROMPT]).states, start)
    word.set_scale(1.0)
    other.load_state_dict(word.state_dict())
    with injected(sd, other):
        assert torch.equal(sd.encode_prompt([PROMPT]).states, after)
    assert torch.equal(sd.encode_prompt(["a dog"]).states, before)


def test_more_frames_than_it_was_learned_for_are_named(sd: AbstractUnetBackbone) -> None:
    word = adapter(2)
    with (
        injected(sd, word),
        pytest.raises(UsageError, match="learned for 2 frames, got a clip of 3; take --frames 2"),
        word.reading_frames(3),
    ):
        pass
    with pytest.raises(ConfigError, match="frames must be at least 1"):
        FrameWordConfig(frames=0)
