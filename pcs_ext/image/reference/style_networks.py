"""A style-based autoencoder: pictures as codes of a W+ space, one vector for every layer of a generator, and back.

The generator is StyleGAN2's (Karras et al. 2020, arXiv 1912.04958): a learned constant grows to a picture by
convolutions whose weights a style scales. The encoder is e4e's in form (Tov et al. 2021, arXiv 2102.02766): one vector
for all layers, and an offset of each layer's own, which begins at zero.

Differs from both: nothing is adversarial. The vector is the mapping network's of a latent that the encoder tells with a
spread, as a variational autoencoder's, so that the mapping learns beside it and unit normal latents are pictures, too;
there are no noise inputs, and upsampling is bilinear.
"""

import itertools
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError

_SLOPE = 0.2
_FIRST = 4
"""Side of the constant."""
_SPREAD = -4.0
"""Log variance of latents in the beginning: little noise, so that they are made use of."""


@config
class StyleNetworks:
    """Sizes; those of StyleGAN2 where nobody says otherwise."""

    resolution: int = 256
    """Side of the pictures, a power of 2."""
    width: int = 512
    """Of a code's rows."""
    depth: int = 8
    """Layers of the mapping network."""
    channels: int = 512
    """Of layers, at most."""
    capacity: int = 16_384
    """Channels times side, at most."""

    def __post_init__(self) -> None:
        if self.resolution < 8 or self.resolution & (self.resolution - 1):
            raise ConfigError(f"resolution must be a power of 2, 8 or more, got {self.resolution}.")
        if min(self.width, self.depth, self.channels) < 1 or self.capacity < self.resolution:
            raise ConfigError("width, depth and channels must be at least 1, and capacity at least the resolution.")

    @property
    def sides(self) -> list[int]:
        """Of the maps, from the constant's to the picture's."""
        return [2**power for power in range(2, int(math.log2(self.resolution)) + 1)]

    @property
    def styles(self) -> int:
        """Rows of a code: 18 at 1,024 pixels, 10 at 64."""
        return 2 * len(self.sides)

    def at(self, side: int) -> int:
        """Channels of maps of a side."""
        return min(self.channels, self.capacity // side)


def begun(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """A layer before a leaky ReLU, with weights that keep the spread of what passes: torch's own shrink it by a half,
    and what deep networks make would be one and the same."""
    nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Mapping(nn.Module):
    """Latents of length sqrt(width), through `depth` layers -> W; `b width` both."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(begun(nn.Linear(width, width)) for _ in range(depth))

    def forward(self, latents: Tensor) -> Tensor:
        hidden = latents * (latents.square().mean(-1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), _SLOPE)
        return hidden


class ModulatedConv(nn.Module):
    """A convolution whose weights a style scales: w'_oik = s_i w_oik; demodulated, w' / |w'_o| (equations 1 and 3).

    Scaling what enters and what leaves is the same, and one convolution for the batch.

    Args:
        entering: channels.
        leaving: channels.
        width: of styles.
        kernel: side.
        demodulate: whether the length of each output's weights is brought to 1.
    """

    def __init__(self, entering: int, leaving: int, width: int, *, kernel: int = 3, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(leaving, entering, kernel, kernel) / math.sqrt(entering * kernel**2))
        self.bias = nn.Parameter(torch.zeros(leaving))
        self.style = nn.Linear(width, entering)
        nn.init.ones_(self.style.bias)
        self.demodulate = demodulate

    def forward(self, maps: Tensor, code: Tensor) -> Tensor:
        """`b entering h w` and `b width` -> `b leaving h w`."""
        scale = self.style(code)
        made = F.conv2d(maps * scale[:, :, None, None], self.weight, padding=self.weight.shape[-1] // 2)
        if self.demodulate:
            lengths = scale.square() @ self.weight.square().sum((2, 3)).T
            made = made * (lengths + 1e-8).rsqrt()[:, :, None, None]
        return made + self.bias[:, None, None]


class Synthesis(nn.Module):
    """Codes -> pictures.

    Rows of a code are read as StyleGAN2 reads them: what makes colours of a size shares its row with the first layer of
    the next size.
    """

    def __init__(self, sizes: StyleNetworks) -> None:
        super().__init__()
        sides, width = sizes.sides, sizes.width
        self.constant = nn.Parameter(torch.randn(sizes.at(_FIRST), _FIRST, _FIRST))
        layers = [ModulatedConv(sizes.at(_FIRST), sizes.at(_FIRST), width)]
        for smaller, side in itertools.pairwise(sides):
            layers += [ModulatedConv(sizes.at(smaller), sizes.at(side), width)]
            layers += [ModulatedConv(sizes.at(side), sizes.at(side), width)]
        self.layers = nn.ModuleList(layers)
        self.colours = nn.ModuleList(
            ModulatedConv(sizes.at(side), 3, width, kernel=1, demodulate=False) for side in sides
        )

    def forward(self, codes: Tensor) -> Tensor:
        """`b styles width` -> `b 3 h w` near [-1, 1]."""
        maps = self._grown(self.layers[0], self.constant.expand(len(codes), -1, -1, -1), codes[:, 0])
        picture = self.colours[0](maps, codes[:, 1])
        for number in range(1, len(self.colours)):
            row = 2 * number - 1
            maps = F.interpolate(maps, scale_factor=2, mode="bilinear")
            maps = self._grown(self.layers[row], maps, codes[:, row])
            maps = self._grown(self.layers[row + 1], maps, codes[:, row + 1])
            larger = F.interpolate(picture, scale_factor=2, mode="bilinear")
            picture = larger + self.colours[number](maps, codes[:, row + 2])
        return picture

    def _grown(self, layer: nn.Module, maps: Tensor, code: Tensor) -> Tensor:
        return math.sqrt(2) * F.leaky_relu(layer(maps, code), _SLOPE)


class StyleEncoder(nn.Module):
    """Pictures -> mean and log variance of a latent, and an offset for every row of a code.

    Offsets are told by maps of their layer's own size, in 4 x 4 parts; they begin at zero.
    """

    def __init__(self, sizes: StyleNetworks) -> None:
        super().__init__()
        sides, width = sizes.sides[::-1], sizes.width
        self.enter = begun(nn.Conv2d(3, sizes.at(sides[0]), 3, padding=1))
        self.down = nn.ModuleList(
            begun(nn.Conv2d(sizes.at(side), sizes.at(smaller), 3, stride=2, padding=1))
            for side, smaller in itertools.pairwise(sides)
        )
        self.latent = nn.Linear(sizes.at(_FIRST) * _FIRST**2, 2 * width)
        with torch.no_grad():
            assert self.latent.bias is not None
            self.latent.bias[width:] = _SPREAD
        rows = [_FIRST, *(side for side in sizes.sides[1:] for _ in range(2)), sizes.sides[-1]]
        self.rows = tuple(rows)
        self.offsets = nn.ModuleList(nn.Linear(sizes.at(side) * _FIRST**2, width) for side in rows)
        for offset in self.offsets:
            nn.init.zeros_(cast(nn.Linear, offset).weight)
            nn.init.zeros_(cast(nn.Linear, offset).bias)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`b 3 h w` in [-1, 1] -> `b width` twice, and `b styles width`."""
        maps = F.leaky_relu(self.enter(pictures), _SLOPE)
        seen = {maps.shape[-1]: maps}
        for layer in self.down:
            maps = F.leaky_relu(layer(maps), _SLOPE)
            seen[maps.shape[-1]] = maps
        parts = {side: F.adaptive_avg_pool2d(own, _FIRST).flatten(1) for side, own in seen.items()}
        mean, spread = self.latent(parts[_FIRST]).chunk(2, dim=-1)
        offsets = [offset(parts[side]) for side, offset in zip(self.rows, self.offsets, strict=True)]
        return mean, spread.clamp(-10, 10), torch.stack(offsets, dim=1)


class StyleAutoencoder(nn.Module):
    """Encoder, mapping and synthesis.

    Args:
        sizes: of all.
    """

    def __init__(self, sizes: StyleNetworks) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder, self.synthesis = StyleEncoder(sizes), Synthesis(sizes)
        self.mapping = Mapping(sizes.width, sizes.depth)

    def encode(self, pictures: Tensor) -> Tensor:
        """`b 3 resolution resolution` in [-1, 1] -> codes `b styles width`: the mapping of the latent's mean, and
        offsets."""
        mean, _, offsets = self.encoder(pictures)
        return self.codes(mean, offsets)

    def codes(self, latents: Tensor, offsets: Tensor) -> Tensor:
        """w_i = f(z) + d_i: `b width` and `b styles width` -> `b styles width`."""
        return self.mapping(latents)[:, None] + offsets

    def decode(self, codes: Tensor) -> Tensor:
        """`b styles width` -> `b 3 resolution resolution`, near [-1, 1]."""
        return self.synthesis(codes)
