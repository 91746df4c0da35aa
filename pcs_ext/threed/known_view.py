"""The one camera whose picture is known, and what a render from it must agree with (Animate124; Magic123)."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, InputError
from pcs_ext.image.data import find_photos, read_photo
from pcs_ext.image.types import LossTerms
from pcs_ext.threed.cameras import Cameras, Vector, orbit, rays
from pcs_ext.threed.fields import AbstractField
from pcs_ext.threed.occupancy import Occupancy
from pcs_ext.threed.render import RenderConfig, RenderedRays, render_rays
from pcs_ext.threed.warp import read_nearness


@config
class KnownView:
    """Where the photo was taken from, and how much a render from there must look like it."""

    azimuth: float = 0.0
    """Degrees; the thing's front by definition."""
    elevation: float = 0.0
    """Degrees above the horizon (Animate124: 0)."""
    distance: float = 5.2
    """From the target, world units."""
    fov: float = 32.0
    """Full vertical angle, degrees."""
    every: int = 4
    """So many steps apart the photo is looked at, and nothing else (Animate124: 4)."""
    first: int = 100
    """Steps at the beginning that look at nothing else (Animate124: 100)."""
    color: float = 5.0
    """Weight of the mean squared error of the thing's colours (Animate124: 5)."""
    cover: float = 0.5
    """Of the mean squared error of opacity against the mask (Animate124: 0.5)."""
    depth: float = 0.01
    """Of (1 - Pearson's correlation) / 2 of depths, where a depth picture is known (Animate124: 0.01)."""
    shake: float = 1e-3
    """Standard deviation of what is added to origin and direction of all rays, world units, against patterns of the
    grid (Animate124: 1e-3)."""
    side: int = 64
    """Of the render, pixels."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.first < 0 or self.side < 8 or min(self.color, self.cover, self.depth) < 0:
            raise ConfigError(
                f"expected every at least 1, first at least 0, views of 8 pixels and weights of 0 or more, got "
                f"{self.every}, {self.first}, {self.side}, {self.color}, {self.cover} and {self.depth}."
            )

    def due(self, step: int) -> bool:
        """Whether a step, counted from 0, looks at the photo."""
        return step < self.first or step % self.every == 0

    def camera(self, target: Vector) -> Cameras:
        """The photo's own, one."""
        return orbit([self.azimuth], [self.elevation], [self.distance], [self.fov], target)


@dataclasses.dataclass(frozen=True)
class KnownPhoto:
    """A photo of one thing, cut out."""

    image: Tensor
    """`3 h w` in [0, 1], square, over white."""
    cover: Tensor
    """`h w` in [0, 1]: where the thing is."""
    nearness: Tensor | None = None
    """`h w` in [0, 1], larger is nearer; None: not known."""

    def at(self, side: int) -> "KnownPhoto":
        """The same, `side` pixels square."""
        near = None if self.nearness is None else _resized(self.nearness[None], side)[0]
        return KnownPhoto(_resized(self.image, side), _resized(self.cover[None], side)[0], near)

    def to(self, device: torch.device) -> "KnownPhoto":
        """The same there."""
        near = None if self.nearness is None else self.nearness.to(device)
        return KnownPhoto(self.image.to(device), self.cover.to(device), near)


def read_known_photo(path: Path, depth: Path | None = None) -> KnownPhoto:
    """A photo with its mask (alpha channel or NAME_mask.png), the square in its middle.

    Args:
        path: of the photo.
        depth: of a depth picture of all of it, brighter is nearer.

    Raises:
        PhotoError, InputError: it cannot be read, has no mask, or one that covers nothing or everything.
    """
    photo = find_photos([path])[0]
    if photo.mask is None:
        raise InputError(
            f"{path} says nowhere where the thing is; expected a transparent background (RGBA), or "
            f"{path.stem}_mask.png beside it, white where the thing is."
        )
    mask = photo.mask
    if not 0 < float((mask > 0.5).float().mean()) < 1:
        raise InputError(f"the mask of {path} covers nothing or everything; expected white where the thing is.")
    over, alpha = photo.image * 0.5 + 0.5, read_photo(path).mask
    if alpha is not None:
        over = over + 0.5 * (1 - alpha)  # the reader lays transparent pixels over grey
    if alpha is None or not torch.equal(alpha, mask):
        over = over * mask + (1 - mask)
    nearness = None if depth is None else read_nearness(depth, (mask.shape[1], mask.shape[2]))
    near = None if nearness is None else _middle(nearness[None])[0]
    return KnownPhoto(_middle(over), _middle(mask)[0], near)


def known_terms(
    field: AbstractField,
    photo: KnownPhoto,
    settings: KnownView,
    *,
    samples: int,
    occupancy: Occupancy | None,
    generator: torch.Generator,
) -> tuple[LossTerms, RenderedRays]:
    """What a field lacks of its photo, and the render that says so.

    Args:
        field: what is there.
        photo: of the settings' side, on the field's device.
        settings: camera and weights.
        samples: intervals per ray.
        occupancy: cells that need not be asked.
        generator: on the CPU; shakes the rays and places the samples.
    """
    bundle = rays(settings.camera(field.bounds.center).to(field.device), settings.side, settings.side)
    if settings.shake:
        origin, direction = (settings.shake * torch.randn(2, 3, generator=generator)).to(field.device)
        shaken = functional.normalize(bundle.directions + direction, dim=-1)
        bundle = dataclasses.replace(bundle, origins=bundle.origins + origin, directions=shaken)
    seen = render_rays(field, bundle, RenderConfig(samples=samples), occupancy=occupancy, generator=generator)
    return photo_errors(seen, photo, settings), seen


def photo_errors(seen: RenderedRays, photo: KnownPhoto, settings: KnownView) -> LossTerms:
    """Errors of a render, row by row of pixels, against a photo of as many (Magic123, arXiv 2306.17843, eq. 2 and 4).

    Args:
        seen: over white.
        photo: of the settings' side.
        settings: weights.
    """
    cover, colors = photo.cover.reshape(-1), photo.image.permute(1, 2, 0).reshape(-1, 3)
    wrong = ((seen.rgb - colors) * cover[:, None]).square().mean()
    terms = {"color": settings.color * wrong, "cover": settings.cover * (seen.opacity - cover).square().mean()}
    inside = cover > 0.5
    if photo.nearness is not None and settings.depth and inside.sum() > 1:
        related = correlation(-seen.depth[inside], photo.nearness.reshape(-1)[inside])
        terms["depth"] = settings.depth * (1 - related) / 2
    return LossTerms({f"known/{name}": term for name, term in terms.items()})


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, of two vectors of `n` numbers, 0-d in [-1, 1]; 0 where one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (a.square().sum() * b.square().sum()).clamp_min(1e-12).sqrt()


def _middle(picture: Tensor) -> Tensor:
    """The square in the middle of a picture `c h w`."""
    edge = min(picture.shape[1:])
    top, left = ((size - edge) // 2 for size in picture.shape[1:])
    return picture[:, top : top + edge, left : left + edge]


def _resized(picture: Tensor, side: int) -> Tensor:
    return functional.interpolate(picture[None], (side, side), mode="bilinear", antialias=True)[0].clamp(0, 1)
