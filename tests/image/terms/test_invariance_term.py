"""Gradients that pass where three pictures agree: the mask by hand, the surrogate against its parts."""

import dataclasses

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import SpectrumConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.terms import InvarianceConfig, build_term
from pcs_ext.image.terms.invariance import InvarianceTerm
from pcs_ext.image.types import Batch
from tests.image.terms.test_context_term import step_of


def test_channels_pass_that_are_alike_for_the_action_and_unlike_without_it() -> None:
    own = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    same = torch.tensor([[1.0, 1.1, 5.0, 1.2]])  # differences 0, 0.1, 4, 0.2
    other = torch.tensor([[1.0, 3.0, 9.0, 4.0]])  # differences 0, 2, 8, 3
    term = InvarianceTerm(InvarianceConfig(same_action=0.75, other_action=0.75))
    assert term.mask(own, same, other).tolist() == [[0.0, 1.0, 0.0, 1.0]]
    everything = InvarianceTerm(InvarianceConfig(same_action=1.0, other_action=1.0))
    assert everything.mask(own, same, other).tolist() == [[1.0] * 4]
    layers = torch.randn(3, 2, 10, generator=torch.Generator().manual_seed(0))
    half = InvarianceTerm(InvarianceConfig(same_action=0.5, other_action=1.0))
    assert half.mask(layers, torch.zeros_like(layers), layers).sum(-1).tolist() == [[5.0, 5.0]] * 3


def test_with_nothing_masked_it_is_the_denoising_loss(sd: AbstractBackbone) -> None:
    word = build_adapter("word", SpectrumConfig(placeholder="<r>", initializer="dog"))
    pictures = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch = Batch(images=pictures[:2], captions=("a <r>", "a red <r>"), before=pictures[2:])

    def loss_of(config: InvarianceConfig) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            step = dataclasses.replace(step_of(sd, {"word": word}), batch=batch, conditioning=encoded)
            step = dataclasses.replace(step, generator=torch.Generator().manual_seed(5))
            value = build_term(config)(step)
            return value.detach(), torch.autograd.grad(value, weight)[0]

    with injected(sd, word):
        (weight,) = word.parameters()["embedding"]
        encoded = sd.encode_prompt(batch.captions)
        value, gradient = loss_of(InvarianceConfig(same_action=1.0, other_action=1.0))
        latents = torch.cat([sd.encode_images(picture[None]) for picture in batch.images])
        generator = torch.Generator().manual_seed(5)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = sd.schedule.draw_timesteps(2, generator)
        prediction = sd.predict(sd.schedule.add_noise(latents, noise, timesteps), timesteps, encoded)
        plain = (prediction - sd.schedule.target(latents, noise, timesteps)).square().mean()
        torch.testing.assert_close(value, plain.detach())
        torch.testing.assert_close(
            gradient, torch.autograd.grad(plain, weight, retain_graph=True)[0], atol=1e-6, rtol=1e-3
        )
        same, masked = loss_of(InvarianceConfig(same_action=0.5, other_action=0.5))
        assert same == value
        assert 0 < int((masked != 0).sum()) < int((gradient != 0).sum())
        without = dataclasses.replace(step_of(sd, {"word": word}), conditioning=encoded)
        with pytest.raises(ConfigError, match="its picture before the action"):
            build_term(InvarianceConfig())(without)
        one = Batch(images=pictures[:1], captions=("a <r>",), before=pictures[2:3])
        alone = dataclasses.replace(step_of(sd, {"word": word}), batch=one, conditioning=encoded[[0]])
        with pytest.raises(ConfigError, match="set batch_size to 2 or more"):
            build_term(InvarianceConfig())(alone)
