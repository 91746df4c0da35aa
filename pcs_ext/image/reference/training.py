"""The loss by which every kind of reference adapter learns: the base denoises a target beside its references."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.objectives import MaskNormalisation, denoising_errors, masked_mean
from pcs_ext.image.reference.base import AbstractReferenceAdapter
from pcs_ext.image.reference.boxes import boxes_of
from pcs_ext.image.reference.encoder import PictureEncoder
from pcs_ext.image.reference.kinds import KindConfig
from pcs_ext.image.reference.pairs import PairData, Pairs
from pcs_ext.image.reference.shown import Sight
from pcs_ext.image.types import LossTerms


@config
class ReferenceSchedule:
    """How any adapter is trained; defaults are IP-Adapter's (section 4.1.2, as recalled), but for steps and batch."""

    steps: int = 100_000
    """Optimiser steps; the paper's million are for millions of captioned pictures."""
    batch_size: int = 8
    """Pairs per step; 64 over eight GPUs in the paper."""
    learning_rate: float = 1e-4
    """AdamW's, constant, of the adapter's networks."""
    base_learning_rate: float | None = None
    """Of its weights in the base; None: the same."""
    weight_decay: float = 0.01
    """On all matrices."""
    drop_image: float = 0.05
    """Share of pairs that see no reference."""
    drop_text: float = 0.05
    """Share of pairs whose caption is empty."""
    drop_both: float = 0.05
    """Share of pairs with neither, for guidance."""
    masked: float = 0.0
    """Share of pairs whose error counts inside the masks alone, where masks are known."""
    photos: int = 1
    """Pictures of one subject that are shown at most."""

    def __post_init__(self) -> None:
        shares = (self.drop_image, self.drop_text, self.drop_both)
        if min(shares) < 0 or sum(shares) > 1 or not 0 <= self.masked <= 1:
            raise ConfigError(
                f"drop_image, drop_text and drop_both must be shares that sum to at most 1, got {shares}, and masked a "
                f"share, got {self.masked}."
            )
        if min(self.steps, self.batch_size, self.photos) < 1 or min(self.rates) <= 0:
            raise ConfigError("steps, batch_size and photos must be at least 1 and learning rates above 0.")
        if self.batch_size == 1 and sum(shares) > 0:
            # One pair of every batch keeps caption and picture.
            raise ConfigError(
                f"of a batch of 1 nothing can be dropped, and drop_image, drop_text and drop_both are {shares}; set "
                "batch_size to 2 or more, or all three to 0, without which guidance is not learned."
            )

    @property
    def rates(self) -> tuple[float, float]:
        """Learning rates of the networks and of the weights in the base."""
        return self.learning_rate, self.base_learning_rate or self.learning_rate


@config
class ReferenceTraining(ReferenceSchedule):
    """How an adapter of the image core is trained, and which."""

    adapter: KindConfig | None = None
    """What is trained; None: the system's own settings."""


class ReferenceLoss:
    """`(step, micro_step, generator) -> LossTerms`, as `fit` wants it (IP-Adapter, eq. 6).

    Args:
        backbone: frozen, the adapter inserted.
        adapter: trains.
        data: what from.
        settings: batch and shares dropped.
        blank: how one picture of `data` looks when there is none.
        draw_timesteps: `(batch, generator) -> timesteps b`; None: evenly.
        weigh: `timesteps b -> weights b` of the squared errors; None: all alike.
        encoder: made `data`; asked for by adapters with an identity loss.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        adapter: AbstractReferenceAdapter,
        data: PairData,
        settings: ReferenceSchedule,
        blank: Sight,
        *,
        draw_timesteps: Callable[[int, torch.Generator], Tensor] | None = None,
        weigh: Callable[[Tensor], Tensor] | None = None,
        encoder: PictureEncoder | None = None,
    ) -> None:
        assert encoder is not None or adapter.identity is None, "an identity loss asks the image encoder"
        self.backbone, self.adapter, self.data, self.settings, self.blank = backbone, adapter, data, settings, blank
        adapter.expect(len(data.groups))
        self.draw_timesteps, self.weigh, self.encoder = draw_timesteps or self._evenly, weigh, encoder

    def _evenly(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.backbone.schedule.num_train_timesteps, (batch,), generator=generator)

    def _noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Of the latents that are denoised."""
        return torch.randn(shape, generator=generator)

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """The denoising error of one batch and the adapter's own terms; everything random comes from `generator`."""
        pairs, device = self._drawn(generator), self.backbone.device
        encode, adapter = self.backbone.encode_prompt, self.adapter
        if not adapter.denoises:
            with adapter.watching(self.backbone, pairs) as watched:
                return LossTerms(dict(watched()))
        conditioning = adapter.conditioned(self.backbone, encode, pairs.captions, pairs.shown)
        clean, schedule = pairs.latents.to(device), self.backbone.schedule
        noise = self._noise(clean.shape, generator).to(device)
        timesteps = self.draw_timesteps(len(clean), generator).to(device)
        inside = (torch.rand(len(clean), generator=generator) < self.settings.masked).to(device)
        with adapter.watching(self.backbone, pairs) as watched:
            noisy = schedule.add_noise(clean, noise, timesteps)
            predicted = self.backbone.predict(noisy, timesteps, conditioning)
            terms = dict(watched())
        if adapter.identity is not None and self.encoder is not None:
            estimate = schedule.to_x0(predicted.float(), noisy, timesteps)
            terms["identity"] = adapter.identity(self.backbone, self.encoder, estimate, timesteps, pairs.shown)
        errors = denoising_errors(predicted, schedule.target(clean, noise, timesteps))
        if pairs.weights is not None:
            errors = errors * pairs.weights.to(device)
        means = errors.flatten(1).mean(1)
        if pairs.masks is not None:
            # Prediction and target times the mask, mean over everything: as FastComposer's released code has it.
            mask = pairs.masks.amax(1, keepdim=True).to(device)
            means = torch.where(inside, masked_mean(errors, mask, MaskNormalisation.MULTIPLY_BOTH), means)
        return LossTerms(
            {"denoising": (means if self.weigh is None else means * self.weigh(timesteps)).mean(), **terms}
        )

    def _drawn(self, generator: torch.Generator) -> Pairs:
        """A batch, some of it without caption or without pictures, on the backbone's device."""
        asked: dict[str, Any] = {"target": True} if self.adapter.asks_target else {}
        asked |= {"targets": self.adapter.targets} if self.adapter.targets > 1 else {}
        pairs = self.data.draw(self.settings.batch_size, generator, photos=self.settings.photos, **asked)
        mute, blind = self._dropped(generator)
        captions = tuple("" if muted else said for muted, said in zip(mute.tolist(), pairs.captions, strict=True))
        shown, device = pairs.shown, self.backbone.device
        sight = _blinded(shown.sight, self.blank, blind).map(lambda tensor: tensor.to(device))
        scene = None if pairs.scenes is None else pairs.scenes.to(device)
        turns = None if shown.turns is None else shown.turns.to(device)
        boxes, maps = self._placed(pairs, generator), self._mapped(pairs, generator)
        seen = dataclasses.replace(
            shown,
            sight=sight,
            seen=~blind,
            boxes=boxes,
            scene=scene,
            turns=turns,
            maps=maps,
            style=self._styled(shown.style, generator),
            target=None if shown.target is None else shown.target.to(device),
            texts=self._texts(pairs.captions),
            subjects=pairs.subjects,
        )
        told = tuple(self.adapter.told_captions(captions, seen, generator))
        return dataclasses.replace(pairs, captions=told, shown=seen, generator=generator)

    def _texts(self, captions: Sequence[str]) -> Tensor | None:
        """Captions as the image encoder's own text tower reads them, where somebody asks and it has one."""
        read = None if self.encoder is None or not self.adapter.asks_texts else self.encoder.texts
        return None if read is None else read(captions).to(self.backbone.device)

    def _placed(self, pairs: Pairs, generator: torch.Generator) -> Tensor | None:
        """Where the target has what each picture shows, `b r 4`; zeros in the share of rows that are not told."""
        if not self.adapter.asks_boxes or pairs.masks is None:
            return None
        boxes = boxes_of(pairs.masks)
        count = pairs.shown.sight.features.shape[1]
        told = torch.rand(len(boxes), generator=generator) >= self.adapter.unplaced
        placed = boxes if boxes.shape[1] == count else boxes[:, :1].expand(-1, count, -1)
        return (placed * told[:, None, None]).to(self.backbone.device)

    def _styled(self, style: Tensor | None, generator: torch.Generator) -> Tensor | None:
        """What is told of the targets' looks, `b 1 ...`; zeros in the share of rows that are not told."""
        if style is None or not self.adapter.asks_style:
            return None
        told = torch.rand(len(style), generator=generator) >= self.adapter.drop_style
        return (style * told.reshape(-1, *[1] * (style.dim() - 1))).to(self.backbone.device)

    def _mapped(self, pairs: Pairs, generator: torch.Generator) -> Tensor | None:
        """What is told of the targets' maps."""
        if pairs.maps is None:
            return None
        return self.adapter.told_maps(pairs.maps, generator).to(self.backbone.device)

    def _dropped(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which pairs go without caption, and which without reference, `b` bool each."""
        chance, settings = torch.rand(self.settings.batch_size, generator=generator), self.settings
        first = settings.drop_both
        second = first + settings.drop_text
        third = second + settings.drop_image
        mute, blind = chance < second, (chance < first) | ((second <= chance) & (chance < third))
        if bool((mute | blind).all()):
            # A batch in which no prompt has its picture teaches some adapters nothing, and there is nothing to derive.
            mute[0] = blind[0] = False
        return mute, blind


def _blinded(sight: Sight, blank: Sight, blind: Tensor) -> Sight:
    """The same with no picture in the rows that are blind, `b` bool."""

    def without(seen: Tensor, nothing: Tensor) -> Tensor:
        return torch.where(blind.reshape(-1, *[1] * (seen.dim() - 1)), nothing.to(seen), seen)

    def either(name: str) -> Tensor | None:
        seen, nothing = getattr(sight, name), getattr(blank, name)
        return None if seen is None or nothing is None else without(seen, nothing)

    return Sight(
        features=without(sight.features, blank.features),
        detail=sight.detail,
        **{name: either(name) for name in ("cut", "cover", "latents", "cells")},
    )
