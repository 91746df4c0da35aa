"""The base's own latents of pictures, in place of what an image encoder sees, for adapters that read those."""

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.evaluate.encoders import Preprocessing
from pcs_ext.image.reference.base import AbstractReferenceAdapter
from pcs_ext.image.reference.encoder import PictureEncoder, open_encoder
from pcs_ext.image.reference.pairs import square
from pcs_ext.image.reference.shown import Sight

OWN = "base"
"""What stands for an image encoder's name, where the base's autoencoder is meant."""
_HALF = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentEncoder(PictureEncoder):
    """The largest centred square of a picture, as the base's autoencoder encodes it."""

    model: AbstractBackbone

    @classmethod
    def of(cls, backbone: AbstractBackbone) -> "LatentEncoder":
        """A base's."""
        side, digest = backbone.resolution, backbone.fingerprint[:8]
        return cls(
            id=f"{OWN} ({digest})",
            digest=digest,
            sees="latents",
            model=backbone,
            preprocessing=Preprocessing(resize=side, crop=(side, side), mean=_HALF, std=_HALF),
            device=backbone.device,
            output="latents",
        )

    @property
    def width(self) -> int:
        """Channels of the latents."""
        return int(self.model.denoiser.config["in_channels"])

    @property
    def layers(self) -> tuple[int, ...]:
        """None are seen."""
        return ()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Pictures `b 3 h w` in [-1, 1] -> `b c h w`, float32. Not differentiable."""
        squares = torch.stack([square(image, self.model.resolution) for image in images.to(self.device)])
        return self.model.encode_images(squares.to(self.model.dtype)).float()

    def _cover(self, kept: Tensor, features: Tensor) -> Tensor:
        """`b h*w`: which latent cells the mask touches."""
        whole = torch.stack([square(2 * mask - 1, self.model.resolution) for mask in kept.float()])
        return F.adaptive_max_pool2d((whole > 0).float(), features.shape[-2:]).flatten(1).to(self.device)

    @torch.no_grad()
    def blank(self, features: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(features)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithLatents(PictureEncoder):
    """An image encoder beside which the base's autoencoder sees the same pictures."""

    latents: LatentEncoder

    def sight(self, images: Tensor, masks: Tensor | None, *, cut: bool) -> Sight:
        """See `PictureEncoder.sight`."""
        seen = super().sight(images, masks, cut=cut)
        held = self.latents(images)
        ground = None
        if masks is not None:
            kept = (masks > 0.5).to(images)
            ground = self.latents._cover(kept, held).unflatten(1, (1, *held.shape[-2:]))
        return dataclasses.replace(seen, latents=held, ground=ground)


def open_eye(
    folder: Path, reads: AbstractReferenceAdapter | type[AbstractReferenceAdapter], backbone: AbstractBackbone
) -> PictureEncoder:
    """What a kind of adapter reads pictures by.

    Args:
        folder: of an image encoder; of those that read latents the base stands for it, and this is passed over.
        reads: the kind.
        backbone: the base.

    Raises:
        ModelError: see `open_encoder`.
    """
    if reads.sees == "latents":
        return LatentEncoder.of(backbone)
    opened = open_encoder(folder, reads.sees, backbone.device, depths=reads.depths, scrambled=reads.scrambles)
    if not reads.also_latents:
        return opened
    same = {field.name: getattr(opened, field.name) for field in dataclasses.fields(opened)}
    return WithLatents(**same, latents=LatentEncoder.of(backbone))
