"""Cones 2's layout: the bias by hand, its effect on attention, steps taken twice, and exactness when it is off."""

import dataclasses
import math

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.attention import attention_program
from pcs_ext.image.attention_edits import Capture
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import Box, box_cells, parse_box
from pcs_ext.image.edits.cones_2 import (
    Cones2Config,
    LayoutBias,
    Recurrence,
    biased,
    cones_2_hooks,
    cones_2_layout,
    noise_level,
)
from pcs_ext.image.edits.one_by_one import one_by_one
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample

SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=3, guidance_scale=2.0)
PROMPT = "a red dog on the blue cat"
LEFT, RIGHT = parse_box("dog: 0 0 0.5 1"), parse_box("cat: 0.5 0 1 1")
POSITIONS = [(3,), (7,)]


def quick(**changes) -> Cones2Config:
    return dataclasses.replace(cones_2_layout("toybox"), **{"sampling": SAMPLING, **changes})


def pictures(backbone: AbstractBackbone, boxes: list[Box], *, seeds: list[int], config: Cones2Config) -> torch.Tensor:
    hooks = cones_2_hooks(backbone, PROMPT, boxes, config)
    return one_by_one(backbone, PROMPT, hooks, seeds=seeds, sampling=config.sampling)


def test_the_bias_by_hand(sd: AbstractBackbone) -> None:
    bias = LayoutBias(sd, [LEFT, RIGHT], POSITIONS, (4, 4), quick(outside=-10.0), rows=[1])
    scores = torch.randn(2, 2, 16, 9, generator=torch.Generator().manual_seed(0))
    timestep = 499
    moved = bias.at(timestep)("attn2", scores)
    abar = float(sd.schedule.alphas_cumprod[timestep])
    unit = 0.08 * math.log(1 + (1 - abar) / abar) * float(scores[1].std())
    expected = scores.clone()
    left = torch.arange(16) % 4 < 2
    expected[1][:, left, 3] += 2.5 * unit
    expected[1][:, ~left, 3] -= 10 * unit
    expected[1][:, ~left, 7] += 2.5 * unit
    expected[1][:, left, 7] -= 10 * unit
    torch.testing.assert_close(moved, expected)
    assert torch.equal(moved[0], scores[0]), "the negative prompt has no layout"


def test_levels_of_noise_and_cells_of_boxes(sd: AbstractBackbone) -> None:
    assert noise_level(sd, 0) == pytest.approx(-math.log(float(sd.schedule.alphas_cumprod[0])), rel=1e-4)
    assert noise_level(sd, 999) == pytest.approx(math.log(1 + 14.6**2), rel=2e-2)
    sd.schedule.alphas_cumprod[-1] = 1e-9
    assert noise_level(sd, 999) == pytest.approx(math.log(1 + 14.6**2)), "pure noise has no bound of its own"
    assert box_cells(LEFT, (2, 4)).tolist() == [[True, True, False, False]] * 2
    assert box_cells(Box(phrase="x", left=0, top=0, right=0.4, bottom=1), (1, 4)).tolist() == [
        [True, True, False, False]
    ]
    tiny = Box(phrase="x", left=0.3, top=0.3, right=0.32, bottom=0.32)
    assert box_cells(tiny, (2, 2)).tolist() == [[True, False], [False, False]], "no box may vanish"


def test_words_look_into_their_boxes_alone(sd: AbstractBackbone) -> None:
    bias = LayoutBias(sd, [LEFT, RIGHT], POSITIONS, (8, 8), quick(), rows=[0])
    conditioning, seen = sd.encode_prompt([PROMPT]), Capture()
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), attention_program(sd, seen):
        biased(sd, bias)(sd.predict)(latents, torch.tensor([700]), conditioning)
    for maps in seen.seen.values():
        side = math.isqrt(maps.shape[-2])
        pictures = maps[0].mean(0).T.unflatten(1, (side, side))
        half = side // 2
        assert not pictures[3, :, half:].any()
        assert not pictures[7, :, :half].any()
        assert (pictures[3, :, :half] > 0).all()


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_switched_off_it_is_plain_sampling(family: str, request: pytest.FixtureRequest) -> None:
    backbone, boxes = request.getfixturevalue(family), [LEFT, RIGHT]
    with torch.no_grad():
        plain = sample(backbone, [PROMPT], seeds=[3], config=SAMPLING)
    for off in (quick(scale=0.0, recurrence=False), quick(last=0.0)):
        assert torch.equal(pictures(backbone, boxes, seeds=[3], config=off), plain)
    once = pictures(backbone, boxes, seeds=[3], config=quick(recurrence=False))
    assert not torch.equal(once, plain)
    twice = pictures(backbone, boxes, seeds=[5, 3], config=quick())
    assert not torch.equal(twice[1:], once)
    assert torch.equal(twice[1:], pictures(backbone, boxes, seeds=[3], config=quick()))


def test_a_step_taken_again_begins_at_its_own_noise_level(sd: AbstractBackbone) -> None:
    again = Recurrence(sd, 7, quick(last=0.5))
    step, timestep = 0, again.timesteps[0]
    abar = sd.schedule.alphas_cumprod
    below = timestep - sd.schedule.num_train_timesteps // 3
    latents = float(abar[below]) ** 0.5 * torch.ones(1, 4, 64, 64)
    noised = again(step, torch.tensor(timestep), latents)
    assert noised is not None
    assert float(noised.mean()) == pytest.approx(float(abar[timestep]) ** 0.5, abs=0.03)
    spread = (1 - float(abar[timestep] / abar[below])) ** 0.5
    assert float(noised.std()) == pytest.approx(spread, rel=0.03)
    assert again(2, torch.tensor(again.timesteps[-1]), latents) is None
    calls: list[int] = []
    hooks = SampleHooks(
        predict=lambda predict: lambda x, t, c: calls.append(int(t[0])) or predict(x, t, c),
        recur=again,
    )
    with torch.no_grad():
        sample(sd, [PROMPT], seeds=[0], config=SAMPLING, hooks=hooks)
    assert calls == [again.timesteps[0]] * 2 + [again.timesteps[1]] * 2 + [again.timesteps[2]]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="needs scheduler 'ddim'"):
        quick(sampling=SampleConfig())  # type: ignore[arg-type]
    for wrong in ({"scale": -1.0}, {"inside": -1.0}, {"outside": 1.0}, {"last": 2.0}):
        with pytest.raises(ConfigError, match="out of range"):
            quick(**wrong)
