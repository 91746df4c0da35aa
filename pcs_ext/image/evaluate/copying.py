"""Does a generated image repeat a reference photo? Similarity alone cannot tell; nearness beyond the truth's can."""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.image.evaluate.encoders import ImageEncoder

# Copies survive scaling and compression; at this side both are gone and the layout of a photo is still there.
_PIXEL_SIDE = 32


@config
class CopyReport:
    """Nearest-reference similarity of generated images beside that of honest new views."""

    copied: tuple[int, ...]
    """Indices of generated images beyond both limits."""
    n: int
    """Generated images looked at."""
    pixel_nearest: float
    """Mean over generated images of the best pixel correlation with a reference, in [-1, 1]."""
    feature_nearest: float
    """Mean over generated images of the best feature cosine with a reference, in [-1, 1]."""
    pixel_limit: float
    """Half way from the nearest honest view to identity."""
    feature_limit: float
    """Half way from the nearest honest view to identity."""
    honest: str
    """What the limits come from: `novel views` or `other references`."""
    encoder: str
    """Id of the encoder behind the features."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nearness:
    """Per image, how near the nearest reference is."""

    pixel: Tensor
    """`b`: correlation of pixels, in [-1, 1]."""
    feature: Tensor
    """`b`: cosine of embeddings, in [-1, 1]."""


def nearest_reference(
    images: Tensor, references: Tensor, encoder: ImageEncoder, *, leave_out_self: bool = False
) -> Nearness:
    """How near each image comes to its nearest reference; mirrored references count too.

    Args:
        images: `b 3 h w` in [-1, 1].
        references: `r 3 h w` in [-1, 1]; sizes may differ from the images'.
        encoder: for the feature side.
        leave_out_self: the images are the references; do not compare one with itself.
    """
    both = torch.cat([references, references.flip(-1)])
    pixel = _pixel_embedding(images) @ _pixel_embedding(both).T
    feature = encoder.encode_images(images) @ encoder.encode_images(both).T
    if leave_out_self:
        own = torch.eye(len(images), dtype=torch.bool, device=pixel.device).repeat(1, 2)
        pixel, feature = pixel.masked_fill(own, -1), feature.masked_fill(own.to(feature.device), -1)
    return Nearness(pixel=pixel.amax(1).cpu(), feature=feature.amax(1).cpu())


@torch.no_grad()
def check_copying(
    generated: Tensor,
    references: Tensor,
    encoder: ImageEncoder,
    *,
    truth: Tensor | None = None,
    gap: float = 0.5,
) -> CopyReport:
    """Flag generated images that repeat a reference.

    An honest new picture of the subject may be near to a reference by chance, so the limit is measured: the nearest
    that a true novel view (or, without those, another reference) comes to a reference, and half of what is then left
    to identity. A copy exceeds it in pixels and in features at once: the same photo, not only the same subject or the
    same layout.

    Args:
        generated: `b 3 h w` in [-1, 1].
        references: `r 3 h w` in [-1, 1]; at least two when there is no `truth`.
        encoder: any image encoder.
        truth: true novel views of the subject, `t 3 h w` in [-1, 1].
        gap: share of the way from the nearest honest view to identity that only a copy goes. Few honest views are at
            hand, so the next one may well come somewhat nearer than all of them.
    """
    found = nearest_reference(generated, references, encoder)
    if truth is None:
        assert len(references) >= 2, "copying needs novel views or at least two references"
        honest = nearest_reference(references, references, encoder, leave_out_self=True)
    else:
        honest = nearest_reference(truth, references, encoder)
    nearest = (float(honest.pixel.max()), float(honest.feature.max()))
    pixel_limit, feature_limit = (value + gap * (1 - value) for value in nearest)
    copied = (found.pixel > pixel_limit) & (found.feature > feature_limit)
    return CopyReport(
        copied=tuple(copied.nonzero().flatten().tolist()),
        n=len(generated),
        pixel_nearest=float(found.pixel.mean()),
        feature_nearest=float(found.feature.mean()),
        pixel_limit=pixel_limit,
        feature_limit=feature_limit,
        honest="other references" if truth is None else "novel views",
        encoder=encoder.id,
    )


def _pixel_embedding(images: Tensor) -> Tensor:
    """Unit vectors whose dot product is the correlation of two small versions of the images."""
    small = functional.interpolate(images.float(), size=(_PIXEL_SIDE, _PIXEL_SIDE), mode="bilinear", antialias=True)
    flat = small.flatten(1)
    return functional.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)
