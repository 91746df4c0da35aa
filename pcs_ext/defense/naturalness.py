"""How natural a picture's fine structure is, without a reference picture and without a trained network.

NIQE (Mittal, Soundararajan and Bovik 2013, "Making a completely blind image quality analyzer"): contrast-normalised
brightness of natural pictures follows the same distributions everywhere; noise, blur, blocks and the textures that
protected photos teach bend them. Differs from NIQE: the distance is taken to pictures that the base itself paints,
because that is what an attacker's undisturbed pictures would look like; and patches are quarters of a side, so that
small models can be judged.
"""

import dataclasses
import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)
_TAPS, _SIGMA = 7, 7 / 6
_PARTS = 4
"""Patches per side of a picture."""
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclasses.dataclass(frozen=True, eq=False)
class NaturalModel:
    """A normal distribution over the 36 features of patches."""

    mean: Tensor
    """`36`, float64."""
    covariance: Tensor
    """`36 36`."""
    patches: int
    """How many it was fitted to."""

    @staticmethod
    def of(pictures: Tensor) -> "NaturalModel":
        """Fit to pictures `n 3 s s` in [-1, 1], s at least 32."""
        features = patch_features(pictures)
        return NaturalModel(features.mean(0), torch.cov(features.T, correction=0), len(features))

    def distance(self, other: "NaturalModel") -> float:
        """NIQE's distance of two sets of pictures (eq. 10): 0 when their patches are distributed alike."""
        step = self.mean - other.mean
        # Few pictures leave directions in which nothing varies; they must not count without limit.
        inverse = torch.linalg.pinv((self.covariance + other.covariance) / 2, hermitian=True, rtol=1e-4)
        return math.sqrt(max(0.0, float(step @ inverse @ step)))


def patch_features(pictures: Tensor) -> Tensor:
    """Pictures `n 3 s s` in [-1, 1] -> features `16 n  36` of their patches, float64: 18 each at full and half size."""
    assert min(pictures.shape[-2:]) >= 32, f"pictures of {tuple(pictures.shape[-2:])} are too small; expected 32 x 32"
    luma = torch.einsum("c,bchw->bhw", torch.tensor(_LUMA), (pictures.float() + 1) * 127.5)[:, None]
    half = F.interpolate(luma, scale_factor=0.5, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([_features(luma), _features(half)], 1)


def _features(luma: Tensor) -> Tensor:
    normalised = _normalised(luma.double())
    parts = [_patches(normalised)]
    parts += [_patches(normalised * normalised.roll(shift, (-2, -1))) for shift in _SHIFTS]
    alpha, _, left, right = _asymmetric_fit(parts[0])
    columns = [alpha, (left + right) / 2]
    for part in parts[1:]:
        columns += _asymmetric_fit(part)
    return torch.stack(columns, 1)


def _normalised(luma: Tensor) -> Tensor:
    """Brightness minus its local mean, over its local deviation plus 1 (eq. 1 to 3), `n 1 h w`."""
    places = torch.arange(_TAPS, dtype=luma.dtype) - _TAPS // 2
    kernel = torch.exp(-places.square() / (2 * _SIGMA**2))
    kernel = (kernel / kernel.sum()).reshape(1, 1, 1, _TAPS)

    def blurred(values: Tensor) -> Tensor:
        padded = F.pad(values, (_TAPS // 2,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3))

    mean = blurred(luma)
    deviation = (blurred(luma.square()) - mean.square()).clamp_min(0).sqrt()
    return (luma - mean) / (deviation + 1)


def _patches(values: Tensor) -> Tensor:
    """`n 1 h w` -> `16 n  samples`; rows and columns that do not fill a patch are left out."""
    height, width = (side // _PARTS for side in values.shape[-2:])
    cut = values[:, 0, : height * _PARTS, : width * _PARTS].unfold(1, height, height).unfold(2, width, width)
    return cut.reshape(-1, height * width)


def _asymmetric_fit(samples: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shape, mean, left and right scale of an asymmetric generalised Gaussian by matching moments (eq. 5 to 9), `p`."""
    squares = samples.square()

    def scale(chosen: Tensor) -> Tensor:
        return ((squares * chosen).sum(1) / chosen.sum(1).clamp_min(1)).sqrt().clamp_min(1e-6)

    left, right = scale(samples < 0), scale(samples >= 0)
    ratio = left / right
    spread = samples.abs().mean(1).square() / squares.mean(1).clamp_min(1e-12)
    wanted = spread * (ratio**3 + 1) * (ratio + 1) / (ratio.square() + 1).square()
    shapes, ratios = _shape_table()
    alpha = shapes[torch.searchsorted(ratios, wanted.contiguous()).clamp_max(len(shapes) - 1)]
    gamma = [torch.exp(torch.lgamma(k / alpha)) for k in (1, 2, 3)]
    width = (gamma[0] / gamma[2]).sqrt()
    mean = (right - left) * width * gamma[1] / gamma[0]
    return alpha, mean, left, right


@functools.cache
def _shape_table() -> tuple[Tensor, Tensor]:
    """Shapes from 0.2 to 10 and the moment ratio gamma(2/a)^2 / (gamma(1/a) gamma(3/a)) of each, which rises."""
    shapes = torch.arange(0.2, 10.0, 0.001, dtype=torch.float64)
    logs = [torch.lgamma(k / shapes) for k in (1, 2, 3)]
    return shapes, torch.exp(2 * logs[1] - logs[0] - logs[2])
