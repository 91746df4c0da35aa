"""FreeControl: components and energies by hand, control that lowers them, and exactness when it is off."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.cast import open_cast
from pcs_ext.image.edits.follow_pictures import follow_pictures
from pcs_ext.image.edits.freecontrol import (
    Basis,
    FreeControlConfig,
    _Control,
    appearance_energy,
    follow_structure,
    freecontrol,
    principal,
    structure_energy,
)
from pcs_ext.image.sample import SampleConfig, build_scheduler, sample

WORDS: dict[str, Any] = {"picture_prompt": "a photo of a cat", "phrase": "cat", "class_prompt": "a photo of a dog"}
PICTURE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def quick(**changes) -> FreeControlConfig:
    sampling = SampleConfig(scheduler="ddim", num_inference_steps=4, guidance_scale=2.0)
    small = dataclasses.replace(freecontrol("toybox"), sampling=sampling, class_images=3, components=4, warm_up=0.0)
    return dataclasses.replace(small, **changes)


def test_components_of_known_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    strength = torch.tensor([5.0, 2.0, 0.1])
    keys = torch.randn(4, 50, 3, generator=generator) * strength + 7
    basis = principal(keys, 2)
    assert basis.directions.shape == (3, 2)
    assert basis.directions[0, 0].abs() > 0.99
    assert basis.directions[1, 1].abs() > 0.99
    scores = basis.scores(keys)
    assert torch.equal(scores.amin(1), torch.zeros(4, 2))
    torch.testing.assert_close(scores.amax(1), torch.ones(4, 2))
    assert principal(keys[:1, :2], 8).directions.shape == (3, 2)


@pytest.mark.parametrize("steps", [10, 50])
def test_a_shift_moves_the_latents_as_far_whatever_the_number_of_steps(sd: AbstractBackbone, steps: int) -> None:
    sampling = SampleConfig(scheduler="ddim", num_inference_steps=steps, guidance_scale=2.0)
    control = _Control(sd, quick(sampling=sampling))
    scheduler, levels = build_scheduler(sd, sampling), sd.schedule.alphas_cumprod
    for now, after in itertools.pairwise(int(step) for step in scheduler.timesteps):
        noisy, epsilon = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
        plain, moved = (
            scheduler.step(epsilon + shift, now, noisy).prev_sample
            for shift in (0.0, control.reach(now))  # type: ignore[union-attr]
        )
        wanted = float((1 - levels[now]) * (1 - levels[after])) ** 0.5
        torch.testing.assert_close(plain - moved, torch.full_like(plain, wanted), atol=2e-3, rtol=2e-3)


def test_energies_by_hand() -> None:
    wanted = torch.tensor([[[1.0], [0.5], [0.2], [0.0]]])
    mask = torch.tensor([True, True, False, False])
    assert structure_energy(wanted, wanted, mask, 10.0) == 0
    scores = torch.tensor([[[0.6], [0.5], [0.2], [0.4]]])
    # Inside (0.4^2 + 0) / 2; outside above the ceiling 0.2: (0 + 0.2^2) / 2.
    assert structure_energy(scores, wanted, mask, 10.0) == pytest.approx(0.08 + 10 * 0.02)
    keys = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [9.0, 9.0]]])
    where = torch.tensor([[[1.0], [1.0], [0.4]]])  # the third cell is below one half
    other = torch.zeros_like(keys)
    assert appearance_energy(keys, where, other, where, 1) == pytest.approx(2.0**2 / 2)
    assert appearance_energy(keys, where, keys, where, 1) == 0
    assert Basis(torch.zeros(2), torch.eye(2)).scores(keys)[0, :, 0].tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_control_changes_what_it_should(family: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(family)
    prompt: dict[str, Any] = {"prompt": "a red dog", "seeds": [1, 2]}
    with torch.no_grad():
        plain = sample(backbone, ["a red dog"] * 2, seeds=[1, 2], config=quick().sampling)
    never = follow_structure(backbone, PICTURE, **WORDS, **prompt, config=quick(last=0.0))
    assert torch.equal(never, plain)
    weightless = quick(structure_scale=0.0, appearance_scale=0.0)
    off = follow_structure(backbone, PICTURE, **WORDS, **prompt, config=weightless)
    torch.testing.assert_close(off, plain, atol=1e-4, rtol=0)
    on = follow_structure(backbone, PICTURE, **WORDS, **prompt, config=quick())
    assert on.isfinite().all()
    assert not torch.allclose(on, plain, atol=1e-3)


def test_pictures_of_any_shape_are_followed(sd: AbstractBackbone) -> None:
    picture = torch.rand(3, 40, 70, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = follow_pictures(open_cast(), picture, ["a red dog", "a cat"], noun="cat", seeds=[0], config=quick(), base=sd)
    assert [image.prompt for image in made] == ["a red dog", "a cat"]
    assert made[0].facts["class_prompt"] == "a photo of a cat"
    with pytest.raises(UsageError, match="one is missing"):
        follow_pictures(open_cast(), picture, ["a dog"], noun="", seeds=[0], config=quick(), base=sd)
    with pytest.raises(UsageError, match="'fox' does not stand in the prompt"):
        follow_structure(sd, PICTURE, **{**WORDS, "phrase": "fox"}, prompt="a dog", seeds=[0], config=quick())
    with pytest.raises(ConfigError, match="expected at least 2"):
        quick(class_images=1)


def test_results_may_have_another_shape_than_a_square(sd: AbstractBackbone) -> None:
    picture = torch.rand(3, 40, 70, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wide = quick(sampling=dataclasses.replace(quick().sampling, height=32, width=48))
    made = follow_pictures(open_cast(), picture, ["a red dog"], noun="cat", seeds=[0], config=wide, base=sd)
    assert made[0].image.size == (48, 32)
    odd = quick(sampling=dataclasses.replace(quick().sampling, width=33))
    with pytest.raises(UsageError, match="width 33 does not fit"):
        follow_pictures(open_cast(), picture, ["a red dog"], noun="cat", seeds=[0], config=odd, base=sd)
