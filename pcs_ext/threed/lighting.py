"""What varies from step to step beside the camera: shading, light and background (DreamFusion, arXiv 2209.14988)."""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.render import Shading

_FRONT = 45.0
"""Degrees of azimuth."""


@config
class Lighting:
    """How views are lit and what is behind them."""

    albedo_until: float = 0.07
    """Share of training with albedo alone (DreamFusion: the first 1,000 of 15,000 steps)."""
    shaded: float = 0.75
    """Share of the later steps that are shaded."""
    textureless: float = 0.5
    """Share of the shaded steps without colour."""
    ambient: float = 0.1
    """Of a shaded view's light, what comes from everywhere."""
    plain: float = 1.0
    """Grey of the usual background, in [0, 1]."""
    random_background: float = 0.5
    """Share of the steps with a random colour behind, the same for all views (MVDream: 0.5)."""
    normals_until: float = 0.0
    """Share of training that shows nothing but normals as colours (Animate124: 0.2)."""
    normals: float = 0.0
    """Share of the steps that show normals as colours where all views are from the front (AvatarBooth: 0.1)."""

    def __post_init__(self) -> None:
        shares = dataclasses.asdict(self)
        wrong = {name: value for name, value in shares.items() if not 0 <= value <= 1}
        if wrong:
            raise ConfigError(f"lighting takes shares in [0, 1], got {wrong}.")

    def draw(self, cameras: Cameras, progress: float, generator: torch.Generator) -> "Lit":
        """Shading, lights and backgrounds of a step.

        The lights lie within about 60 degrees of the cameras, at 0.8 to 1.5 times their distance from the origin.
        """
        count = len(cameras)
        chance = torch.rand(3, generator=generator).tolist()
        color = torch.rand(3, generator=generator).expand(count, 3)
        away = cameras.positions.norm(dim=1, keepdim=True)
        toward = functional.normalize(
            cameras.positions / away + torch.randn(count, 3, generator=generator) * 0.5, dim=1
        )
        light = toward * away * (0.8 + 0.7 * torch.rand(count, 1, generator=generator))
        shading: Shading = "albedo"
        if progress >= self.albedo_until and chance[0] < self.shaded:
            shading = "textureless" if chance[1] < self.textureless else "lambertian"
        if self.normals and progress >= self.albedo_until:  # nothing is drawn where nobody asks for it
            ahead = bool((cameras.azimuth.abs() < _FRONT).all())
            shading = "normals" if torch.rand((), generator=generator) < self.normals and ahead else shading
        if progress < self.normals_until:
            shading = "normals"
        plain = torch.full((count, 3), self.plain)
        return Lit(shading=shading, light=light, background=color if chance[2] < self.random_background else plain)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lit:
    """How `b` views are lit; drawn on the CPU."""

    shading: Shading
    light: Tensor
    """`b 3`: place of the point light, world units."""
    background: Tensor
    """`b 3` in [0, 1]."""

    def to(self, device: torch.device) -> "Lit":
        """The same elsewhere."""
        return dataclasses.replace(self, light=self.light.to(device), background=self.background.to(device))
