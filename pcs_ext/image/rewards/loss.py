"""The loss of a phase that learns from rewards."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import Concept
from pcs_ext.image.rewards.config import RewardConfig
from pcs_ext.image.rewards.judge import Judge
from pcs_ext.image.rewards.paths import Asked, Steps, asked, log_probability
from pcs_ext.image.types import LossTerms

Loss = Callable[[int, int, torch.Generator], LossTerms]


class RewardLoss:
    """`(step, micro_step, generator) -> LossTerms`: `reward` beside another loss.

    Args:
        config: how.
        backbone: with the adapters in it.
        concept: says the subject.
        photos: `3 s s` each in [-1, 1], of the subject.
        beside: the photos' own loss; asked where its weight is not 0.

    Raises:
        ModelError: an encoder is missing.
        ConfigError: the base follows a flow.
    """

    def __init__(
        self, config: RewardConfig, backbone: AbstractBackbone, concept: Concept, photos: Sequence[Tensor], beside: Loss
    ) -> None:
        self.config, self.backbone, self.concept, self.beside = config, backbone, concept, beside
        self.steps, self.judge = Steps(backbone, config.steps), Judge(config, photos, backbone.device)

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Everything random comes from `generator`."""
        own = self._feedback(generator) if self.config.method == "feedback" else self._policy(generator)
        terms = LossTerms({"reward": own})
        if self.config.denoising == 0:
            return terms
        return terms + self.beside(step, micro_step, generator).scaled(self.config.denoising)

    def _feedback(self, generator: torch.Generator) -> Tensor:
        """One minus the reward for weights that sum to one, of what a late step predicts (ReFL, algorithm 1)."""
        prompts = [self._drawn(generator) for _ in range(self.config.pictures)]
        told = self._told(prompts)
        first, last = (round(part * self.config.steps) for part in self.config.last)
        judged = self.config.steps - 1 - _between(first, max(first + 1, last), generator)
        latents = self._noise(generator)
        with torch.no_grad():
            for index in range(judged):
                clean, noise = self.steps.predicted(latents, index, told)
                latents, _ = self.steps.mean(clean, noise, index, eta=0.0)
        clean, _ = self.steps.predicted(latents, judged, told)
        worth = self.judge(self.backbone.decode_latents(clean).float(), self._plain(prompts))
        return self.config.identity + self.config.text - worth.mean()

    def _policy(self, generator: torch.Generator) -> Tensor:
        """The score function estimate of the reward's gradient (DDPO, eq. 6) over some steps of fresh paths.

        Its value is minus the mean advantage, which is 0; its gradient is what counts. DDPO takes several gradient
        steps from one set of paths and clips how far the probabilities move; here paths are fresh in every step, so
        that nothing is to be clipped and an interrupted run goes on exactly.
        """
        prompts = [self._drawn(generator)] * self.config.pictures
        with torch.no_grad():
            path = self._path(self._told(prompts), generator)
            worth = self.judge(self.backbone.decode_latents(path[-1]).float(), self._plain(prompts))
            better = (worth - worth.mean()) / (worth.std() + 1e-6)
        # The last step goes to the picture itself, without noise: it has no probability.
        visited = torch.randperm(self.config.steps - 1, generator=generator)[: self.config.visited].tolist()
        told, total = self._told(prompts), torch.zeros((), device=self.backbone.device)
        for index in visited:
            mean, sigma = self.steps.mean(*self.steps.predicted(path[index], index, told), index, eta=1.0)
            logarithm = log_probability(path[index + 1], mean, sigma)
            total = total - (better * (logarithm - logarithm.detach()).exp()).mean()
        return total / max(len(visited), 1)

    def _path(self, told: Asked, generator: torch.Generator) -> list[Tensor]:
        path = [self._noise(generator)]
        for index in range(self.config.steps):
            mean, sigma = self.steps.mean(*self.steps.predicted(path[-1], index, told), index, eta=1.0)
            path.append(mean + sigma * torch.randn(mean.shape, generator=generator).to(mean))
        return path

    def _noise(self, generator: torch.Generator) -> Tensor:
        side = self.backbone.resolution // self.backbone.vae_factor
        shape = (self.config.pictures, self.backbone.latent_channels, side, side)
        return torch.randn(shape, generator=generator).to(self.backbone.device)

    def _drawn(self, generator: torch.Generator) -> str:
        return self.config.prompts[_between(0, len(self.config.prompts), generator)]

    def _told(self, prompts: Sequence[str]) -> Asked:
        return asked(self.backbone, [self.concept.prompt(text) for text in prompts], self.config.guidance_scale)

    def _plain(self, prompts: Sequence[str]) -> list[str]:
        return [self.concept.class_prompt(text) for text in prompts]


def _between(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from `low` on, below `high`."""
    return int(torch.randint(low, high, (1,), generator=generator))
