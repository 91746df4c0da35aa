"""What may happen to protected photos before an attacker trains on them: each way a value with its exact parameters.

Here files are really encoded and decoded, and nothing needs a gradient; `transforms` has the differentiable relatives
that perturbations are optimised through. All take and return uint8 pictures `3 h w`, sRGB.
"""

import io
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Discriminator
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.defense.purifier import Purifier
from pcs_ext.defense.transforms import gaussian_blur
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data.photos import MIN_SIDE


@config
class JpegFile:
    """Save as JPEG and open again, as messengers and web sites do."""

    kind: Literal["jpeg-file"] = "jpeg-file"
    quality: int = 75
    """As libjpeg counts it, 1 to 100; 75 is what picture libraries take when nothing is said."""
    subsampling: Literal["4:4:4", "4:2:0"] = "4:2:0"
    """Of the colours; 4:2:0 halves their resolution and is the encoders' default."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality of a JPEG must be 1 to 100, got {self.quality}.")

    @property
    def name(self) -> str:
        """Such as "JPEG 75"."""
        return f"JPEG {self.quality}"

    def apply(
        self, photos: Sequence[Tensor], *, clean: Sequence[Tensor], backbone: AbstractBackbone, seed: int
    ) -> list[Tensor]:
        """A real encoder and decoder; nothing is drawn."""
        return [self._through(photo) for photo in photos]

    def _through(self, photo: Tensor) -> Tensor:
        buffer = io.BytesIO()
        subsampling = {"4:4:4": 0, "4:2:0": 2}[self.subsampling]
        Image.fromarray(photo.permute(1, 2, 0).contiguous().numpy()).save(
            buffer, format="JPEG", quality=self.quality, subsampling=subsampling
        )
        with Image.open(buffer) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


@config
class Smaller:
    """Reduce to a share of the size and leave it there."""

    kind: Literal["smaller"] = "smaller"
    share: float = 0.5
    """Of both sides, in (0, 1); bicubic with anti-aliasing. Trainers refuse photos of fewer than 32 pixels per side, so
    small ones are reduced less."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"share of a smaller photo must be in (0, 1), got {self.share}.")

    @property
    def name(self) -> str:
        """Such as "half size"."""
        return "half size" if self.share == 0.5 else f"{self.share:g} of the size"

    def apply(
        self, photos: Sequence[Tensor], *, clean: Sequence[Tensor], backbone: AbstractBackbone, seed: int
    ) -> list[Tensor]:
        """Nothing is drawn."""
        return [self._through(photo) for photo in photos]

    def _through(self, photo: Tensor) -> Tensor:
        share = min(1.0, max(self.share, MIN_SIDE / min(photo.shape[1:])))
        return _resized(photo, [max(1, round(share * side)) for side in photo.shape[1:]])


@config
class Blurred:
    """Gaussian blur, as strong at the attacker's training size whatever the photo's own size."""

    kind: Literal["blurred"] = "blurred"
    sigma: float = 1.4
    """In pixels of a photo whose shorter side is the base's training size. 1.4 is what the usual rule makes of the 7
    taps of MetaCloak's evaluation (arXiv 2311.13127): 0.3 ((7 - 1) / 2 - 1) + 0.8."""

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ConfigError(f"sigma of a blur must be positive, got {self.sigma}.")

    @property
    def name(self) -> str:
        """Such as "blur 1.4"."""
        return f"blur {self.sigma:g}"

    def apply(
        self, photos: Sequence[Tensor], *, clean: Sequence[Tensor], backbone: AbstractBackbone, seed: int
    ) -> list[Tensor]:
        """The kernel ends where the photo's shorter side does; nothing is drawn."""
        return [self._through(photo, backbone.resolution) for photo in photos]

    def _through(self, photo: Tensor, side: int) -> Tensor:
        short = min(photo.shape[1:])
        sigma = self.sigma * short / side
        # MetaCloak's 7 taps reach 3 pixels at a sigma of 1.4; a mirrored edge cannot be wider than the photo.
        reach = min(max(1, round(3 / 1.4 * sigma)), max(short - 1, 0))
        if reach == 0:
            return photo.clone()
        return _levels(gaussian_blur(photo[None].float(), sigma, 2 * reach + 1)[0])


@config
class Mixed:
    """The attacker also has clean photos: some of the protected ones are replaced by their originals.

    Differs from Anti-DreamBooth's uncontrolled setting, whose clean photos are others of the same person: the number of
    photos stays, so that what changes is their share alone.
    """

    kind: Literal["mixed"] = "mixed"
    share: float = 0.5
    """Of the photos that are clean, in (0, 1]; rounded to whole photos, at least one."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"share of clean photos must be in (0, 1], got {self.share}.")

    @property
    def name(self) -> str:
        """Such as "half of them clean"."""
        return "half of them clean" if self.share == 0.5 else f"{self.share:.0%} of them clean"

    def count(self, photos: int) -> int:
        """How many of so many photos become clean."""
        return max(1, round(self.share * photos))

    def apply(
        self, photos: Sequence[Tensor], *, clean: Sequence[Tensor], backbone: AbstractBackbone, seed: int
    ) -> list[Tensor]:
        """The first photos become clean; nothing is drawn."""
        count = self.count(len(photos))
        return [*clean[:count], *photos[count:]]


Laundering: TypeAlias = Annotated[JpegFile | Smaller | Blurred | Mixed | Purifier, Discriminator("kind")]
"""Every way; the field `kind` says which one a JSON object is."""

DIFFPURE = Purifier(id="DiffPure", zoom=1.0, timestep=100, steps=20, rounds=1, kept=0.0)
GRIDPURE = Purifier(id="GrIDPure", zoom=2.0, timestep=10, steps=10, rounds=10, kept=0.1)

LAUNDERINGS: tuple[Laundering, ...] = (
    JpegFile(quality=90),
    JpegFile(quality=75),
    Smaller(share=0.5),
    Blurred(sigma=1.4),
    Mixed(share=0.5),
    DIFFPURE,
    GRIDPURE,
)
"""What an honest evaluation puts photos through."""


def _resized(photo: Tensor, size: Sequence[int]) -> Tensor:
    return _levels(
        F.interpolate(photo[None].float(), size=tuple(size), mode="bicubic", antialias=True, align_corners=False)[0]
    )


def _levels(values: Tensor) -> Tensor:
    return values.clamp(0, 255).round().to(torch.uint8)
