"""Light on metallic-roughness materials: a studio of lamps that do not move, and light from everywhere.

The surface model of glTF 2.0 (appendix B): Lambert below a microfacet layer with the distribution of GGX (Walter et al.
2007), height-correlated shadowing (Heitz 2014) and the Fresnel term of Schlick (1994).
"""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.threed.cameras import Vector
from pcs_ext.threed.materials import Material

_TABLE = 16
_POINTS = 512
_LEAST = 1e-3
"""Cosines and roughness are kept above this, where the model has poles."""


@config
class Studio:
    """Lights of a scene."""

    lamps: tuple[Vector, ...] = ((-40.0, 40.0, 0.55), (60.0, 25.0, 0.3), (170.0, 35.0, 0.35), (0.0, 85.0, 0.2))
    """Azimuth and elevation in degrees, strength: what a white matt surface facing the lamp alone reflects. Chosen:
    TextureDreamer lights with one photographed environment."""
    ambient: float = 0.35
    """What a white surface reflects of the light from everywhere."""

    def directions(self) -> Tensor:
        """`k 3`, unit, towards the lamps, world axes."""
        azimuth, elevation = (torch.deg2rad(torch.tensor([lamp[i] for lamp in self.lamps])) for i in (0, 1))
        flat = elevation.cos()
        return torch.stack([azimuth.sin() * flat, -azimuth.cos() * flat, elevation.sin()], -1)


def lit_by(studio: Studio, material: Material, normals: Tensor, to_camera: Tensor) -> Tensor:
    """Picture values `n 3` in [0, 1] of surfaces in a studio, without shadows. Differentiable.

    Albedo and result are encoded as sRGB, as in glTF and in photos; light adds up linearly in between.

    Args:
        studio: lights.
        material: `n`.
        normals, to_camera: `n 3`, unit.
    """
    albedo = _linear(material.albedo)
    base = _base(albedo, material.metallic)
    share = _layer_share(base, (normals * to_camera).sum(-1), material.roughness)
    body = albedo * (1 - material.metallic)[:, None]
    light = studio.ambient * (share + (1 - share) * body)
    for direction, lamp in zip(studio.directions().to(normals), studio.lamps, strict=True):
        toward = direction.expand_as(normals)
        reflected = reflectance(albedo, material.roughness, material.metallic, normals, to_camera, toward)
        light = light + math.pi * lamp[2] * reflected
    return _encoded(light)


def reflectance(
    albedo: Tensor, roughness: Tensor, metallic: Tensor, normals: Tensor, to_camera: Tensor, to_light: Tensor
) -> Tensor:
    """The model's BRDF times the cosine to the light, `n 3`; 0 where the light is behind.

    Args:
        albedo: `n 3`, linear.
        roughness, metallic: `n`.
        normals, to_camera, to_light: `n 3`, unit.
    """
    half = functional.normalize(to_camera + to_light, dim=-1)
    cos_light = (normals * to_light).sum(-1)
    cos_camera, cos_half = ((normals * v).sum(-1).clamp_min(_LEAST) for v in (to_camera, half))
    fresnel = _fresnel(_base(albedo, metallic), (to_camera * half).sum(-1))
    lit = cos_light.clamp_min(0)
    facets = distribution(cos_half, roughness) * visibility(lit, cos_camera, roughness)
    body = albedo * ((1 - metallic) / math.pi)[:, None]
    return ((1 - fresnel) * body + fresnel * facets[:, None]) * lit[:, None]


def distribution(cos_half: Tensor, roughness: Tensor) -> Tensor:
    """GGX: density of microfacet normals per solid angle, `n`; times the cosine it integrates to 1."""
    alpha = _alpha(roughness).square()
    return alpha / (math.pi * (cos_half.square() * (alpha - 1) + 1).square())


def visibility(cos_light: Tensor, cos_camera: Tensor, roughness: Tensor) -> Tensor:
    """Height-correlated shadowing over 4 cos cos, `n`; symmetric in the two cosines."""
    alpha = _alpha(roughness).square()
    first = cos_light * (cos_camera.square() * (1 - alpha) + alpha).sqrt()
    second = cos_camera * (cos_light.square() * (1 - alpha) + alpha).sqrt()
    return 0.5 / (first + second).clamp_min(1e-7)


def _alpha(roughness: Tensor) -> Tensor:
    return roughness.clamp_min(0.05).square()


def _base(albedo: Tensor, metallic: Tensor) -> Tensor:
    """Reflectance at normal incidence, `n 3`: 0.04 of dielectrics, the albedo of metals."""
    return 0.04 + (albedo - 0.04) * metallic[:, None]


def _fresnel(base: Tensor, cosine: Tensor) -> Tensor:
    return base + (1 - base) * (1 - cosine.clamp(0, 1)).pow(5)[:, None]


def _layer_share(base: Tensor, cosine: Tensor, roughness: Tensor) -> Tensor:
    """What the microfacet layer reflects of light from everywhere, `n 3`."""
    place = torch.stack([cosine, roughness], -1).clamp(0, 1) * 2 - 1
    table = _shares().to(base)
    found = functional.grid_sample(table, place[None, None], padding_mode="border", align_corners=True)
    scale, offset = found[0, :, 0]
    return base * scale[:, None] + offset[:, None]


@functools.cache
def _shares() -> Tensor:
    """`1 2 rough cos`: scale and offset of the base reflectance, integrated over the hemisphere by sampling facets."""
    line = torch.linspace(0, 1, _TABLE, dtype=torch.float64).clamp_min(0.02)
    rough, cosine = (part.reshape(-1, 1) for part in torch.meshgrid(line, line, indexing="ij"))
    index = torch.arange(_POINTS, dtype=torch.float64)
    first, turn = (index + 0.5) / _POINTS, torch.remainder(index * 0.6180339887498949, 1) * 2 * math.pi
    alpha = _alpha(rough).square()
    cos_half = ((1 - first) / (1 + (alpha - 1) * first)).sqrt()
    sin_half = (1 - cos_half.square()).clamp_min(0).sqrt()
    sine = (1 - cosine.square()).clamp_min(0).sqrt()
    camera_half = (sine * sin_half * turn.cos() + cosine * cos_half).clamp_min(0)
    cos_light = (2 * camera_half * cos_half - cosine).clamp_min(0)
    seen = visibility(cos_light, cosine, rough) * 4 * camera_half * cos_light / cos_half.clamp_min(1e-6)
    grazing = (1 - camera_half).pow(5)
    parts = torch.stack([((1 - grazing) * seen).mean(1), (grazing * seen).mean(1)])
    return parts.view(1, 2, _TABLE, _TABLE).float()


def _linear(encoded: Tensor) -> Tensor:
    """sRGB to linear (IEC 61966-2-1)."""
    return torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded.clamp_min(0.04) + 0.055) / 1.055) ** 2.4)


def _encoded(linear: Tensor) -> Tensor:
    """Linear to sRGB, cut at 1."""
    held = linear.clamp(0, 1)
    return torch.where(held <= 0.0031308, held * 12.92, 1.055 * held.clamp_min(0.003) ** (1 / 2.4) - 0.055)
