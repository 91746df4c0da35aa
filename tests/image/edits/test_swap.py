"""Swaps: outside the mask nothing moves by a bit, inside the subject's branch is what its settings say."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcs_ext.errors import ConfigError, InputError, UsageError
from pcs_ext.image.attention import attention_program, self_attention_paths
from pcs_ext.image.attention_edits import Capture, edited
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits import EDITS
from pcs_ext.image.edits.region import around, edit_size, whole
from pcs_ext.image.edits.swap import RegionMaps, SwapConfig, swap_edits, swap_latents, with_statistics
from pcs_ext.image.edits.swap_picture import swap_picture
from pcs_ext.image.inversion import invert
from pcs_ext.image.learn import learn
from pcs_ext.image.locate import LocateConfig, word_maps
from pcs_ext.image.phrases import align
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample
from pcs_ext.image.subject import Artifact
from pcs_ext.image.types import Conditioning

SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=4, guidance_scale=2.0)
PROMPTS: dict[str, Any] = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a red dog in the snow"}


def quick(name: str, **changes) -> SwapConfig:
    return dataclasses.replace(EDITS[name].build("toybox"), sampling=SAMPLING, **changes)


def latents(backbone: AbstractBackbone, size: tuple[int, int] = (8, 8)) -> torch.Tensor:
    return torch.randn(1, backbone.latent_channels, *size, generator=torch.Generator().manual_seed(2))


def left_half(size: tuple[int, int] = (8, 8)) -> torch.Tensor:
    mask = torch.zeros(1, 1, *size)
    mask[..., : size[1] // 2] = 1
    return mask


@pytest.fixture
def rex(sd: AbstractBackbone, photos: Path, tmp_path: Path) -> Artifact:
    recipe = RECIPES["textual-inversion"].build("dog", "toybox").with_steps(2)
    return learn(photos, noun="dog", output=tmp_path / "rex", recipe=recipe, base=sd)


@pytest.mark.parametrize("name", ["photoswap", "swapanything"])
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_latents_outside_keep_their_bits(name: str, family: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(family)
    size = (8, 12)
    start, mask = latents(backbone, size), left_half(size)
    result = swap_latents(backbone, start, mask, config=quick(name), **PROMPTS)
    outside = (mask == 0).expand_as(start)
    assert torch.equal(result[outside], start[outside])
    assert not torch.allclose(result[~outside], start[~outside], atol=1e-3)
    again = swap_latents(backbone, start, mask, config=quick(name), **PROMPTS)
    assert torch.equal(result, again)


def test_durations_of_zero_are_plain_sampling_from_the_inverted_noise(sd: AbstractBackbone) -> None:
    start, everything = latents(sd), torch.ones(1, 1, 8, 8)
    off = quick("photoswap", cross_maps=0.0, self_maps=0.0, self_outputs=0.0)
    result = swap_latents(sd, start, everything, config=off, **PROMPTS)
    with torch.no_grad():
        plain = dataclasses.replace(SAMPLING, guidance_scale=1.0)
        states = invert(sd, start, [PROMPTS["source_prompt"]], config=plain)
        found: list[torch.Tensor] = []
        hooks = SampleHooks(
            initial_latents=states[-1].repeat(2, 1, 1, 1), decode=lambda x: found.append(x) or x, on_step=_pin(states)
        )
        sample(sd, list(PROMPTS.values()), seeds=[0, 0], config=SAMPLING, hooks=hooks)
    assert torch.equal(result, found[0][1:])


def _pin(states: list[torch.Tensor]):
    def on_step(step: int, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        return torch.cat([states[-2 - step], latents[1:]])

    return on_step


def test_the_pictures_own_prompt_gives_the_picture_back(sd: AbstractBackbone) -> None:
    """Without guidance, and with inversion to its fixed point, the second branch follows the first."""
    sd.denoiser.conv_out.weight.mul_(0.1)
    config = quick("photoswap", inversion_iterations=12)
    config = dataclasses.replace(config, sampling=dataclasses.replace(SAMPLING, guidance_scale=1.0))
    start = latents(sd)
    same: dict[str, Any] = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a cat"}
    result = swap_latents(sd, start, torch.ones(1, 1, 8, 8), config=config, **same)
    torch.testing.assert_close(result, start, atol=2e-3, rtol=0)


@torch.no_grad()
def test_region_maps_by_hand() -> None:
    maps = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    weight = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])  # cells 0 and 1 outside, 2 and 3 inside
    mixed = RegionMaps([0], [1], weight)("path", maps)[1, 0]
    expected = maps[1, 0].clone()
    expected[:2, :2] = maps[0, 0, :2, :2]
    torch.testing.assert_close(mixed, expected / expected.sum(-1, keepdim=True))
    torch.testing.assert_close(mixed[2:], maps[1, 0, 2:])
    everywhere = RegionMaps([0], [1], torch.ones(1, 1, 2, 2))("path", maps)
    torch.testing.assert_close(everywhere[1], maps[0])


def test_statistics_are_those_of_the_other_inside() -> None:
    a, b = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(i)) * (i + 1) + i for i in (0, 1))
    mask = left_half()
    moved, inside = with_statistics(a, b, mask), mask[0, 0] == 1
    torch.testing.assert_close(moved[..., inside].mean(-1), b[..., inside].mean(-1))
    torch.testing.assert_close(moved[..., inside].std(-1), b[..., inside].std(-1))


def test_attention_comes_from_the_picture_for_its_time_only(sd: AbstractBackbone) -> None:
    config = quick("photoswap", cross_maps=0.5, self_maps=0.25, self_outputs=0.5)
    alignment = align(sd, *PROMPTS.values())
    edits = swap_edits(sd, config, torch.ones(1, 1, 8, 8), alignment)
    paths, seen = self_attention_paths(sd), Capture()
    conditioning = sd.encode_prompt(["", "", *PROMPTS.values()])
    both = latents(sd).repeat(4, 1, 1, 1) * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None, None]

    def captured(noisy: torch.Tensor, timesteps: torch.Tensor, states: Conditioning) -> torch.Tensor:
        with attention_program(sd, seen, paths, at="output"):  # inside the edits: sees what they returned
            return sd.predict(noisy, timesteps, states)

    for timestep, expected in ((999, True), (400, False)):
        with torch.no_grad():
            edited(sd, edits)(captured)(both, torch.full((4,), timestep), conditioning)
        for outputs in seen.seen.values():
            assert torch.equal(outputs[0], outputs[1]) is expected
            assert torch.equal(outputs[2], outputs[3]) is expected


@pytest.mark.parametrize("name", ["photoswap", "swapanything"])
def test_pixels_outside_the_mask_are_the_pictures(name: str, rex: Artifact, sd: AbstractBackbone) -> None:
    picture = torch.randint(0, 256, (3, 50, 71), generator=torch.Generator().manual_seed(1)) / 127.5 - 1
    mask = torch.zeros(1, 50, 71)
    mask[:, 12:40, 20:44] = 1
    made = swap_picture(rex, picture, noun="cat", mask=mask, config=quick(name), base=sd)
    after = torch.from_numpy(np.array(made.picture.image)).permute(2, 0, 1)
    before = ((picture + 1) * 127.5).round().to(torch.uint8)
    outside = (mask == 0).expand_as(before)
    assert torch.equal(after[outside], before[outside])
    assert (after[~outside] != before[~outside]).any()
    assert torch.equal(made.mask, mask)
    assert made.picture.facts["edit"] == name


@torch.no_grad()
def test_maps_are_spread_by_self_attention(sd: AbstractBackbone) -> None:
    start, prompt = latents(sd, (8, 12)), "a photo of a cat"
    plain, twice = (word_maps(sd, start, prompt, LocateConfig(spread=times)) for times in (0, 2))
    assert plain.shape == twice.shape == (1, 24, 8, 12)
    for maps in (plain, twice):  # rows of self-attention sum to 1: spreading keeps what the words share in a cell
        torch.testing.assert_close(maps.sum(1), torch.ones(1, 8, 12), atol=1e-3, rtol=0)
    assert twice.std() < plain.std()
    coarse = word_maps(sd, start, prompt, LocateConfig(spread=1, cells=30))
    assert coarse.shape == plain.shape
    assert torch.equal(word_maps(sd, start, prompt, LocateConfig(cells=1)), plain), "no layer is coarse enough"


def test_a_mask_is_found_where_none_is_given(rex: Artifact, sd: AbstractBackbone) -> None:
    picture = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    made = swap_picture(rex, picture, noun="cat", config=quick("photoswap"), base=sd)
    assert made.mask.shape == (1, 40, 40)
    assert 0 < made.mask.sum() < made.mask.numel()


def test_guidance_goes_away_from_a_learned_negative_word(photos: Path, tmp_path: Path, sd: AbstractBackbone) -> None:
    recipe = RECIPES["dreamartist"].build("dog", "toybox").with_steps(1)
    both = learn(photos, noun="dog", output=tmp_path / "rex", recipe=recipe, base=sd)
    one = Artifact(dataclasses.replace(both.data, concept={**both.data.concept, "negative": ""}))
    picture, mask = torch.zeros(3, 40, 40), torch.zeros(1, 40, 40)
    mask[:, 8:32, 8:32] = 1
    made = [
        swap_picture(rex, picture, noun="cat", mask=mask, config=quick("photoswap"), base=sd).picture.image
        for rex in (both, one)
    ]
    assert made[0].tobytes() != made[1].tobytes()


def test_wrong_requests_are_named(rex: Artifact, sd: AbstractBackbone) -> None:
    picture, config = torch.zeros(3, 40, 40), quick("photoswap")
    with pytest.raises(UsageError, match="--noun is empty"):
        swap_picture(rex, picture, noun=" ", config=config, base=sd)
    with pytest.raises(UsageError, match="where the subject goes"):
        swap_picture(rex, picture, noun="cat", prompt="a photo", config=config, base=sd)
    for mask, message in (
        (torch.zeros(1, 40, 40), "marks nothing"),
        (torch.ones(1, 40, 40), "marks everything"),
        (torch.ones(1, 4, 4), "the mask is 4 x 4 pixels, the picture 40 x 40"),
    ):
        with pytest.raises(InputError, match=message):
            swap_picture(rex, picture, noun="cat", mask=mask, config=config, base=sd)
    with pytest.raises(ConfigError, match="expected shares in"):
        quick("photoswap", cross_maps=1.5)
    with pytest.raises(ConfigError, match="expected scheduler 'ddim', got 'euler'"):
        dataclasses.replace(config, sampling=SampleConfig(scheduler="euler"))
    with pytest.raises(ConfigError, match="expected shares in"):
        LocateConfig(timesteps=(1.0,))


def test_regions_fit_the_base_and_the_picture(sd: AbstractBackbone) -> None:
    assert edit_size(1000, 1000, sd) == (32, 32)
    assert edit_size(500, 1000, sd) == (24, 48)
    image = torch.rand(1, 3, 50, 90)
    assert (whole(image, sd).right, whole(image, sd).bottom) == (90, 50)
    mask = torch.zeros(1, 1, 50, 90)
    mask[..., 40:50, 80:90] = 1
    region = around(mask, 0.2, sd)
    assert (region.left, region.top, region.right, region.bottom) == (76, 36, 90, 50)
    assert region.cut(image).shape == (1, 3, 32, 32)
    assert region.cut_mask(mask).max() == 1
    edited = torch.rand(1, 3, 32, 32)
    pasted = region.paste(image, edited, mask, 0.0)
    assert torch.equal(pasted[..., :40, :], image[..., :40, :])
    assert torch.equal(pasted[..., :80], image[..., :80])
    assert not torch.equal(pasted[..., 40:, 80:], image[..., 40:, 80:])
