"""TextureDreamer's score: a subject's model against the plain one, which learns only where the camera stands.

Personalised geometry-aware score distillation (Yeh et al. 2024, arXiv 2401.09416, sec. 3.3):
w(t) (eps_subject(z_t; y_subject, geometry, t) - eps_plain(z_t; y, geometry, t, camera)). It is variational score
distillation without the low-rank updates: of the second score only the camera's embedding trains.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.image.adapters.base import injected
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.subject import Artifact
from pcs_ext.image.types import Conditioning, LossTerms, ParameterGroup
from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.distillation import (
    DistillationConfig,
    draw_noise,
    encode_views,
    guided_epsilon,
    surrogate_loss,
    weight_of,
)
from pcs_ext.threed.guidance import AbstractGuidance
from pcs_ext.threed.multiview import camera_numbers
from pcs_ext.threed.variational import CameraEmbedding, camera_beside_timestep
from pcs_ext.threed.view_prompts import ViewPrompts, ViewWords


@config
class PersonalizedConfig:
    """How the two scores are taken."""

    kind: Literal["personalized"] = "personalized"
    """Tag of this guidance in JSON."""
    score: DistillationConfig = DistillationConfig(guidance_scale=1.0)
    """Of the subject's score (TextureDreamer: no guidance, 1), timesteps, weighting, clamping."""
    learning_rate: float = 1e-4
    """Of the camera's embedding (TextureDreamer: 1e-4)."""

    def __post_init__(self) -> None:
        self.score.refuse("a personalized guidance", "subtract_noise", "growth", "perp_neg")


class PersonalizedGuidance(AbstractGuidance):
    """A frozen base, a subject, and an embedding of cameras.

    Args:
        backbone: without the subject.
        artifact: the subject; in the backbone only while its own score is taken.
        prompt: with `{subject}`; the plain score reads the class noun there. View words are appended to both.
        settings: how.
        negative_prompt: of the subject's score, beside what it learned to stay away from; read only with guidance.
        words: for the directions.
        seed: of the embedding's starting values and of kept noise.
    """

    def __init__(
        self,
        backbone: AbstractUnetBackbone,
        artifact: Artifact,
        prompt: str,
        settings: PersonalizedConfig,
        *,
        negative_prompt: str = "",
        words: ViewWords | None = None,
        seed: int = 0,
    ) -> None:
        self.backbone, self.settings, self.adapters, self.seed = backbone, settings, artifact.adapters(), seed
        self.words, self.negative = words or ViewWords(), artifact.concept.negative_prompt(negative_prompt)
        self.texts = artifact.concept.prompt(prompt), artifact.concept.class_prompt(prompt)
        width = backbone.denoiser.time_embedding.linear_2.out_features
        self.camera = CameraEmbedding(width, seed).to(backbone.device)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, both scores can be taken; afterwards the backbone is as before."""
        with torch.no_grad():
            plain = ViewPrompts(self.backbone, self.texts[1], words=self.words)
        with injected(self.backbone, *self.adapters):
            with torch.no_grad():
                subject = ViewPrompts(self.backbone, self.texts[0], negative_prompt=self.negative, words=self.words)
            self.plain, self.subject = plain, subject
            self._switch(on=False)
            try:
                yield
            finally:
                self._switch(on=True)

    def groups(self) -> list[ParameterGroup]:
        """The camera's embedding."""
        rate, trained = self.settings.learning_rate, tuple(self.camera.parameters())
        return [ParameterGroup(name="personalized/camera", parameters=trained, learning_rate=rate)]

    def terms(self, images: Tensor, cameras: Cameras, *, progress: float, generator: torch.Generator) -> LossTerms:
        """`score`, whose gradient in the latents is the difference of the two scores, and `camera`, which trains the
        plain score's embedding on the renders as they are."""
        latents = encode_views(self.backbone, images)
        clean, numbers = latents.detach(), camera_numbers(cameras).to(latents.device)
        _, said = self.plain(cameras)
        timesteps, noise = draw_noise(
            self.backbone, clean, self.settings.score, progress, generator, azimuth=cameras.azimuth, seed=self.seed
        )
        score = self.score(clean, timesteps, noise, cameras, numbers, said)
        schedule = self.backbone.schedule
        level = torch.randint(schedule.num_train_timesteps, (len(clean),), generator=generator).to(clean.device)
        drawn = torch.randn(clean.shape, generator=generator, dtype=torch.float64).to(clean)
        guess = self.epsilon(schedule.add_noise(clean, drawn, level), level, said, numbers)
        return LossTerms({"score": surrogate_loss(latents, score), "camera": F.mse_loss(guess.float(), drawn.float())})

    @torch.no_grad()
    def score(
        self, clean: Tensor, timesteps: Tensor, noise: Tensor, cameras: Cameras, numbers: Tensor, said: Conditioning
    ) -> Tensor:
        """w(t) (eps_subject - eps_plain), `b c h w`."""
        settings, noisy = self.settings.score, self.backbone.schedule.add_noise(clean, noise, timesteps)
        self._switch(on=True)
        wanted = guided_epsilon(self.backbone, noisy, timesteps, *self.subject(cameras), settings)
        self._switch(on=False)
        plain = self.epsilon(noisy, timesteps, said, numbers)
        score = weight_of(self.backbone, timesteps, clean, settings.weighting) * (wanted - plain)
        limit = settings.max_gradient
        return score if limit is None else score.clamp(-limit, limit)

    def epsilon(self, noisy: Tensor, timesteps: Tensor, said: Conditioning, numbers: Tensor) -> Tensor:
        """The noise that the plain model sees with its cameras, `b c h w`; differentiable in the embedding."""
        with camera_beside_timestep(self.backbone, self.camera(numbers)):
            prediction = self.backbone.predict(noisy, timesteps, said)
        return self.backbone.schedule.to_epsilon(prediction, noisy, timesteps)

    def _switch(self, *, on: bool) -> None:
        for adapter in self.adapters:
            adapter.set_scale(1.0 if on else 0.0)
