"""A small generator of three planes (EG3D, arXiv 2112.07945) and a discriminator that is told the view."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.types import ParameterGroup
from pcs_ext.threed.fields import AbstractField, Bounds, Queried

_SLOPE = 0.2


@config
class GeneratorConfig:
    """Sizes of a generator."""

    latent: int = 32
    """Numbers of a style, z and w alike."""
    width: int = 32
    """Channels inside (EG3D: StyleGAN2's hundreds)."""
    planes: int = 8
    """Channels of each of the three planes (EG3D: 32)."""
    resolution: int = 32
    """Side of a plane, a power of two from 8 on (EG3D: 256)."""
    bounds: Bounds = Bounds()
    """The cube the planes span."""

    def __post_init__(self) -> None:
        if self.resolution < 8 or self.resolution & (self.resolution - 1) or min(self.latent, self.width) < 2:
            raise ConfigError(f"expected planes of 8, 16, 32 ... cells and widths from 2 on, got {self}.")


class Generator(nn.Module):
    """Styles z `b latent` -> w `b latent` -> planes `b 3 c r r`.

    Differs from EG3D: a convolution per resolution, instance-normalised and scaled by w, instead of StyleGAN2's
    modulated ones; no camera enters the mapping; no second network enlarges what is rendered.
    """

    def __init__(self, settings: GeneratorConfig, seed: int = 0) -> None:
        super().__init__()
        self.settings, width = settings, settings.width
        count = settings.resolution.bit_length() - 3
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.mapping = nn.Sequential(
                nn.Linear(settings.latent, settings.latent), nn.LeakyReLU(_SLOPE),
                nn.Linear(settings.latent, settings.latent), nn.LeakyReLU(_SLOPE),
            )  # fmt: skip
            self.constant = nn.Parameter(torch.randn(1, width, 4, 4))
            self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(count))
            self.styles = nn.ModuleList(nn.Linear(settings.latent, 2 * width) for _ in range(count))
            self.leave = nn.Conv2d(width, 3 * settings.planes, 3, padding=1)
            self.decoder = nn.Sequential(nn.Linear(settings.planes, 32), nn.Softplus(), nn.Linear(32, 4))

    def styled(self, z: Tensor) -> Tensor:
        """w `b latent` of z `b latent`, which is first brought to length sqrt(latent)."""
        return self.mapping(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())

    def planes(self, w: Tensor) -> Tensor:
        """Planes `b 3 c r r` of styles."""
        x = self.constant.expand(len(w), -1, -1, -1)
        for convolution, style in zip(self.convolutions, self.styles, strict=True):
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear")
            scale, shift = style(w)[:, :, None, None].chunk(2, 1)
            x = functional.leaky_relu(functional.instance_norm(convolution(x)) * (1 + scale) + shift, _SLOPE)
        return self.leave(x).unflatten(1, (3, -1))

    def field(self, planes: Tensor) -> "TriplaneField":
        """The field of one style, of its planes `3 c r r`."""
        return TriplaneField(planes, self.decoder, self.settings.bounds)


class TriplaneField(AbstractField):
    """Density and colour of the sum of what three planes hold at a point's projections. Differentiable in the planes.

    Args:
        planes: `3 c r r`: xy, xz, yz.
        decoder: features to raw density and colour.
        bounds: the cube they span.
    """

    def __init__(self, planes: Tensor, decoder: nn.Module, bounds: Bounds) -> None:
        super().__init__()
        self.plane_values, self.decoder, self.bounds = planes, decoder, bounds

    def query(self, points: Tensor) -> Queried:
        """See `AbstractField.query`."""
        local = self.bounds.normalized(points)
        pairs = torch.stack([local[:, [0, 1]], local[:, [0, 2]], local[:, [1, 2]]])
        found = functional.grid_sample(
            self.plane_values, pairs[:, None], mode="bilinear", padding_mode="border", align_corners=True
        )
        raw = self.decoder(found[:, :, 0].sum(0).T)
        # Starts as a thin mist in a ball; a mist that fills the cube leaves the planes nothing to carve.
        mist = 2.0 - 4.0 * local.square().sum(1)
        inside = (local.abs() <= 1).all(-1)
        return Queried(functional.softplus(4 * raw[:, 0] + mist) * inside, torch.sigmoid(raw[:, 1:]))

    def groups(self) -> list[ParameterGroup]:
        """Nothing: its generator trains."""
        return []


class Discriminator(nn.Module):
    """How real pictures `b 3 s s` in [-1, 1] are as views with labels `b l`: `b`.

    The label enters as in EG3D: as a projection (arXiv 1802.05637) of what is seen onto the label's vector.

    Args:
        side: of the pictures, a power of two from 8 on.
        labels: numbers of a label.
        width: channels at the first resolution.
        seed: of the first weights.
    """

    def __init__(self, side: int, labels: int, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        count = side.bit_length() - 3
        widths = [width * min(4, 2**level) for level in range(count + 1)]
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.enter = nn.Conv2d(3, width, 3, padding=1)
            self.convolutions = nn.ModuleList(
                nn.Conv2d(before, after, 3, padding=1) for before, after in itertools.pairwise(widths)
            )
            self.seen, self.score = nn.Linear(16 * widths[-1], 64), nn.Linear(64, 1)
            self.label = nn.Linear(labels, 64, bias=False)

    def forward(self, pictures: Tensor, labels: Tensor) -> Tensor:
        """See the class."""
        x = functional.leaky_relu(self.enter(pictures), _SLOPE)
        for convolution in self.convolutions:
            x = functional.avg_pool2d(functional.leaky_relu(convolution(x), _SLOPE), 2)
        seen = functional.leaky_relu(self.seen(x.flatten(1)), _SLOPE)
        return self.score(seen)[:, 0] + (seen * self.label(labels)).sum(1) / 8
