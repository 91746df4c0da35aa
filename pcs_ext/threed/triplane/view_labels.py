"""Where a view stands, said finely or coarsely: what StyleAvatar3D's discriminator is told (arXiv 2305.19012).

Stylised pictures do not always show the side that they were asked for; a coarse label is then still true.
"""

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.threed.cameras import Cameras

_PITCH = (-30.0, 30.0)


@config
class LabelConfig:
    """Groups of views. All numbers are ours; the paper's were not read."""

    fine: tuple[int, int] = (12, 3)
    """Groups of yaw, around, and of pitch, from -30 to 30 degrees."""
    coarse: tuple[int, int] = (4, 1)
    """The same, few; groups of yaw have their middles at 0 degrees and at equal steps from there."""
    confident: float = 45.0
    """Degrees of yaw from the front within which pictures mostly show what they were asked for."""
    fine_if_confident: float = 0.9
    """How often such views are labelled finely."""
    fine_otherwise: float = 0.3
    """How often the others are."""

    def __post_init__(self) -> None:
        if min(*self.fine, *self.coarse) < 1:
            raise ConfigError(f"expected at least one group of yaw and pitch, got {self.fine} and {self.coarse}.")
        if not (0 <= self.fine_if_confident <= 1 and 0 <= self.fine_otherwise <= 1):
            raise ConfigError(f"expected shares in [0, 1], got {self.fine_if_confident} and {self.fine_otherwise}.")

    @property
    def width(self) -> int:
        """Numbers of a label."""
        return self.fine[0] * self.fine[1] + self.coarse[0] * self.coarse[1]


def view_labels(cameras: Cameras, settings: LabelConfig, generator: torch.Generator) -> Tensor:
    """Labels `b width`: one 1 among the fine groups or among the coarse ones, zeros elsewhere.

    Args:
        cameras: `b`.
        settings: groups, and how often which kind is used.
        generator: draws the kind for each view.
    """
    share = torch.where(
        cameras.azimuth.abs() <= settings.confident, settings.fine_if_confident, settings.fine_otherwise
    )
    finely = torch.rand(len(cameras), generator=generator) < share
    fine, coarse = (_one_hot(cameras, groups) for groups in (settings.fine, settings.coarse))
    return torch.cat([fine * finely[:, None], coarse * ~finely[:, None]], 1)


def _one_hot(cameras: Cameras, groups: tuple[int, int]) -> Tensor:
    width = 360 / groups[0]
    yaw = ((cameras.azimuth + width / 2) % 360 / width).long().clamp(0, groups[0] - 1)
    low, high = _PITCH
    pitch = ((cameras.elevation - low) / (high - low) * groups[1]).long().clamp(0, groups[1] - 1)
    return functional.one_hot(yaw * groups[1] + pitch, groups[0] * groups[1]).float()
