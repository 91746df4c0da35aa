"""What InstantID promises beyond the contract: where its tokens stand, and what IdentityNet reads."""

from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.control import added_of, controlled
from pcs_ext.image.reference.systems.instantid import InstantID, InstantIDConfig
from pcs_ext.image.types import Decoupled
from tests.support.tiny_conditions import NOISY, PROMPTS, TIMES, pictures, predicted, random_maps, system
from tests.support.tiny_reference import drawn, tiny_system


@torch.no_grad()
def test_tokens_are_of_the_mean_embedding_and_of_zeros_where_nothing_is_seen(sd: AbstractBackbone, eye: Path) -> None:
    adapter: InstantID = system("instantid", sd, eye)
    embeddings = drawn(2, 3, 16)
    made = adapter.tokens_of(embeddings, torch.tensor([True, False]))
    assert made.shape == (2, 2, 16)
    torch.testing.assert_close(made[:1], adapter.resampler(embeddings[:1].mean(1, keepdim=True)))
    torch.testing.assert_close(made[1:], adapter.resampler(torch.zeros(1, 1, 16)))


@torch.no_grad()
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_both_parts_read_the_tokens_each_at_its_strength(
    family: str, eye: Path, request: pytest.FixtureRequest
) -> None:
    """The base with tokens beside the text (values times 0.8) and with 0.8 of what a ControlNet adds whose context is
    nothing but the tokens; rows that see no picture likewise, with tokens of zeros."""
    backbone: AbstractBackbone = request.getfixturevalue(family)
    adapter: InstantID = system("instantid", backbone, eye)
    maps = random_maps(adapter)
    assert maps.shape[1] == 3
    told = backbone.encode_prompt(PROMPTS)
    for seen in (True, False):
        shown = pictures(adapter, count=2, maps=maps, seen=seen)
        tokens = adapter.tokens_of(shown.sight.features, torch.tensor([seen, seen]))
        added = adapter.identitynet(NOISY, TIMES, tokens, maps, added_of(told, NOISY))
        count = len(added.down) + 1
        for training, own, net in ((False, 0.8, 0.8), (True, 1.0, 1.0)):
            expected_told = told.beside(Decoupled(pairs=adapter.adapter(tokens, own)))
            with controlled(backbone.denoiser, added.each((net,) * count)):
                expected = backbone.predict(NOISY, TIMES, expected_told)
            made = predicted(backbone, adapter.train(training), shown)
            torch.testing.assert_close(made, expected, atol=3e-5, rtol=0)
        half = predicted(backbone, adapter.eval(), shown, scale=0.5)
        with controlled(backbone.denoiser, added.each((0.4,) * count)):
            beside = told.beside(Decoupled(pairs=adapter.adapter(tokens, 0.4)))
            torch.testing.assert_close(half, backbone.predict(NOISY, TIMES, beside), atol=3e-5, rtol=0)


@torch.no_grad()
def test_identitynet_hears_no_words(sd: AbstractBackbone, eye: Path) -> None:
    """With the image adapter off, other words change what the base adds to them, and nothing of what it is told."""
    adapter: InstantID = system("instantid", sd, eye)
    maps = random_maps(adapter)
    shown = pictures(adapter, maps=maps)
    heard: list[torch.Tensor] = []
    handle = adapter.identitynet.net.register_forward_pre_hook(
        lambda _, given, named: heard.append(named["encoder_hidden_states"]), with_kwargs=True
    )
    for prompts in (PROMPTS, ["red toy", "hat"]):
        predicted(sd, adapter, shown, prompts)
    handle.remove()
    assert len(heard) == 2
    assert torch.equal(*heard)
    torch.testing.assert_close(heard[0], adapter.tokens_of(shown.sight.features, torch.tensor([True, True])))


@torch.no_grad()
def test_untrained_identitynet_adds_nothing_and_keys_are_the_texts(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("instantid", sd, eye)
    assert isinstance(adapter, InstantID)
    adapter.eval()
    without, with_map = (predicted(sd, adapter, pictures(adapter, maps=m)) for m in (None, random_maps(adapter)))
    assert torch.equal(without, with_map)
    path, name = next(iter(adapter.adapter.names.items()))
    assert torch.equal(adapter.adapter.keys[name].weight, sd.denoiser.get_submodule(path).to_k.weight)  # type: ignore[arg-type, union-attr]
    for wrong, message in (
        ({"inner": 100}, "inner a multiple of 64"),
        ({"maps": ()}, "maps must"),
        ({"tokens": 0}, "tokens"),
        ({"adapter_strength": -1.0}, "must not be negative"),
    ):
        with pytest.raises(ConfigError, match=message):
            InstantIDConfig(**wrong)  # type: ignore[arg-type]
