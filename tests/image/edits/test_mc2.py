"""MC2: the overlap by hand, what a move does to it, and predictions that add up."""

import dataclasses

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import LowRankConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.mc2 import Choir, Mc2Config, compose_apart, mc2, overlap, parting_loss
from pcs_ext.image.edits.members import Member
from pcs_ext.image.sample import SampleConfig, sample

SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=2, guidance_scale=2.0)
PROMPT = "a red dog on the blue cat"


def quick(**changes) -> Mc2Config:
    return dataclasses.replace(mc2("toybox"), **{"sampling": SAMPLING, **changes})


def members(backbone: AbstractBackbone, size: float = 1.0) -> list[Member]:
    made = []
    for number, own in enumerate(((2, 3), (6, 7))):
        adapter = build_adapter(f"own_{number}", LowRankConfig())
        with injected(backbone, adapter):
            for index, parameter in enumerate(adapter.parameters()["denoiser"]):
                generator = torch.Generator().manual_seed(100 * number + index)
                parameter.data = size * torch.randn(parameter.shape, generator=generator)
        made.append(Member([adapter], PROMPT, own, [], own))
    return made


def test_the_overlap_by_hand() -> None:
    one, other = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[0.0, 3.0, 3.0]])
    # Divided by their maxima: 1 0.5 0 and 0 1 1; smaller 0 0.5 0, larger 1 1 1.
    assert float(overlap(one, other)) == pytest.approx(0.5 / 3)
    assert float(overlap(one, 7 * one)) == pytest.approx(1)
    assert float(overlap(one, torch.tensor([[0.0, 0.0, 1.0]]))) == 0
    words = torch.stack([one, other])
    assert float(parting_loss([one[None], other[None]], 9.0)) == pytest.approx(0.5 / 3), "single words have no inside"
    mean = (one + other) / 2
    expected = overlap(mean, one) + 0.5 * (1 - overlap(one, other))
    assert float(parting_loss([words, one[None]], 0.5)) == pytest.approx(float(expected))


def test_moves_part_the_subjects(sd: AbstractBackbone) -> None:
    choir = Choir(sd, members(sd, 0.05), (8, 8), quick(scale=300.0, iterations=3), "")
    latents, timestep = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(900)
    moved = choir.part(0, timestep, latents)
    with torch.no_grad():
        assert float(choir.loss(moved, timestep)) < float(choir.loss(latents, timestep))
    assert torch.equal(choir.part(0, torch.tensor(100), latents), latents), "the second half is left alone"
    assert choir.places().sum(0).eq(1).all()
    assert all(parameter.grad is None for own in choir.members for a in own.adapters for parameter in
               a.parameters()["denoiser"])  # fmt: skip


@torch.no_grad()
def test_predictions_add_up(sd: AbstractBackbone) -> None:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
    timesteps, told = torch.full((2,), 400), sd.encode_prompt(["", PROMPT])
    base, own = sd.predict(latents, timesteps, told), []
    everyone = members(sd)
    for one in everyone:
        with injected(sd, *one.adapters):
            own.append(sd.predict(latents, timesteps, sd.encode_prompt(["", one.prompt])))
    joined = Choir(sd, everyone, (8, 8), quick(base_weight=0.4), "").joined(sd.predict)(latents, timesteps, told)
    assert torch.equal(joined[0], base[0])
    expected = base[0] + 0.4 * (base[1] - base[0]) + 0.3 * sum(o[1] - o[0] for o in own)
    torch.testing.assert_close(joined[1], expected)


def test_subjects_that_changed_nothing_give_the_plain_picture(sd: AbstractBackbone) -> None:
    plain = sample(sd, [PROMPT], seeds=[3], config=SAMPLING)
    made = compose_apart(sd, PROMPT, members(sd, 0.0), seed=3, config=quick(iterations=0))
    torch.testing.assert_close(made.picture, plain.detach(), atol=1e-4, rtol=1e-4)
    unguided = dataclasses.replace(SAMPLING, guidance_scale=1.0)
    made = compose_apart(sd, PROMPT, members(sd, 0.0), seed=3, config=quick(iterations=0, sampling=unguided))
    plain = sample(sd, [PROMPT], seeds=[3], config=unguided)
    torch.testing.assert_close(made.picture, plain.detach(), atol=1e-4, rtol=1e-4)


def test_settings_are_checked() -> None:
    for wrong in ({"scale": -1.0}, {"last": 2.0}, {"base_weight": 1.5}, {"side": 0}):
        with pytest.raises(ConfigError, match="out of range"):
            quick(**wrong)
    with pytest.raises(ConfigError, match="keep their variance"):
        quick(sampling=SampleConfig(scheduler="euler"))
