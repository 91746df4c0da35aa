"""What is known of training clips frame by frame, beside their latents: speed, maps, masks and what is done."""

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import file_sha256
from pcs_ext.errors import InputError
from pcs_ext.image.levels import in_unit_range, levels_of, pixels_of
from pcs_ext.reporter import SilentReporter
from pcs_ext.video.evaluate.flow import block_flow
from pcs_ext.video.reference.directions import Directions, Structure, edges_of, intensity_of
from pcs_ext.video.training_clips import SUFFIXES, ClipFile, read_training_clips

TRACKS = ("depth", "pose", "mask")
"""NAME_depth.mp4 and so on beside NAME.mp4 are no clips to learn from but what is known of it."""
_FLOW_SIDE = 64
"""Pixels in which flow is looked for; blocks are matched."""
_REACH = 4
"""Of them; farther than the largest intensity."""
_NEAR, _LEAST_CHANGE = 9, 0.04
"""Around a block so many of them must have changed by more than a pixel of a compressed clip does by itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tracking:
    """What an adapter asks of training clips."""

    motion: bool = False
    """How they move, and what is done."""
    structure: Structure | None = None
    """Maps of their frames."""
    masks: bool = False
    """Where their subjects are, where somebody says so."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipTrack:
    """Of one clip of `f` frames; None where it is not asked or not known."""

    speed: Tensor | None = None
    """`f h w` half: see `Directions.speed`; the last frame has that of the one before."""
    action: str | None = None
    maps: Tensor | None = None
    """`3 f h w` uint8."""
    cover: Tensor | None = None
    """`f h w` half, on latent cells."""

    def along(self, picked: list[int]) -> "ClipTrack":
        """Of those frames; what moved between them is summed."""
        return ClipTrack(
            speed=None if self.speed is None else _between(self.speed, picked),
            action=self.action,
            maps=None if self.maps is None else self.maps[:, picked],
            cover=None if self.cover is None else self.cover[picked],
        )


def directions_of(tracks: list[ClipTrack]) -> Directions:
    """A batch of stretches of equal length; what is not known of all of them is None, but for masks: where one is
    known, the others cover everything."""
    speeds, maps, covers = ([getattr(one, name) for one in tracks] for name in ("speed", "maps", "cover"))
    actions = [one.action for one in tracks]
    speed = None if any(one is None for one in speeds) else torch.stack(speeds).float()
    return Directions(
        intensity=None if speed is None else intensity_of(speed),
        actions=None if any(one is None for one in actions) else tuple(one or "" for one in actions),
        maps=None if any(one is None for one in maps) else pixels_of(torch.stack(maps)),
        speed=speed,
        cover=_filled(covers),
    )


def _filled(covers: list[Tensor | None]) -> Tensor | None:
    known = [one for one in covers if one is not None]
    return torch.stack([torch.ones_like(known[0]) if one is None else one for one in covers]).float() if known else None


def track_of(file: ClipFile, clip: Tensor, tracking: Tracking, factor: int) -> ClipTrack:
    """What is known of a clip.

    Args:
        file: it, and what lies beside it.
        clip: its frames `3 f h w` in [-1, 1].
        tracking: what is asked.
        factor: pixels of a latent cell's side.

    Raises:
        InputError: maps are missing, or other frames than the clip's.
    """
    structure = tracking.structure
    maps = edges_of(clip) if structure == "edges" else None if structure is None else _beside(file, clip, structure)
    cover = _beside(file, clip, "mask") if tracking.masks and _path(file.path, "mask") is not None else None
    return ClipTrack(
        speed=_speed(clip, factor) if tracking.motion else None,
        action=_action(file) if tracking.motion else None,
        maps=None if maps is None else levels_of(maps).contiguous(),
        cover=None if cover is None else F.avg_pool2d((cover.mean(0) + 1) / 2, factor).half(),
    )


def is_track(path: Path) -> bool:
    """Whether a file says something of a clip beside it instead of being one: `pose.mp4` alone is a clip."""
    name, _, what = path.stem.rpartition("_")
    return what in TRACKS and bool(name) and any(path.with_name(f"{name}{suffix}").is_file() for suffix in SUFFIXES)


def digests(clip: Path) -> list[str]:
    """Sha256 of every file that says something of a clip."""
    beside = [*(_path(clip, name) for name in TRACKS), clip.with_name(f"{clip.stem}_action.txt")]
    return [file_sha256(path) for path in beside if path is not None and path.is_file()]


def _path(clip: Path, name: str) -> Path | None:
    found = [clip.with_name(f"{clip.stem}_{name}{suffix}") for suffix in SUFFIXES]
    return next((path for path in found if path.is_file()), None)


def _beside(file: ClipFile, clip: Tensor, name: str) -> Tensor:
    """The clip `3 f h w` of that name beside a clip, in [-1, 1]."""
    path = _path(file.path, name)
    if path is None:
        raise InputError(
            f"{file.path} has no {name} beside it; expected {file.path.stem}_{name}.mp4, or another animation, with a "
            "map for each of its frames."
        )
    size = (clip.shape[-2], clip.shape[-1])
    (maps,) = read_training_clips([ClipFile(path, "")], size=size, multiple_of=1, reporter=SilentReporter())
    maps = in_unit_range(maps)
    if maps.shape != clip.shape:
        raise InputError(f"{path} has {maps.shape[1]} frames and {file.path} {clip.shape[1]}; expected one for each.")
    return maps


def _action(file: ClipFile) -> str:
    """`NAME_action.txt` beside a clip, or all that is said of it."""
    said = file.path.with_name(f"{file.path.stem}_action.txt")
    return said.read_text(encoding="utf-8", errors="replace").strip() if said.is_file() else file.prompt


def _speed(clip: Tensor, factor: int) -> Tensor:
    """`f h w` of latent cells, half."""
    frames, (height, width) = clip.transpose(0, 1), clip.shape[-2:]
    shrink = min(1.0, _FLOW_SIDE / min(height, width))
    small = F.interpolate(frames, scale_factor=shrink, mode="area") if shrink < 1 else frames
    flow = block_flow(small, reach=_REACH)
    # Blocks that were not found again, flat ones among them, are not known to move; equal ones do not, though the
    # parabola through their costs may be lowest beside them.
    changed = F.max_pool2d((small[1:] - small[:-1]).abs().amax(1), _NEAR, 2, _NEAR // 2) > _LEAST_CHANGE
    far = flow.displacement.norm(dim=1) * (flow.trusted & changed) * 512 / small.shape[-1]
    cells = F.interpolate(far[:, None], size=(height // factor, width // factor), mode="area")[:, 0]
    return torch.cat([cells, cells[-1:]]).half()


def _between(speed: Tensor, picked: list[int]) -> Tensor:
    ends = [*picked[1:], picked[-1]]
    steps = [speed[first:last].float().sum(0) for first, last in zip(picked, ends, strict=True)]
    return torch.stack([*steps[:-1], steps[-2] if len(steps) > 1 else torch.zeros_like(steps[-1])])
