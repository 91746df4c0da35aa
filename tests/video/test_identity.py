"""PersonalVideo: rewards in closed form, the window, and a loss that reaches the identity alone."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.activation_checkpointing import activation_checkpointing
from pcs_ext.image.adapters import LowRankConfig, build_adapter, injected
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.evaluate.encoders import load_image_encoder
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.clip_hooks import Strength, windowed
from pcs_ext.video.identity import IdentityConfig, IdentityLoss, identity_loss, score_divergence
from tests.support.encoders import tiny_clip, tiny_dino
from tests.support.tiny_video import tiny_motion_adapter

FAST = IdentityConfig(steps=3, window=0.4, guidance_scale=1.0, frames=2, score_frames=2)
PHOTO = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_an_identity_costs_one_minus_the_cosine() -> None:
    photos = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert float(identity_loss(photos[:1], torch.tensor([[3.0, 0.0]]))) == pytest.approx(0)
    assert float(identity_loss(photos[:1], torch.tensor([[-1.0, 0.0]]))) == pytest.approx(2)
    assert float(identity_loss(photos, torch.tensor([[1.0, 1.0]]))) == pytest.approx(1 - 0.5**0.5)


def test_scores_of_another_distribution_cost_their_divergence() -> None:
    frozen = torch.tensor([[0.0, 1.0, 3.0]])
    assert float(score_divergence(frozen + 5, frozen)) == pytest.approx(0, abs=1e-6)  # a softmax sees no offset
    p, q = torch.softmax(frozen, -1), torch.softmax(-frozen, -1)
    assert float(score_divergence(-frozen, frozen)) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)


def test_a_subject_is_there_in_its_window_alone(sd: AbstractUnetBackbone) -> None:
    adapter = build_adapter("identity", LowRankConfig(rank=2))
    with injected(sd, adapter):
        strength = Strength([adapter], 0.7)
        seen = []

        def inner(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            layers: Any = adapter
            seen.append(next(iter(layers.layers().values())).scale)
            return latents

        wrapped = windowed(strength, 1000, 0.25)(inner)
        for timestep in (999, 250, 249, 0):
            wrapped(PHOTO, torch.tensor([timestep]), Conditioning(states=PHOTO))
        assert seen == [0.0, 0.0, 0.7, 0.7]
        assert strength.without(lambda: torch.tensor(seen[-1])).item() == pytest.approx(0.7)
        assert strength.there


@pytest.fixture
def video(sd: AbstractUnetBackbone) -> AnimateDiffBackbone:
    return AnimateDiffBackbone(sd, tiny_motion_adapter())


def test_the_reward_reaches_the_identity_and_nothing_else_and_falls(video: AnimateDiffBackbone, tmp_path: Path) -> None:
    adapter = build_adapter("identity", LowRankConfig(rank=2))
    encoder = load_image_encoder(tiny_clip(tmp_path / "clip"), video.device)
    with injected(video, adapter):
        loss = IdentityLoss(video, {"identity": adapter}, encoder, [PHOTO], ["a dog on grass", "a cat in snow"], FAST)
        parameters = adapter.parameters()["denoiser"]
        terms = loss(0, 0, torch.Generator().manual_seed(0))
        terms.total.backward()
        # An identity that changes nothing yet makes what the frozen model makes.
        assert float(terms.terms["semantics"].detach()) == pytest.approx(0, abs=1e-5)
        assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in parameters)
        assert all(parameter.grad is None for parameter in video.motion.parameters())
        optimizer = torch.optim.Adam(parameters, lr=2e-2)
        values = []
        for _ in range(4):
            optimizer.zero_grad()
            identity = loss(0, 0, torch.Generator().manual_seed(0)).terms["identity"]
            identity.backward()
            optimizer.step()
            values.append(float(identity.detach()))
        assert values[-1] < values[0]


def test_the_identitys_gradients_are_the_same_where_activations_are_computed_again(
    video: AnimateDiffBackbone, tmp_path: Path
) -> None:
    """Also after the frozen model was asked in between."""
    adapter = build_adapter("identity", LowRankConfig(rank=2))
    encoder = load_image_encoder(tiny_clip(tmp_path / "clip"), video.device)
    with injected(video, adapter):
        loss = IdentityLoss(video, {"identity": adapter}, encoder, [PHOTO], ["a dog"], FAST)
        parameters, found = adapter.parameters()["denoiser"], []
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
        for context in (nullcontext(), activation_checkpointing(video.denoiser)):
            with context:
                loss(0, 0, torch.Generator().manual_seed(0)).total.backward()
            found.append([parameter.grad for parameter in parameters])
            for parameter in parameters:
                parameter.grad = None
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_what_cannot_judge_is_named(video: AnimateDiffBackbone, tmp_path: Path) -> None:
    encoder = load_image_encoder(tiny_dino(tmp_path / "dino"), video.device)
    with pytest.raises(UsageError, match="reads no text"):
        IdentityLoss(video, {}, encoder, [PHOTO], ["a dog"], FAST)
    with pytest.raises(ConfigError, match="window must be in"):
        IdentityConfig(window=0.0)
