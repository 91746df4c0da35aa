"""Which frames of a clip are taken: by time, so that a variable frame rate does no harm."""

import dataclasses

import numpy as np

from .request import ASSUMED_FPS, Request, UnusableError

_MOST_FPS = 1000
"""What is beyond is no rate but a clock of the container."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Chosen frames in order of time."""

    indices: list[int]
    """Positions in presentation order; not descending, the same frame may come twice."""
    fps: float
    """Rate at which the chosen frames play at the speed of the original."""
    notes: list[str]


def plan(times: np.ndarray, request: Request, stated: float | None) -> Plan:
    """Choose frames by `frames`, `stride`, `seconds` and `start`.

    Args:
        times: seconds at which each frame appears, ascending, from 0.
        request: what was asked.
        stated: the file's own frames per second, for a clip of one frame; None where it states none.

    Raises:
        UnusableError: fewer frames than needed, or `start` lies behind the end.
    """
    if len(times) == 1 and request.frames != 1:
        raise UnusableError("holds one frame; expected a clip. Give a video, or ask for frames=1.")
    rate = _rate(times, stated)
    slack = 0.26 / rate  # containers round times; no simple fraction, so that no target lies on the edge
    first, last = _window(times, request, slack)
    begin, end = float(times[first]), float(times[last])
    if request.stride is None and request.frames is not None:
        if last - first + 1 < request.frames:
            raise _too_short(request, last - first + 1)
        targets = np.linspace(begin, end, request.frames)
        fps = (request.frames - 1) / (end - begin) if end > begin and request.frames > 1 else rate
    else:
        step = (request.stride or 1) / rate
        most = int((end - begin + slack) / step) + 1  # a fast part of a variable rate stores more frames than that
        if request.frames is not None and most < request.frames:
            raise _too_short(request, int((end - begin + slack) * rate) + 1)
        targets, fps = begin + step * np.arange(request.frames or most), 1 / step
    indices = np.clip(np.searchsorted(times, targets + slack, side="right") - 1, first, last)
    return Plan(indices.tolist(), fps, _notes(times, indices))


def _rate(times: np.ndarray, stated: float | None) -> float:
    if times[-1] > times[0]:
        return (len(times) - 1) / float(times[-1] - times[0])
    return stated if stated is not None and 0 < stated <= _MOST_FPS else ASSUMED_FPS


def _too_short(request: Request, held: int) -> UnusableError:
    needed = ((request.frames or 1) - 1) * (request.stride or 1) + 1
    return UnusableError(
        f"holds {held} frames from {request.start:g} s on; expected at least {needed} "
        f"(frames={request.frames}, stride={request.stride or 1}). Ask for fewer frames or give a longer clip."
    )


def _window(times: np.ndarray, request: Request, slack: float) -> tuple[int, int]:
    """First and last frame (inclusive) that is on the screen from `start` for `seconds`."""
    if request.start > times[-1] + slack:
        raise UnusableError(
            f"ends at {times[-1]:.2f} s, before the start asked for ({request.start:g} s). Choose an earlier start."
        )
    first = max(0, int(np.searchsorted(times, request.start + slack, side="right")) - 1)
    if request.seconds is None:
        return first, len(times) - 1
    until = request.start + request.seconds
    return first, max(first, int(np.searchsorted(times, until - slack, side="left")) - 1)


def _notes(times: np.ndarray, indices: np.ndarray) -> list[str]:
    gaps = np.diff(times)
    notes = []
    if len(gaps) and gaps.max() - gaps.min() > 0.25 * float(np.median(gaps)) + 0.0021:
        notes.append("variable frame rate: sampled by time")
    repeated = len(indices) - len(np.unique(indices))
    if repeated:
        notes.append(f"{repeated} frames are repeated where the original stands still")
    return notes
