"""MultiBooth's regions: a box is answered as its subject alone would, the rest is untouched; and who may take part."""

import dataclasses

import pytest
import torch

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import (
    AdapterConfig,
    CrossAttentionConfig,
    FullConfig,
    LowRankConfig,
    SideNetworkConfig,
    build_adapter,
    injected,
)
from pcs_ext.image.attention import attention_program, token_grid
from pcs_ext.image.attention_edits import Capture
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import Box, box_cells, parse_box
from pcs_ext.image.edits.members import Member
from pcs_ext.image.edits.multibooth import (
    MultiBoothConfig,
    RegionalAnswers,
    check_keys_and_values,
    compose_in_boxes,
    multibooth_regions,
)
from pcs_ext.image.sample import SampleConfig, sample

SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=2, guidance_scale=2.0)
PROMPT = "a red dog on the cat"
LEFT, RIGHT = parse_box("x: 0 0 0.5 1"), parse_box("x: 0.5 0 1 0.5")
KEYS_VALUES = LowRankConfig(targets=(r"\.attn2\.(to_k|to_v)$",))


def quick(**changes) -> MultiBoothConfig:
    return dataclasses.replace(multibooth_regions("sd"), **{"sampling": SAMPLING, **changes})


def member(
    backbone: AbstractBackbone, number: int, box: Box | None = LEFT, config: AdapterConfig = KEYS_VALUES
) -> Member:
    """With large weights."""
    adapter = build_adapter(f"own_{number}", config)
    with injected(backbone, adapter):
        for index, parameter in enumerate(adapter.parameters()["denoiser"]):
            generator = torch.Generator().manual_seed(100 * number + index)
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return Member([adapter], f"a {'red' if number else 'blue'} dog on the cat", [3], [], [3], box)


@torch.no_grad()
def test_a_box_is_answered_as_its_subject_alone_would_and_the_rest_stays(sd: AbstractBackbone) -> None:
    members = [member(sd, 0, LEFT), member(sd, 1, RIGHT)]
    latents, timestep = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([400])
    both, told = latents.expand(2, -1, -1, -1), sd.encode_prompt(["", PROMPT])
    first = sd.cross_attention_paths()[:1]  # before it no subject has acted, so its input is everybody's
    answers = RegionalAnswers(sd, members, (8, 8), strength=1.0, row=1)
    answers.turn_to(timestep)
    plain, seen, alone = Capture(), Capture(), [Capture(), Capture()]
    with attention_program(sd, plain, first, at="output"):
        sd.predict(both, timestep.expand(2), told)
    with (
        attention_program(sd, answers.ask, first, at="queries"),
        attention_program(sd, answers.answer, first, at="output"),
        attention_program(sd, seen, first, at="output"),
    ):
        sd.predict(both, timestep.expand(2), told)
    for own, capture in zip(members, alone, strict=True):
        with injected(sd, *own.adapters), attention_program(sd, capture, first, at="output"):
            sd.predict(latents, timestep, sd.encode_prompt([own.prompt]))
    mixed, base = seen.seen[first[0]], plain.seen[first[0]]
    grid = token_grid(mixed.shape[1], (8, 8))
    left, right = (box_cells(box, grid).flatten() for box in (LEFT, RIGHT))
    assert torch.equal(mixed[0], base[0]), "the negative prompt belongs to nobody"
    assert torch.equal(mixed[1, ~(left | right)], base[1, ~(left | right)]), "outside of the boxes nothing changes"
    for cells, capture in ((left, alone[0]), (right, alone[1])):
        torch.testing.assert_close(mixed[1, cells], capture.seen[first[0]][0, cells], atol=1e-4, rtol=1e-4)
        assert (mixed[1, cells] - base[1, cells]).abs().mean() > 0.01


@torch.no_grad()
def test_cells_of_two_boxes_get_the_mean_and_others_words_are_not_looked_at(sd: AbstractBackbone) -> None:
    one, two = member(sd, 0, LEFT), member(sd, 1, LEFT)
    path, queries = sd.cross_attention_paths()[0], torch.randn(2, 64, 16)

    def answered(*members: Member) -> torch.Tensor:
        answers = RegionalAnswers(sd, members, (8, 8), strength=1.0, row=1)
        answers.turn_to(torch.tensor([400]))
        answers.ask(path, queries)
        return answers.answer(path, torch.zeros(2, 64, 16))[1]

    torch.testing.assert_close(answered(one, two), (answered(one) + answered(two)) / 2)
    blind = dataclasses.replace(one, others=[6])
    other = dataclasses.replace(blind, prompt="a blue dog on the grass")
    states = sd.encode_prompt([blind.prompt, other.prompt]).states
    assert not torch.equal(states[0, 6], states[1, 6])
    # Causal text encoder: words before the last one read alike, and the end mark behind it is hidden too.
    hidden = list(range(6, states.shape[1]))
    assert torch.equal(
        answered(dataclasses.replace(blind, others=hidden)), answered(dataclasses.replace(other, others=hidden))
    )
    assert not torch.equal(answered(blind), answered(one))


def test_without_regions_it_is_plain_sampling(sd: AbstractBackbone) -> None:
    members = [member(sd, 0), member(sd, 1, RIGHT)]
    with torch.no_grad():
        plain = sample(sd, [PROMPT], seeds=[3], config=SAMPLING)
    assert torch.equal(compose_in_boxes(sd, PROMPT, members, seed=3, config=quick(last=0.0)).picture, plain)
    made = compose_in_boxes(sd, PROMPT, members, seed=3, config=quick())
    assert not torch.equal(made.picture, plain)
    assert made.regions.mean((1, 2)).tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    "config",
    [
        LowRankConfig(),
        CrossAttentionConfig(projections=("to_k", "to_out.0")),
        FullConfig(),
        SideNetworkConfig(targets=(r"\.attn2$",)),
    ],
    ids=lambda config: config.kind,
)
def test_who_changes_more_than_keys_and_values_is_sent_elsewhere(sd: AbstractBackbone, config: AdapterConfig) -> None:
    with pytest.raises(UsageError, match="or take --method omg"):
        check_keys_and_values(sd, Member([build_adapter("x", config)], PROMPT, [3], [], [3], LEFT))
    check_keys_and_values(sd, member(sd, 0, config=CrossAttentionConfig()))


def test_mistakes(sd: AbstractBackbone) -> None:
    with pytest.raises(UsageError, match="draws every subject in a box"):
        compose_in_boxes(sd, PROMPT, [member(sd, 0, None)], seed=0, config=quick())
    with pytest.raises(ConfigError, match="out of range"):
        quick(last=1.5)
