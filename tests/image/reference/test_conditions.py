"""What systems that read maps beside photos promise beyond the contract: where each of both enters, and by how much."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.errors import ArtifactError, ConfigError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import Reading
from pcs_ext.image.reference.behind import behind_the_text
from pcs_ext.image.reference.control import Residuals, controlled, maps_inside, with_maps
from pcs_ext.image.reference.systems.uni_controlnet import (
    FeatureDenormalisation,
    GlobalAdapter,
    MapFeatures,
    UniControlNet,
    UniControlNetConfig,
)
from pcs_ext.image.reference.systems.visconet import PlaceMixture, ViscoNet, ViscoNetConfig, everywhere_if_empty
from pcs_ext.image.types import Conditioning
from tests.support.tiny_conditions import NOISY, PROMPTS, TIMES, pictures, predicted, random_maps, system, told
from tests.support.tiny_reference import HIDDEN, WIDTH, at_random, drawn, tiny_system

SYSTEMS = ("uni-controlnet", "visconet", "prompt-free-diffusion", "context-diffusion", "instantid")


@torch.no_grad()
@pytest.mark.parametrize("name", SYSTEMS)
def test_maps_matter_row_by_row_with_and_without_photos(name: str, sd: AbstractBackbone, eye: Path) -> None:
    adapter = system(name, sd, eye)
    plain = sd.predict(NOISY, TIMES, sd.encode_prompt(PROMPTS))
    maps, other = random_maps(adapter), random_maps(adapter, seed=1)
    for seen in (True, False):
        without = predicted(sd, adapter, pictures(adapter, seen=seen))
        mapped = predicted(sd, adapter, pictures(adapter, seen=seen, maps=maps))
        assert (mapped - without).abs().flatten(1).amax(1).min() > 1e-4
        one = torch.cat([maps[:1], other[1:]])
        changed = predicted(sd, adapter, pictures(adapter, seen=seen, maps=one))
        torch.testing.assert_close(changed[0], mapped[0], atol=2e-5, rtol=0)
        assert (changed[1] - mapped[1]).abs().max() > 1e-4
        assert torch.equal(predicted(sd, adapter, pictures(adapter, seen=seen, maps=maps), scale=0.0), plain)
    assert torch.equal(sd.predict(NOISY, TIMES, sd.encode_prompt(PROMPTS)), plain), "a trace stayed"
    assert torch.equal(predicted(sd, adapter, pictures(adapter, seen=False)), plain)


def test_maps_pass_through_conditioning_unchanged_in_any_shape(sd: AbstractBackbone) -> None:
    maps = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    held = with_maps(sd.encode_prompt(PROMPTS), "some", maps, torch.tensor([0.5, 0.0]), 4)
    both = Conditioning.cat([sd.encode_prompt(["x"]), held])
    found = maps_inside(both, "some", torch.zeros(3, 4, 6, 10), 4)
    assert found is not None
    assert torch.equal(found.maps[1], maps[0])
    assert found.maps[[0, 2]].abs().max() == 0
    assert found.strength.tolist() == [0.0, 0.5, 0.0]
    assert maps_inside(sd.encode_prompt(PROMPTS), "some", torch.zeros(2, 4, 6, 10), 4) is None


@torch.no_grad()
def test_two_controls_add_up_and_rows_masks_and_scales_are_theirs(sd: AbstractBackbone) -> None:
    parts = tuple(drawn(2, width, side, side) for width, side in ((16, 8), (16, 8), (16, 4), (32, 4)))
    one = Residuals(parts, drawn(2, 32, 4, 4))
    states = sd.encode_prompt(PROMPTS)
    twice = one.each((2.0,) * 5)
    with controlled(sd.denoiser, one), controlled(sd.denoiser, one):
        both = sd.predict(NOISY, TIMES, states)
    with controlled(sd.denoiser, twice):
        torch.testing.assert_close(sd.predict(NOISY, TIMES, states), both)
    scaled = one.each((0.0, 1.0, 1.0, 1.0, 3.0))
    assert scaled.down[0].abs().max() == 0
    assert torch.equal(scaled.middle, 3 * one.middle)
    mask = torch.zeros(2, 1, 32, 32)
    mask[0, :, :16] = 1
    inside = one.inside(mask)
    assert torch.equal(inside.down[0][0, :, :4], one.down[0][0, :, :4])
    assert inside.down[0][0, :, 4:].abs().max() == 0
    assert inside.middle[1].abs().max() == 0
    assert one.rows(torch.tensor([1.0, 0.0])).middle[1].abs().max() == 0
    assert torch.equal(one.some(torch.tensor([1])).placed(torch.tensor([1]), 2).middle[1], one.middle[1])


@torch.no_grad()
def test_features_are_denormalised_by_what_maps_show() -> None:
    """norm(z) (1 + gamma) + beta, written out, with one group for every two channels."""
    layer = FeatureDenormalisation(nn.GroupNorm(2, 4, eps=1e-3), 3)
    features, seen = drawn(1, 4, 5, 5, seed=1) + 2, drawn(1, 3, 5, 5, seed=2)
    layer.seen = seen
    groups = features.reshape(1, 2, -1)
    normal = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, keepdim=True, unbiased=False) + 1e-3).sqrt()
    gamma = F.conv2d(seen, layer.gamma.weight, layer.gamma.bias, padding=1)
    beta = F.conv2d(seen, layer.beta.weight, layer.beta.bias, padding=1)
    torch.testing.assert_close(layer(features), normal.reshape(1, 4, 5, 5) * (1 + gamma) + beta)


@torch.no_grad()
def test_uni_controlnets_maps_are_seen_on_every_level_and_begin_at_nothing(sd: AbstractBackbone, eye: Path) -> None:
    for factor, widths in ((4, (32, 64)), (8, (32, 64, 128))):
        features = MapFeatures(2, (5, 6, 7), factor)
        made = features(torch.rand(1, 2, 6 * factor, 10 * factor))
        assert [tuple(level.shape[1:]) for level in made] == [(5, 6, 10), (6, 3, 5), (7, 2, 3)]
        assert all(level.abs().max() == 0 for level in made)
        convs = [layer.out_channels for layer in features.enter if isinstance(layer, nn.Conv2d)]
        assert sorted(set(convs)) == list(widths)
    adapter, _ = tiny_system("uni-controlnet", sd, eye)
    assert isinstance(adapter, UniControlNet)
    blocks = adapter.local.branch.net.down_blocks
    norms = [
        name for name, module in adapter.local.branch.net.named_modules() if isinstance(module, FeatureDenormalisation)
    ]
    assert norms == [f"down_blocks.{level}.resnets.0.norm{number}" for level in range(len(blocks)) for number in (1, 2)]
    shown = pictures(adapter, seen=False, maps=random_maps(adapter))
    plain = sd.predict(NOISY, TIMES, sd.encode_prompt(PROMPTS))
    assert torch.equal(predicted(sd, adapter.eval(), shown), plain), "untrained, it adds nothing"
    with pytest.raises(ArtifactError, match="2 levels and inject names 1"):
        UniControlNet(UniControlNetConfig(inject=(4,)), sd, WIDTH)


@torch.no_grad()
def test_uni_controlnets_tokens_stand_behind_the_texts(sd: AbstractBackbone, eye: Path) -> None:
    adapter = system("uni-controlnet", sd, eye)
    shown = pictures(adapter, count=2)
    tokens = adapter.content(shown.sight.features.flatten(0, 1)).unflatten(0, (2, 2)).flatten(1, 2)
    assert tokens.shape == (2, 8, 16)
    joined = Conditioning(states=torch.cat([sd.encode_prompt(PROMPTS).states, 0.5 * tokens], dim=1))
    expected = sd.predict(NOISY, TIMES, joined)
    torch.testing.assert_close(predicted(sd, adapter, shown, scale=0.5), expected, atol=2e-5, rtol=0)
    # The copy reads the same: with maps, too, nothing but the states tells where tokens stand.
    maps = random_maps(adapter)
    with adapter.inserted(sd):
        bare = told(sd, adapter, pictures(adapter, seen=False, maps=maps))
        longer = Conditioning(states=joined.states, shown=bare.shown)
        expected = sd.predict(NOISY, TIMES, longer)
        half = told(sd, adapter, pictures(adapter, count=2, maps=maps), scale=0.5)
        # At half strength what maps add is halved, too: brought back to its full strength here.
        assert half.shown is not None
        assert bare.shown is not None
        full = Conditioning(states=half.states, decoupled=half.decoupled, shown={**half.shown, **bare.shown})
        torch.testing.assert_close(sd.predict(NOISY, TIMES, full), expected, atol=2e-5, rtol=0)


@torch.no_grad()
def test_uni_controlnets_embedding_passes_two_gated_networks() -> None:
    adapter = GlobalAdapter(6, 5, 4)
    embedding = drawn(3, 6)
    state = dict(adapter.named_parameters())

    def fed(x: Tensor, which: str) -> Tensor:
        normed = F.layer_norm(x, (x.shape[1],), state[f"{which}_norm.weight"], state[f"{which}_norm.bias"])
        hidden, gate = F.linear(normed, *(state[f"{which}.net.0.proj.{n}"] for n in ("weight", "bias"))).chunk(2, -1)
        assert hidden.shape[1] == 4 * x.shape[1]
        return F.linear(hidden * F.gelu(gate), *(state[f"{which}.net.2.{n}"] for n in ("weight", "bias")))

    expected = fed(fed(embedding, "first"), "second").reshape(3, 4, 5)
    torch.testing.assert_close(adapter(embedding), expected)


@torch.no_grad()
def test_uni_controlnets_adapters_learn_apart(sd: AbstractBackbone, eye: Path) -> None:
    adapter = system("uni-controlnet", sd, eye)
    shown = pictures(adapter, maps=random_maps(adapter))
    both = predicted(sd, adapter, shown)
    adapter.train()
    for stage, alone in (
        ("local", pictures(adapter, seen=False, maps=shown.maps)),
        ("global", pictures(adapter)),
    ):
        adapter.begin_stage(stage)
        learned = predicted(sd, adapter, shown)
        torch.testing.assert_close(learned, predicted(sd, adapter.eval(), alone), atol=2e-5, rtol=0)
        assert (learned - both).abs().max() > 1e-4
        adapter.train()
    assert {name: set(stage.trains) for name, stage in zip(("local", "global"), adapter.stages, strict=True)} == {
        "local": {"local"},
        "global": {"global"},
    }


@torch.no_grad()
def test_viscos_tokens_are_mixtures_of_places_and_empty_ones_are_their_numbers(sd: AbstractBackbone, eye: Path) -> None:
    mixture = PlaceMixture(5, 2, 3, 3)
    picture = drawn(1, 1, 5, 3)
    by_hand = mixture.mix.weight @ picture[0, 0] + mixture.mix.bias[:, None]
    torch.testing.assert_close(mixture(picture)[0], by_hand)
    adapter = system("visconet", sd, eye)
    assert adapter.mixture.mix.in_features == 17
    features = drawn(2, 1, 17, HIDDEN)
    made = adapter.tokens_of(features, torch.tensor([True, False]))
    assert made.shape == (2, 4, 16)
    nothing = adapter.mixture(torch.zeros(1, 2, 17, HIDDEN))[0]
    torch.testing.assert_close(made[0, 2:], nothing[2:])
    torch.testing.assert_close(made[1], nothing)
    torch.testing.assert_close(made[0, :2], adapter.mixture(features[:1])[0])
    with pytest.raises(UsageError, match="places for 2 pictures, got 3"):
        adapter.tokens_of(drawn(1, 3, 17, HIDDEN), torch.tensor([True]))


@torch.no_grad()
def test_viscos_branch_reads_pictures_instead_of_words_and_counts_inside_the_mask(
    sd: AbstractBackbone, eye: Path
) -> None:
    adapter = system("visconet", sd, eye)
    assert adapter.map_kinds == ("depth", "mask")
    maps = random_maps(adapter)
    maps[:, 1] = 0
    maps[0, 1, :16] = 1  # the second row's is not given
    shown = pictures(adapter, maps=maps)
    tokens = adapter.tokens_of(shown.sight.features[:, :, 0], torch.tensor([True, True]))
    added = adapter.branch(NOISY, TIMES, tokens, maps[:, :1], None)
    mask = torch.ones(2, 1, 32, 32)
    mask[0, :, 16:] = 0
    assert torch.equal(everywhere_if_empty(maps[:, 1:]), mask)
    for prompts in (PROMPTS, ["red toy", "hat"]):
        with controlled(sd.denoiser, added.inside(mask)):
            expected = sd.predict(NOISY, TIMES, sd.encode_prompt(prompts))
        torch.testing.assert_close(predicted(sd, adapter, shown, prompts), expected, atol=2e-5, rtol=0)
    # Away from what guidance goes: words of its own, the same map, pictures that are zeros.
    nothing = adapter.branch(NOISY, TIMES, adapter.mixture(torch.zeros(2, 2, 17, HIDDEN)), maps[:, :1], None)
    with controlled(sd.denoiser, nothing.inside(mask)):
        expected = sd.predict(NOISY, TIMES, sd.encode_prompt(PROMPTS))
    unseen = predicted(sd, adapter, pictures(adapter, seen=False, maps=maps))
    torch.testing.assert_close(unseen, expected, atol=2e-5, rtol=0)


@torch.no_grad()
def test_viscos_scales_are_for_use_one_for_every_place(sd: AbstractBackbone) -> None:
    reading = Reading(sees="layers", width=HIDDEN, places=17)
    config = ViscoNetConfig(maps=("depth",), pictures=1, tokens=1, scales=(0.0,) * 5)
    adapter = ViscoNet(config, sd, reading)
    at_random(adapter, sd)
    shown = pictures(adapter, maps=random_maps(adapter))
    plain = sd.predict(NOISY, TIMES, sd.encode_prompt(PROMPTS))
    assert torch.equal(predicted(sd, adapter.eval(), shown), plain)
    assert not torch.equal(predicted(sd, adapter.train(), shown), plain)
    with pytest.raises(ArtifactError, match="scales has 2 numbers; the branch for .* adds at 5 places"):
        ViscoNet(ViscoNetConfig(maps=("depth",), scales=(1.0, 1.0)), sd, reading)
    with pytest.raises(ConfigError, match="other than mask"):
        ViscoNetConfig(maps=("depth", "mask"))


@torch.no_grad()
def test_a_row_without_tokens_reads_its_text_alone(sd: AbstractBackbone) -> None:
    tokens = drawn(2, 3, 16)
    states = sd.encode_prompt(PROMPTS)
    beside = states.beside(behind_the_text(sd, tokens, torch.tensor([1.0, 0.0])))
    made = sd.predict(NOISY, TIMES, beside)
    plain = sd.predict(NOISY, TIMES, states)
    longer = sd.predict(NOISY, TIMES, Conditioning(states=torch.cat([states.states, tokens], dim=1)))
    torch.testing.assert_close(made[0], longer[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(made[1], plain[1], atol=2e-5, rtol=0)
