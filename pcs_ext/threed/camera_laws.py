"""How training views are drawn: the papers' laws of azimuth, elevation, distance and lens."""

import math
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.threed.cameras import Cameras, Vector, orbit


@config
class CameraLaw:
    """Where random views come from. Defaults suit an object two units tall."""

    elevation: tuple[float, float] = (-10.0, 60.0)
    """Degrees. DreamFusion: -10 to 90; MVDream: 0 to 30."""
    elevation_law: Literal["angle", "sphere", "mixed"] = "mixed"
    """Uniform in the angle, uniform in area on the sphere, or either with equal odds (the open implementations)."""
    azimuth: tuple[float, float] = (-180.0, 180.0)
    """Degrees."""
    distance: tuple[float, float] = (4.6, 5.8)
    """From the target, world units."""
    fov: tuple[float, float] = (28.0, 36.0)
    """Full vertical angle, degrees."""
    target: Vector = (0.0, 0.0, 0.75)
    """The point looked at."""
    views: int = 1
    """Views per set: a set shares elevation, distance and lens, its azimuths are 360/views apart (MVDream: 4)."""

    def __post_init__(self) -> None:
        limits = {"elevation": (-90, 90), "azimuth": (-720, 720), "distance": (0, math.inf), "fov": (0, 180)}
        for name, (least, most) in limits.items():
            low, high = getattr(self, name)
            if not (least <= low <= high <= most):
                raise ConfigError(
                    f"cameras have {name} from {low} to {high}; expected the lower end first, from {least} to {most}."
                )
        if not (self.distance[0] > 0 and self.fov[0] > 0 and self.fov[1] < 180 and self.views >= 1):
            raise ConfigError(
                f"cameras have distance {self.distance}, fov {self.fov} and {self.views} views; expected a distance "
                "above 0, angles between 0 and 180 degrees, and one view or more."
            )


def draw_cameras(law: CameraLaw, count: int, generator: torch.Generator) -> Cameras:
    """`count` random views.

    The azimuth range is cut into as many equal strata as there are sets and each set falls into its own, so that no
    batch looks at one side only.

    Args:
        law: ranges and laws.
        count: a multiple of `law.views`; sets are adjacent in the result.
        generator: on the CPU.

    Raises:
        UsageError: a count that is no multiple.
    """
    if count < 1 or count % law.views:
        raise UsageError(f"expected a positive multiple of {law.views} views, got {count}.")
    sets = count // law.views
    azimuth = stratified(law.azimuth, sets, generator).repeat_interleave(law.views)
    azimuth = azimuth + (torch.arange(law.views) * (360 / law.views)).repeat(sets)
    columns = [_elevations(law, sets, generator), uniform(law.distance, sets, generator)]
    columns.append(uniform(law.fov, sets, generator))
    elevation, distance, fov = (column.repeat_interleave(law.views) for column in columns)
    return orbit(azimuth, elevation, distance, fov, law.target)


def uniform(bounds: tuple[float, float], count: int, generator: torch.Generator) -> Tensor:
    """`count` float64 numbers, uniform between two bounds."""
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(count, generator=generator, dtype=torch.float64)


def stratified(bounds: tuple[float, float], count: int, generator: torch.Generator) -> Tensor:
    """`count` float64 numbers, one uniform in each of `count` equal pieces of the range, in random order."""
    order = torch.randperm(count, generator=generator).double()
    place = (order + torch.rand(count, generator=generator, dtype=torch.float64)) / count
    return bounds[0] + (bounds[1] - bounds[0]) * place


def _elevations(law: CameraLaw, count: int, generator: torch.Generator) -> Tensor:
    angle = uniform(law.elevation, count, generator)
    low, high = (math.sin(math.radians(bound)) for bound in law.elevation)
    sphere = torch.rad2deg(torch.asin(uniform((low, high), count, generator).clamp(-1, 1)))
    if law.elevation_law != "mixed":
        return angle if law.elevation_law == "angle" else sphere
    return torch.where(torch.rand(count, generator=generator) < 0.5, angle, sphere)
