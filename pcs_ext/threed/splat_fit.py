"""Splats fitted to posed pictures: they start on the surface that a field shows and learn its colours and form."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.types import FitState, LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.threed.cameras import Cameras, orbit, rays
from pcs_ext.threed.fields import AbstractField, Bounds
from pcs_ext.threed.render import RenderConfig, Views, render_views
from pcs_ext.threed.splat_render import render_splats
from pcs_ext.threed.splats import AbstractSplats, SplatRates, Splats, SplatsConfig

_WINDOW, _SPREAD = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


@config
class SplatFit:
    """How splats are fitted. Chosen, except for the loss: 3DGS densifies instead of starting on a known surface."""

    fit: FitConfig
    """Steps and optimiser; a step sees one picture."""
    count: int = 3000
    """Splats."""
    side: int = 64
    """Of the pictures, pixels."""
    views: int = 24
    """Pictures of the field, evenly around it, at the elevations by turns."""
    elevations: tuple[float, ...] = (-5.0, 15.0, 40.0)
    """Degrees."""
    rates: SplatRates = SplatRates(place=2e-3, color=0.05, opacity=0.05, scale=0.02, turn=0.02)
    """Of learning."""
    similarity: float = 0.2
    """Share of 1 - SSIM beside the mean absolute error, in [0, 1] (3DGS: 0.2)."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.views < 1 or self.side < 8 or not self.elevations or not 0 <= self.similarity <= 1:
            raise ConfigError(
                f"expected splats, views of at least 8 pixels, elevations and a share in [0, 1], got {self.count}, "
                f"{self.views} of {self.side}, {self.elevations} and {self.similarity}."
            )

    def cameras(self, bounds: Bounds) -> Cameras:
        """Where the pictures are taken from, about the cube's middle."""
        count = self.views
        azimuth = [index * 360 / count for index in range(count)]
        elevation = [self.elevations[index % len(self.elevations)] for index in range(count)]
        return orbit(azimuth, elevation, [5.2] * count, [32.0] * count, bounds.center)


def picture_loss(images: Tensor, truth: Tensor, similarity: float) -> Tensor:
    """(1 - similarity) mean absolute error + similarity (1 - SSIM) of pictures `b 3 h w` in [0, 1], 0-d (3DGS,
    eq. 7)."""
    return (1 - similarity) * (images - truth).abs().mean() + similarity * (1 - ssim(images, truth))


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Mean structural similarity of pictures `b c h w` in [0, 1], 0-d (Wang et al. 2004): a Gaussian window of 11 x 11
    and sigma 1.5 at every pixel, zeros outside, as in 3DGS. Differentiable."""
    places = torch.arange(_WINDOW, dtype=images.dtype, device=images.device) - _WINDOW // 2
    line = torch.exp(-places.square() / (2 * _SPREAD**2))
    line, channels = line / line.sum(), images.shape[1]
    kernel = torch.outer(line, line).expand(channels, 1, -1, -1)

    def blurred(values: Tensor) -> Tensor:
        return F.conv2d(values, kernel, padding=_WINDOW // 2, groups=channels)

    x, y = blurred(images), blurred(truth)
    xx, yy, xy = blurred(images * images) - x * x, blurred(truth * truth) - y * y, blurred(images * truth) - x * y
    return ((2 * x * y + _C1) * (2 * xy + _C2) / ((x * x + y * y + _C1) * (xx + yy + _C2))).mean()


def surface_splats(field: AbstractField, cameras: Cameras, seen: Views, settings: SplatFit, seed: int) -> Splats:
    """Small round splats at random places of what the pictures show, in its colours.

    Args:
        field: what is there; its cube is theirs.
        cameras: `b`.
        seen: the field from them.
        settings: how many.
        seed: of the choice.

    Raises:
        UsageError: the pictures show nothing.
    """
    bundle = rays(cameras, *seen.depth.shape[1:])
    solid = (seen.opacity.reshape(-1) > 0.5).nonzero()[:, 0]
    if not len(solid):
        raise UsageError("the scene shows nothing that splats could be put on; train its field longer.")
    generator = torch.Generator().manual_seed(seed)
    pixels = solid[torch.randint(len(solid), (settings.count,), generator=generator)]
    reach = seen.depth.reshape(-1)[pixels] / bundle.along[pixels]
    splats = Splats(SplatsConfig(count=settings.count, bounds=field.bounds))
    colors = seen.rgb.permute(0, 2, 3, 1).reshape(-1, 3)[pixels].clamp(0.02, 0.98)
    with torch.no_grad():
        splats.places.copy_(bundle.origins[pixels] + bundle.directions[pixels] * reach[:, None])
        splats.raw_colors.copy_(torch.logit(colors))
        splats.raw_opacities.fill_(1.0)
        splats.log_scales.copy_(math.log(0.7) + _spacing(splats.places).log()[:, None].expand(-1, 3))
    return splats


def _spacing(places: Tensor) -> Tensor:
    """Mean distance `n` of the three nearest others, world units (3DGS), within [0.005, 0.1]."""
    if len(places) < 4:
        return torch.full((len(places),), 0.1)
    near = [torch.cdist(part, places).topk(4, largest=False).values[:, 1:].mean(1) for part in places.split(1024)]
    return torch.cat(near).clamp(0.005, 0.1)


def fit_splats(
    splats: AbstractSplats,
    cameras: Cameras,
    images: Tensor,
    settings: SplatFit,
    *,
    background: float = 1.0,
    checkpoints: CheckpointFolder | None = None,
    reporter: Reporter | None = None,
) -> Iterator[FitState]:
    """Fit splats to posed pictures; yields after every step, like the core's `fit`.

    Args:
        splats: changed in place.
        cameras: `b`.
        images: `b 3 h w` in [0, 1].
        settings: how.
        background: what is behind the splats in them.
        checkpoints: where to save and resume; None keeps nothing.
        reporter: hears of a resume.

    Raises:
        UsageError: pictures and cameras that do not match.
    """
    if images.dim() != 4 or len(images) != len(cameras):
        raise UsageError(f"expected {len(cameras)} pictures `b 3 h w`, one per camera, got {tuple(images.shape)}.")

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        index = torch.randint(len(images), (1,), generator=generator)
        seen = render_splats(splats.cloud(), cameras[index], *images.shape[2:], background=background)
        return LossTerms({"pictures": picture_loss(seen.rgb, images[index].to(seen.rgb), settings.similarity)})

    groups = splats.groups(settings.rates)
    yield from fit(loss, groups, settings.fit, checkpoints=checkpoints, reporter=reporter)


@torch.no_grad()
def field_pictures(
    field: AbstractField, settings: SplatFit, *, background: float = 1.0, samples: int = 128
) -> tuple[Cameras, Views]:
    """A field from where splats are fitted to it."""
    cameras, side = settings.cameras(field.bounds), settings.side
    return cameras, render_views(field, cameras, side, side, RenderConfig(samples=samples), background=background)
