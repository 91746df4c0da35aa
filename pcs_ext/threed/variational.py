"""Variational score distillation: the noise of a second score, learned on the renders, in place of the drawn noise.

ProlificDreamer (Wang et al. 2023, arXiv 2305.16213): w(t) (eps_pretrained(z_t; y) - eps_lora(z_t; y, t, camera)).
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import LowRankConfig, build_adapter
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.types import Conditioning, LossTerms, ParameterGroup
from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.distillation import (
    DistillationConfig,
    Repelled,
    draw_noise,
    encode_views,
    guided_epsilon,
    surrogate_loss,
    weight_of,
)
from pcs_ext.threed.multiview import camera_numbers


@config
class VariationalConfig:
    """How the two scores are taken and the second one is learned."""

    kind: Literal["variational"] = "variational"
    """Tag of this guidance in JSON."""
    score: DistillationConfig = DistillationConfig(guidance_scale=7.5)
    """Of the pretrained score: guidance scale (ProlificDreamer: 7.5), timesteps, weighting, clamping, but no growth."""
    rank: int = 4
    """Of the low-rank updates on every attention projection (open implementations: 4)."""
    learning_rate: float = 1e-4
    """Of the updates and of the camera's embedding."""
    camera_dropout: float = 0.1
    """Share of training pictures whose camera is left out, in [0, 1)."""

    def __post_init__(self) -> None:
        self.score.refuse("a variational guidance", "subtract_noise", "growth")
        if self.rank < 1 or self.learning_rate <= 0 or not 0 <= self.camera_dropout < 1:
            raise ConfigError(
                f"expected a rank of at least 1, a positive learning rate and a dropout in [0, 1), got {self.rank}, "
                f"{self.learning_rate} and {self.camera_dropout}."
            )


class CameraEmbedding(nn.Module):
    """16 numbers of a camera beside the timestep; adds nothing at first."""

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        nn.init.zeros_(self.layers[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[2].bias)  # type: ignore[arg-type]

    def forward(self, cameras: Tensor) -> Tensor:
        """What is added to the timestep's embedding, `b width`."""
        return self.layers(cameras)


@contextlib.contextmanager
def camera_beside_timestep(backbone: AbstractUnetBackbone, added: Tensor) -> Iterator[None]:
    """Inside, the denoiser's embedding of timesteps `b width` has `added` on top; afterwards it is as before."""
    handle = backbone.denoiser.time_embedding.register_forward_hook(
        lambda module, given, embedding: embedding + added.to(embedding.dtype)
    )
    try:
        yield
    finally:
        handle.remove()


class VariationalScore:
    """A frozen backbone, possibly with a subject in it, and a second score on top of it that learns the renders.

    Injects its updates on entering `applied`; outside it the backbone is as before. The updates are off (scale 0)
    wherever the pretrained score is asked.

    Args:
        backbone: with a subject's adapters already injected.
        settings: how.
        seed: of the updates' starting values and of kept noise.
    """

    def __init__(self, backbone: AbstractUnetBackbone, settings: VariationalConfig, seed: int = 0) -> None:
        self.backbone, self.settings, self.seed = backbone, settings, seed
        updates = LowRankConfig(rank=settings.rank, alpha=float(settings.rank), targets="attention", init_seed=seed)
        self.updates = build_adapter("variational", updates)
        width = backbone.denoiser.time_embedding.linear_2.out_features
        self.camera = CameraEmbedding(width, seed).to(backbone.device)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the second score exists and its parameters require gradients."""
        self.updates.inject(self.backbone)
        parameters = [parameter for group in self.groups() for parameter in group.parameters]
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            self.updates.set_scale(0.0)
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
            self.updates.set_scale(1.0)
            self.updates.eject()

    def groups(self) -> list[ParameterGroup]:
        """What the second score trains; only inside `applied`."""
        rate = self.settings.learning_rate
        lora = self.updates.parameters()["denoiser"]
        return [
            ParameterGroup(name="variational/updates", parameters=tuple(lora), learning_rate=rate),
            ParameterGroup(name="variational/camera", parameters=tuple(self.camera.parameters()), learning_rate=rate),
        ]

    def epsilon(self, noisy: Tensor, timesteps: Tensor, prompt: Conditioning, cameras: Tensor) -> Tensor:
        """The noise that the second score sees, `b c h w`; leaves the updates switched on, as a backward pass needs.

        Args:
            noisy: `b c h w`.
            timesteps: `b`.
            prompt: `b` rows, without view words.
            cameras: `b 16`; zeros where a camera is left out.
        """
        self.updates.set_scale(1.0)
        added = self.camera(cameras) * (cameras != 0).any(1, keepdim=True)
        dtype = self.backbone.dtype
        with (
            camera_beside_timestep(self.backbone, added),
            # Frozen weights in half precision need the trained float32 ones cast to meet them.
            torch.autocast(noisy.device.type, dtype=dtype, enabled=dtype != torch.float32),
        ):
            prediction = self.backbone.predict(noisy, timesteps, prompt)
        return self.backbone.schedule.to_epsilon(prediction, noisy, timesteps)

    def terms(
        self,
        images: Tensor,
        cameras: Cameras,
        prompts: tuple[Conditioning, Conditioning],
        plain: Conditioning,
        *,
        progress: float,
        generator: torch.Generator,
        repelled: Repelled | None = None,
    ) -> LossTerms:
        """`score`, whose gradient in the latents is the difference of the two scores, and `variational`, which trains
        the second one on the renders as they are.

        Args:
            images: `b 3 h w` in [-1, 1].
            cameras: `b`.
            prompts: negative and positive, of the pretrained score.
            plain: `b` rows without view words, of the second score.
            progress: share of training done.
            generator: on the CPU.
            repelled: see `guided_epsilon`.
        """
        latents = encode_views(self.backbone, images)
        clean = latents.detach()
        numbers = camera_numbers(cameras).to(latents.device)
        timesteps, noise = draw_noise(
            self.backbone, clean, self.settings.score, progress, generator, azimuth=cameras.azimuth, seed=self.seed
        )
        score = self.score(clean, timesteps, noise, prompts, plain, numbers, repelled)
        kept = torch.rand(len(numbers), 1, generator=generator) >= self.settings.camera_dropout
        level = torch.randint(self.backbone.schedule.num_train_timesteps, (len(clean),), generator=generator)
        drawn = torch.randn(clean.shape, generator=generator, dtype=torch.float64).to(clean)
        level = level.to(clean.device)
        noisy = self.backbone.schedule.add_noise(clean, drawn, level)
        guess = self.epsilon(noisy, level, plain, numbers * kept.to(numbers))
        return LossTerms(
            {"score": surrogate_loss(latents, score), "variational": F.mse_loss(guess.float(), drawn.float())}
        )

    @torch.no_grad()
    def score(
        self,
        clean: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        prompts: tuple[Conditioning, Conditioning],
        plain: Conditioning,
        cameras: Tensor,
        repelled: Repelled | None = None,
    ) -> Tensor:
        """w(t) (eps_pretrained - eps_second), `b c h w`."""
        settings = self.settings.score
        noisy = self.backbone.schedule.add_noise(clean, noise, timesteps)
        self.updates.set_scale(0.0)
        pretrained = guided_epsilon(self.backbone, noisy, timesteps, *prompts, settings, repelled)
        second = self.epsilon(noisy, timesteps, plain, cameras)
        score = weight_of(self.backbone, timesteps, clean, settings.weighting) * (pretrained - second)
        limit = settings.max_gradient
        return score if limit is None else score.clamp(-limit, limit)
