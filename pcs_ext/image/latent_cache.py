"""Latents of pictures that come back unchanged, encoded once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.types import Batch


class LatentCache:
    """Latents by keys such as `Batch.keys`; random crops have no key and are encoded anew.

    Differs from the usual scripts: the mean of the autoencoder's posterior is used instead of a draw from it, so
    that one encoding serves all steps. The posterior's spread is below 1 % of the latents' for the bases in use.
    """

    def __init__(self, backbone: AbstractBackbone) -> None:
        self.backbone = backbone
        self._latents: dict[str, Tensor] = {}

    def __call__(self, batch: Batch) -> Tensor:
        """Latents `b c h w` of the batch's images."""
        return self.encoded(batch.images, batch.keys)

    @torch.no_grad()
    def encoded(self, images: Tensor, keys: Sequence[str] | None) -> Tensor:
        """Latents `b c h w` of images `b 3 h w`, equal ones of equal keys; None: none of them comes back."""
        if keys is None:
            return self._encode(images)
        for key, image in zip(keys, images, strict=True):
            if key not in self._latents:
                # One by one: rounding depends on what is encoded together, and a resumed run meets images in an order
                # of its own.
                self._latents[key] = self._encode(image[None])[0]
        return torch.stack([self._latents[key] for key in keys])

    def before(self, batch: Batch) -> Tensor:
        """Latents `b c h w` of the pictures before."""
        assert batch.before is not None, "the batch has no pictures before"
        return self.encoded(batch.before, None if batch.keys is None else [f"before/{key}" for key in batch.keys])

    def _encode(self, images: Tensor) -> Tensor:
        return self.backbone.encode_images(images.to(self.backbone.device, self.backbone.dtype)).float()
