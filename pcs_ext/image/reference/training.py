"""The loss by which every kind of reference adapter learns: the frozen base denoises a target beside its reference."""

from collections.abc import Callable

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.objectives import denoising_errors
from pcs_ext.image.reference.base import AbstractReferenceAdapter
from pcs_ext.image.reference.pairs import PairData
from pcs_ext.image.types import LossTerms


@config
class ReferenceTraining:
    """How an adapter is trained; the values are the paper's (section 4.1.2, as recalled), but for steps and batch."""

    steps: int = 100_000
    """Optimiser steps; the paper's million are for millions of captioned pictures."""
    batch_size: int = 8
    """Pairs per step; 64 over eight GPUs in the paper."""
    learning_rate: float = 1e-4
    """AdamW's, constant."""
    weight_decay: float = 0.01
    """On all matrices."""
    drop_image: float = 0.05
    """Share of pairs that see no reference."""
    drop_text: float = 0.05
    """Share of pairs whose caption is empty."""
    drop_both: float = 0.05
    """Share of pairs with neither, for guidance."""
    tokens: int = 4
    """That stand for a picture."""

    def __post_init__(self) -> None:
        shares = (self.drop_image, self.drop_text, self.drop_both)
        if min(shares) < 0 or sum(shares) > 1:
            raise ConfigError(
                f"drop_image, drop_text and drop_both must be shares that sum to at most 1, got {shares}."
            )
        if min(self.steps, self.batch_size, self.tokens) < 1 or self.learning_rate <= 0:
            raise ConfigError("steps, batch_size and tokens must be at least 1 and learning_rate above 0.")


class ReferenceLoss:
    """`(step, micro_step, generator) -> LossTerms`, as `fit` wants it (IP-Adapter, eq. 6).

    Args:
        backbone: frozen.
        adapter: trains.
        data: what from.
        settings: batch and shares dropped.
        blank: features of no picture, shaped like one row of `data.features`.
        draw_timesteps: `(batch, generator) -> timesteps b`; None: evenly.
        weigh: `timesteps b -> weights b` of the squared errors; None: all alike.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        adapter: AbstractReferenceAdapter,
        data: PairData,
        settings: ReferenceTraining,
        blank: Tensor,
        *,
        draw_timesteps: Callable[[int, torch.Generator], Tensor] | None = None,
        weigh: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.backbone, self.adapter, self.data, self.settings, self.blank = backbone, adapter, data, settings, blank
        self.draw_timesteps, self.weigh = draw_timesteps or self._evenly, weigh

    def _evenly(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.backbone.schedule.num_train_timesteps, (batch,), generator=generator)

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """The denoising error of one batch; everything random comes from `generator`."""
        pairs, device = self.data.draw(self.settings.batch_size, generator), self.backbone.device
        mute, blind = self._dropped(generator)
        captions = ["" if muted else said for muted, said in zip(mute.tolist(), pairs.captions, strict=True)]
        unseen = blind.reshape(-1, *[1] * (pairs.features.dim() - 1))
        features = torch.where(unseen, self.blank.to(pairs.features), pairs.features).to(device)
        conditioning = self.adapter.conditioned(self.backbone, self.backbone.encode_prompt, captions, features)
        clean, schedule = pairs.latents.to(device), self.backbone.schedule
        noise = torch.randn(clean.shape, generator=generator).to(device)
        timesteps = self.draw_timesteps(len(clean), generator).to(device)
        predicted = self.backbone.predict(schedule.add_noise(clean, noise, timesteps), timesteps, conditioning)
        errors = denoising_errors(predicted, schedule.target(clean, noise, timesteps))
        if pairs.weights is not None:
            errors = errors * pairs.weights.to(device)
        errors = errors.mean((1, 2, 3))
        return LossTerms({"denoising": (errors if self.weigh is None else errors * self.weigh(timesteps)).mean()})

    def _dropped(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which pairs go without caption, and which without reference, `b` bool each."""
        chance, settings = torch.rand(self.settings.batch_size, generator=generator), self.settings
        first = settings.drop_both
        second = first + settings.drop_text
        third = second + settings.drop_image
        return chance < second, (chance < first) | ((second <= chance) & (chance < third))
