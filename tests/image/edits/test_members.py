"""A subject in its region: how its bias, the others' shut words and its own weights meet."""

import pytest
import torch

from pcs_ext.image.adapters import LowRankConfig, build_adapter
from pcs_ext.image.attention import attention_program
from pcs_ext.image.attention_edits import Capture, on_cells, progress_at
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import Box
from pcs_ext.image.edits.cones_2 import cones_2_layout
from pcs_ext.image.edits.members import Member, Player

OWN, OTHER = 5, 8
SIZE = (8, 8)


def attention(backbone: AbstractBackbone, others: tuple[int, ...]) -> torch.Tensor:
    """Of the first cross-attention in the positive row, `heads queries keys`, for the left half's subject."""
    adapter = build_adapter("own", LowRankConfig(rank=2))
    member = Member(
        adapters=[adapter], prompt="a photo of a dog and a cat", own=[OWN], others=others, noun=[OWN],
        box=Box(phrase="dog", left=0, top=0, right=0.5, bottom=1),
    )  # fmt: skip
    region = torch.zeros(1, *SIZE)
    region[..., :4] = 1
    player = Player(
        backbone, member, region, negative_prompt="", guided=True, strength=1.0, layout=cones_2_layout("toybox")
    )
    seen, latents = Capture(), torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(0))
    path = backbone.cross_attention_paths()[0]
    with attention_program(backbone, seen, [path]):
        player.predict(latents, torch.tensor([900]))
    return seen.seen[path][-1]


@torch.no_grad()
def test_shutting_the_others_words_leaves_the_bias_on_ones_own_as_strong(sd: AbstractBackbone) -> None:
    """The bias is measured in the scores' spread, and a shut word's score is no part of that."""
    alone, among = attention(sd, ()), attention(sd, (OTHER,))
    inside = on_cells(torch.cat([torch.ones(1, 1, 8, 4), torch.zeros(1, 1, 8, 4)], -1), alone.shape[-2]).flatten() > 0
    assert among[:, inside, OTHER].max() < 1e-6
    expected = alone[:, inside, OWN] / (1 - alone[:, inside, OTHER])
    torch.testing.assert_close(among[:, inside, OWN], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(among[:, ~inside], alone[:, ~inside])


@torch.no_grad()
def test_adapters_that_change_predictions_act_in_their_region(sd: AbstractBackbone) -> None:
    adapter = build_adapter("own", LowRankConfig(rank=2))
    member = Member(adapters=[adapter], prompt="a dog", own=[2], others=[], noun=[2])
    player = Player(
        sd, member, torch.ones(1, *SIZE), negative_prompt="", guided=True, strength=1.0, layout=cones_2_layout("toybox")
    )
    latents = torch.zeros(2, 4, *SIZE)
    plain = player.predict(latents, torch.tensor([500]))
    before = sd.predict
    try:
        sd.predict = lambda *asked: before(*asked) + 1  # type: ignore[method-assign]
        torch.testing.assert_close(player.predict(latents, torch.tensor([500])), plain + 1)
    finally:
        del sd.predict


@pytest.mark.parametrize(("timestep", "share"), [(679, 0.32), (799, 0.2), (919, 0.08), (999, 0.0)])
def test_shares_that_are_whole_steps_are_met_exactly(sd: AbstractBackbone, timestep: int, share: float) -> None:
    assert sd.schedule.num_train_timesteps == 1000
    assert progress_at(sd, timestep) == share


def test_nothing_is_zeros_on_sdxl_in_pairs_too(sdxl: AbstractBackbone) -> None:
    told = sdxl.encode_pair("", "a dog", size=(32, 32))
    assert told.batch_size == 2
    assert torch.equal(told.states[:1], sdxl.encode_negative([""], size=(32, 32)).states)
    assert sdxl.encode_pair(None, "a dog").batch_size == 1
