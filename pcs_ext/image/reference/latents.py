"""The base's own latents of pictures, in place of what an image encoder sees, for adapters that read those."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import Photo
from pcs_ext.image.evaluate.encoders import Preprocessing
from pcs_ext.image.reference.base import AbstractReferenceAdapter
from pcs_ext.image.reference.blind import BlindEncoder
from pcs_ext.image.reference.encoder import PictureEncoder, open_encoder
from pcs_ext.image.reference.pairs import square
from pcs_ext.image.reference.shown import Sight
from pcs_ext.image.reference.style_space import open_style_space

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
        return self.model.latent_channels

    @property
    def places(self) -> int:
        """Latents have none but their cells."""
        return 1

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


def with_latents(sight: Sight, photos: Sequence[Photo], encoder: PictureEncoder) -> Sight:
    """The same with the latents of each photo, and which of their cells show what its mask shows, all without one.

    Args:
        sight: of the photos.
        photos: `n`.
        encoder: a `LatentEncoder`.
    """
    latents = torch.cat([encoder(photo.image[None]) for photo in photos])
    grid = (latents.shape[2], latents.shape[3])
    cells = []
    for photo in photos:
        mask = torch.ones_like(photo.image[:1]) if photo.mask is None else photo.mask
        height, width = mask.shape[1:]
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        cells.append(F.adaptive_avg_pool2d(mask[:, top : top + short, left : left + short], grid)[0])
    return dataclasses.replace(sight, latents=latents, cells=torch.stack(cells).to(latents))


def open_eye(
    folder: Path, reads: AbstractReferenceAdapter | type[AbstractReferenceAdapter], backbone: AbstractBackbone
) -> PictureEncoder:
    """What a kind of adapter reads pictures by.

    Args:
        folder: of an image encoder; passed over for those that read latents, for which the base stands, or nothing.
        reads: the kind.
        backbone: the base.

    Raises:
        ModelError: see `open_encoder`.
    """
    if reads.sees == "latents":
        return LatentEncoder.of(backbone)
    if reads.sees == "codes":
        return open_style_space(folder, backbone.device)
    if reads.sees == "nothing":
        return BlindEncoder.beside(backbone)
    return open_encoder(folder, reads.sees, backbone.device, depths=reads.depths, scrambled=reads.scrambles)
