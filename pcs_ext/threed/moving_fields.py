"""Fields that change with time: what is where at every moment of a clip, times in [0, 1]."""

import abc
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.types import ParameterGroup
from pcs_ext.threed.field_config import FieldConfig
from pcs_ext.threed.fields import AbstractField, Queried, VoxelField
from pcs_ext.threed.stored import restored, store


@config
class MotionConfig:
    """How a field may move."""

    kind: Literal["grids", "displaced"] = "displaced"
    """grids: a grid of densities and colours for every moment (Animate124); displaced: one still field, and where its
    points are at every moment (Dream-in-4D)."""
    moments: int = 8
    """Grids along time; between two of them all is blended."""
    resolution: int = 12
    """displaced: samples per side of the displacements."""
    reach: float = 0.5
    """displaced: farthest displacement, as a share of the cube's half side."""
    free_start: bool = False
    """grids: whether the first moment may change like all others (Animate124, where a photo holds it); else it is the
    still field to the bit."""

    def __post_init__(self) -> None:
        if self.moments < 2 or self.resolution < 2 or self.reach <= 0:
            raise ConfigError(
                f"expected 2 moments, 2 samples per side and a reach above 0 or more of each, got {self.moments}, "
                f"{self.resolution} and {self.reach}."
            )
        if self.free_start and self.kind != "grids":
            raise ConfigError("only grids have a first moment that may change; set kind grids, or free_start false.")


@config
class MovingConfig:
    """A moving field before training."""

    still: FieldConfig
    """The scene at rest, a field of kind voxel for `grids`."""
    motion: MotionConfig = MotionConfig()
    """How it may move."""

    def __post_init__(self) -> None:
        if self.motion.kind == "grids" and self.still.kind != "voxel":
            raise ConfigError(f"a grid for every moment starts as a field of kind voxel, got {self.still.kind}.")

    def build(self) -> "AbstractMovingField":
        """One that stands still."""
        return TimeGrids(self) if self.motion.kind == "grids" else DisplacedField(self)


class AbstractMovingField(nn.Module, abc.ABC):
    """A field at every moment; at rest until it has learned.

    Args:
        settings: sizes.
    """

    def __init__(self, settings: MovingConfig) -> None:
        super().__init__()
        self.settings = settings
        self.still = settings.still.build().requires_grad_(False)
        self.still.advance(1.0)
        self.bounds = self.still.bounds

    def rest(self, still: AbstractField) -> None:
        """Start from a still field of the same settings."""
        self.still.load_state_dict(still.state_dict())

    @abc.abstractmethod
    def at(self, time: float) -> AbstractField:
        """The field at a moment in [0, 1]; shares this one's parameters."""

    @abc.abstractmethod
    def unrest(self) -> Tensor:
        """What keeps motion smooth, 0-d: 0 where nothing moves."""

    @abc.abstractmethod
    def groups(self) -> list[ParameterGroup]:
        """What trains."""

    def _place(self, time: float) -> tuple[int, float]:
        """The moment before a time, and the share of the one after it."""
        last = self.settings.motion.moments - 1
        scaled = min(max(time, 0.0), 1.0) * last
        before = min(int(scaled), last - 1)
        return before, scaled - before


class EverField(AbstractField):
    """The densest that a moving field is in any frame of a clip: what may be skipped is empty in all of them.

    Not at the field's own moments: what is displaced passes, between two of them, where it is at neither.

    Args:
        moving: the field.
        frames: of the clip, evenly from the first moment to the last, 2 or more.
    """

    def __init__(self, moving: AbstractMovingField, frames: int) -> None:
        super().__init__()
        self.bounds, self._moving, self._frames = moving.bounds, moving, frames

    def query(self, points: Tensor) -> Queried:
        """See `AbstractField.query`; colours are those of the first frame."""
        held = [self._moving.at(frame / (self._frames - 1)).query(points) for frame in range(self._frames)]
        return Queried(torch.stack([one.density for one in held]).amax(0), held[0].albedo)

    def groups(self) -> list[ParameterGroup]:
        """Nothing of its own."""
        return []


class TimeGrids(AbstractMovingField):
    """Densities and colours on a grid for every moment, blended between (Animate124, Zhao et al. 2023, 2311.14603).

    Differs from it: dense voxels without a shared network, and what trains is the change from the still grid, which at
    the first moment is none unless that is free.
    """

    def __init__(self, settings: MovingConfig) -> None:
        super().__init__(settings)
        side = self._grids().density_grid.shape[-1]
        free = settings.motion.free_start
        self.changes = nn.Parameter(torch.zeros(settings.motion.moments - (not free), 4, side, side, side))

    def at(self, time: float) -> AbstractField:
        """See `AbstractMovingField.at`."""
        before, share = self._place(time)
        first = 0 if self.settings.motion.free_start else 1
        change = share * self.changes[before + 1 - first]
        if before >= first:
            change = change + (1 - share) * self.changes[before - first]
        return _ChangedField(self._grids(), change[None])

    def _grids(self) -> VoxelField:
        assert isinstance(self.still, VoxelField), "checked with the settings"
        return self.still

    def unrest(self) -> Tensor:
        """Mean squared difference of neighbouring moments' grids: its time TV, on all points, not on random ones."""
        between = self.changes.diff(dim=0)
        if not self.settings.motion.free_start:
            between = torch.cat([self.changes[:1], between])
        return between.square().mean()

    def groups(self) -> list[ParameterGroup]:
        """The grids' changes."""
        return [ParameterGroup(name="changes", parameters=(self.changes,), learning_rate=0.05)]


class _ChangedField(AbstractField):
    """A voxel field with something added to its raw values, `1 4 d h w`."""

    def __init__(self, still: VoxelField, change: Tensor) -> None:
        super().__init__()
        self.bounds, self._grids, self._change = still.bounds, still, change

    def query(self, points: Tensor) -> Queried:
        """See `AbstractField.query`."""
        return self._grids.query(points, self._change)

    def groups(self) -> list[ParameterGroup]:
        """Nothing of its own."""
        return []


class DisplacedField(AbstractMovingField):
    """A still field looked up where its points were at rest (Dream-in-4D, Zheng et al. 2023, arXiv 2311.16854).

    Differs from it: a dense grid of displacements, linear in space and time, in place of a hash grid with a network
    that opens level by level; at the first moment nothing is displaced.
    """

    def __init__(self, settings: MovingConfig) -> None:
        super().__init__(settings)
        side = settings.motion.resolution
        self.displacements = nn.Parameter(torch.zeros(settings.motion.moments - 1, 3, side, side, side))

    def at(self, time: float) -> AbstractField:
        """See `AbstractMovingField.at`."""
        before, share = self._place(time)
        raw = share * self.displacements[before]
        if before:
            raw = raw + (1 - share) * self.displacements[before - 1]
        return _DisplacedMoment(self.still, self.settings.motion.reach * torch.tanh(raw)[None])

    def unrest(self) -> Tensor:
        """Mean squared difference of neighbours in time and in space."""
        whole = torch.cat([torch.zeros_like(self.displacements[:1]), self.displacements])
        return torch.stack([whole.diff(dim=axis).square().mean() for axis in (0, 2, 3, 4)]).sum()

    def groups(self) -> list[ParameterGroup]:
        """The displacements; the still field never trains."""
        return [ParameterGroup(name="displacements", parameters=(self.displacements,), learning_rate=0.02)]


class _DisplacedMoment(AbstractField):
    """A still field at one moment: `1 3 d h w` displacements, as shares of the cube's half side."""

    def __init__(self, still: AbstractField, displacements: Tensor) -> None:
        super().__init__()
        self.bounds, self._still, self._displacements = still.bounds, still, displacements

    def query(self, points: Tensor) -> Queried:
        """See `AbstractField.query`."""
        local = self.bounds.normalized(points).clamp(-1, 1)
        moved = functional.grid_sample(
            self._displacements, local.view(1, 1, 1, -1, 3), mode="bilinear", padding_mode="border", align_corners=True
        )
        return self._still.query(points + self.bounds.half * moved.view(3, -1).T)

    def groups(self) -> list[ParameterGroup]:
        """Nothing of its own."""
        return []


def save_moving(field: AbstractMovingField, folder: Path) -> None:
    """Write `moving.json` and `moving.safetensors`; the folder appears whole or not at all."""
    store(folder, "moving", field, field.settings)


def load_moving(folder: Path) -> AbstractMovingField:
    """What `save_moving` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """
    return restored(folder, "moving", MovingConfig, lambda settings: settings.build())
