"""Only the channels of a word that an action needs (ADI, Huang et al. 2023, arXiv 2311.15841)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.latent_cache import LatentCache
from pcs_ext.image.masked_loss import denoising_errors
from pcs_ext.image.terms.base import AbstractTerm, Step
from pcs_ext.image.types import Conditioning


@config
class InvarianceConfig:
    """The photos' denoising loss, whose gradient passes where two comparisons let it.

    It is the whole loss: set `denoising_weight` to 0, or the same error also teaches every channel.
    """

    kind: Literal["invariance"] = "invariance"
    """Tag of this term in JSON."""
    same_action: float = 0.6
    """Share of a row's channels that pass: those whose gradients differ least from those of another photo, which shows
    the action in another context."""
    other_action: float = 0.6
    """Share that passes: those whose gradients differ most from those of the same picture without the action."""

    def __post_init__(self) -> None:
        if not (0 < self.same_action <= 1 and 0 < self.other_action <= 1):
            raise ConfigError(
                f"same_action and other_action are shares in (0, 1], got {self.same_action} and {self.other_action}."
            )


class InvarianceTerm(AbstractTerm):
    """Its value is the photos' mean error; its gradient with respect to the words' rows is the masked one.

    Every photo is compared with the next one of the batch and with its picture before the action, all three noised
    alike. Three passes of the denoiser, and three backward passes per photo. Channels pass that pass both comparisons.
    Differs from the paper, which makes the pictures without the action by itself. Recalled, not looked up: the shares,
    and that the masks are intersected.
    """

    name = "invariance"

    def __init__(self, config: InvarianceConfig) -> None:
        self.config = config
        self._latents: LatentCache | None = None

    def __call__(self, step: Step) -> Tensor:
        rows = [parameter for adapter in step.words().values() for parameter in adapter.parameters()["embedding"]]
        rows = [parameter for parameter in rows if parameter.requires_grad]
        errors = self._errors(step)
        count = len(errors) // 3
        shown = errors[:count].mean().detach()
        if not rows or not errors.requires_grad:
            return shown
        masked = [torch.zeros_like(parameter) for parameter in rows]
        for photo in range(count):
            own, same, other = (_gradients(errors[photo + side * count], rows) for side in range(3))
            for total, *triple in zip(masked, own, same, other, strict=True):
                total += self.mask(*triple) * triple[0] / count
        # A loss of this value whose gradient is `masked`.
        slopes = [(kept * (row - row.detach())).sum() for kept, row in zip(masked, rows, strict=True)]
        return shown + torch.stack(slopes).sum()

    def mask(self, own: Tensor, same: Tensor, other: Tensor) -> Tensor:
        """1 for channels that pass, 0 for others; `... d` as the gradients, each row by itself."""
        width = own.shape[-1]
        unlike, like = (own - same).abs(), (own - other).abs()
        least = unlike.kthvalue(max(1, round(self.config.same_action * width)), dim=-1, keepdim=True).values
        most = like.kthvalue(width + 1 - max(1, round(self.config.other_action * width)), dim=-1, keepdim=True).values
        return ((unlike <= least) & (like >= most)).to(own.dtype)

    def _errors(self, step: Step) -> Tensor:
        """`3 b`: of the photos, of the next ones and of the pictures before, with the photos' noise and timesteps."""
        batch, backbone = step.batch, step.backbone
        if batch.before is None:
            raise ConfigError("invariance compares every photo with its picture before the action; one has none.")
        if len(batch.captions) < 2:
            raise ConfigError(
                "invariance compares every photo with the next one of its batch, and there is one alone; set "
                "batch_size to 2 or more."
            )
        cache = self._latents = self._latents or LatentCache(backbone)
        own, before = cache(batch), cache.before(batch)
        following = [(row + 1) % len(own) for row in range(len(own))]
        latents = torch.cat([own, own[following], before])
        told = Conditioning.cat([step.conditioning, step.conditioning[following], step.conditioning])
        noise = torch.randn(own.shape, generator=step.generator).to(latents).repeat(3, 1, 1, 1)
        timesteps = backbone.schedule.draw_timesteps(len(own), step.generator).to(backbone.device).repeat(3)
        prediction = backbone.predict(backbone.schedule.add_noise(latents, noise, timesteps), timesteps, told)
        return denoising_errors(prediction, backbone.schedule.target(latents, noise, timesteps)).mean((1, 2, 3))


def _gradients(error: Tensor, rows: Sequence[torch.nn.Parameter]) -> list[Tensor]:
    found = torch.autograd.grad(error, list(rows), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(row) if one is None else one for one, row in zip(found, rows, strict=True)]
