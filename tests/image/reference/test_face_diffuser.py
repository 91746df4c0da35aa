"""Face-diffuser: who draws when, and which cells are whose."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.reference.files import OpenedAdapter
from pcs_ext.image.reference.reference import Reference
from pcs_ext.image.reference.shown import Sight
from pcs_ext.image.reference.systems.face_diffuser import FaceDiffuser, response, saliency, subject_leads
from pcs_ext.image.reference.words_alone import without_pictures
from pcs_ext.image.sample import SampleConfig, SampleHooks, Sampling, sample
from pcs_ext.image.types import Conditioning
from tests.support.tiny import tiny_backbone
from tests.support.tiny_reference import WIDTH, at_random, drawn, tiny_system

PROMPT = "the dog on beach"


def in_use(sd: AbstractBackbone, eye: Path) -> tuple[FaceDiffuser, SampleHooks]:
    """One whose weights are random, and how it shows a picture of a dog."""
    adapter, encoder = tiny_system("face-diffuser", sd, eye)
    assert isinstance(adapter, FaceDiffuser)
    at_random(adapter, sd)
    adapter.eval().requires_grad_(False)
    opened = OpenedAdapter(adapter=adapter, encoder=encoder)
    return adapter, Reference(opened=opened, sight=Sight(features=drawn(1, WIDTH)), nouns=("dog",)).hooks(sd)


def test_saliency_is_smoothed_and_sums_to_1() -> None:
    flat = saliency(torch.full((1, 4, 16, 16), -2.0))
    torch.testing.assert_close(flat[:, 4:-4, 4:-4], flat[:, 4:5, 4:5].expand(1, 8, 8))
    # One channel of four answers 48 in one cell: 16 cells of the average have 48/16, and the mean over channels 3/4.
    response = torch.zeros(1, 4, 31, 31)
    response[0, 2, 15, 15] = -48.0
    seen = saliency(response)
    torch.testing.assert_close(seen.sum((1, 2)), torch.ones(1))
    # Between the places of the averages, 30 of them on 31 cells, values are mixed; in the middle all are alike.
    torch.testing.assert_close((seen[0, 15, 15] / seen[0, 0, 0]).log(), torch.tensor(0.75), atol=1e-4, rtol=0)


def test_each_cell_goes_to_the_model_whose_guidance_does_more_there() -> None:
    scene, subject = torch.zeros(1, 4, 16, 16), torch.zeros(1, 4, 16, 16)
    scene[..., :8], subject[..., 8:] = 4.0, -4.0
    leads = subject_leads(scene, subject)
    assert leads.shape == (1, 1, 16, 16)
    assert not leads[..., :6].any()
    assert leads[..., 10:].all()
    # Twice the response everywhere is not twice as salient: the maps have one sum.
    assert subject_leads(torch.full((1, 4, 16, 16), 1.0), torch.full((1, 4, 16, 16), 1.0)).sum() == 0


@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize(("timestep", "stage"), [(900, "scene"), (500, "fusion"), (100, "subject")])
@torch.no_grad()
def test_the_scene_is_the_bases_then_both_join_then_the_subject_is_drawn(
    sd: AbstractBackbone, eye: Path, timestep: int, stage: str, guidance: float
) -> None:
    adapter, hooks = in_use(sd, eye)
    assert hooks.encode is not None
    assert hooks.started is not None
    assert hooks.predict is not None
    guided = guidance != 1
    size = (sd.resolution, sd.resolution)
    asked = hooks.encode([PROMPT], negative=False, size=size)
    if guided:
        asked = Conditioning.cat([hooks.encode([""], negative=True, size=size), asked])
    hooks.started(Sampling(scheduler=None, conditioning=asked, guided=guided, guidance_scale=guidance, seeds=(1,)))
    noisy = drawn(1, 4, 8, 8, seed=4)
    time = torch.tensor([timestep])
    nothing, words = sd.encode_prompt([""]), sd.encode_prompt([PROMPT])
    told = asked[[-1]]
    assert torch.equal(without_pictures(told).states, words.states)
    plain = [sd.predict(noisy, time, each) for each in (nothing, words)]
    with adapter.inserted(sd):
        seen = [sd.predict(noisy, time, each) for each in (words, told)]
        times = 2 if guided else 1
        mixed = hooks.predict(sd.predict)(torch.cat([noisy] * times), time.expand(times), asked)
    made = combine_guidance(mixed[:1], mixed[-1:], guidance) if guided else mixed
    scene, subject = (combine_guidance(pair[0], pair[1], guidance) for pair in (plain, seen))
    leads = subject_leads(guidance * (plain[1] - plain[0]), guidance * (seen[1] - seen[0]))
    assert 0 < leads.float().mean() < 1
    wanted = {"scene": scene, "fusion": torch.where(leads, subject, scene), "subject": subject}[stage]
    torch.testing.assert_close(made, wanted, atol=1e-4, rtol=1e-4)
    assert (subject - scene).abs().max() > 1e-3


def test_responses_are_of_the_noise_whatever_is_predicted(tmp_path: Path) -> None:
    """eps = sqrt(abar) v + sqrt(1 - abar) x_t: of one noisy picture, noise differs by sqrt(abar) times as much."""
    pair, noisy, times = drawn(2, 1, 4, 8, 8), drawn(1, 4, 8, 8, seed=1), torch.tensor([499.6])
    for kind in ("epsilon", "v_prediction"):
        base = tiny_backbone(tmp_path / kind, prediction_type=kind)
        factor = float(base.schedule.alphas_cumprod[500].sqrt()) if kind == "v_prediction" else 1.0
        torch.testing.assert_close(response(base, pair, noisy, times), factor * (pair[1] - pair[0]))


@torch.no_grad()
def test_a_row_without_pictures_is_the_bases_all_the_way(sd: AbstractBackbone, eye: Path) -> None:
    _, hooks = in_use(sd, eye)
    config = SampleConfig(scheduler="ddim", num_inference_steps=3, guidance_scale=3.0)
    both = sample(sd, [PROMPT, "a cat"], seeds=[1, 2], config=config, hooks=hooks)
    plain = sample(sd, [PROMPT, "a cat"], seeds=[1, 2], config=config)
    torch.testing.assert_close(both[1], plain[1], atol=1e-4, rtol=0)
    assert (both[0] - plain[0]).abs().max() > 1e-3


@torch.no_grad()
def test_the_bases_weights_are_in_place_while_the_others_are_set_aside(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("face-diffuser", sd, eye)
    assert isinstance(adapter, FaceDiffuser)
    at_random(adapter, sd)
    noisy, time, told = drawn(1, 4, 8, 8), torch.tensor([300]), sd.encode_prompt([PROMPT])

    def answer(conditioning: Conditioning = told) -> Tensor:
        return sd.predict(noisy, time, conditioning)

    plain = answer()
    for scale in (1.0, 0.5):
        with adapter.inserted(sd, scale):
            own = answer()
            with adapter.denoiser.set_aside():
                assert torch.equal(answer(), plain)
            assert torch.equal(answer(), own)
            assert not torch.equal(own, plain)
