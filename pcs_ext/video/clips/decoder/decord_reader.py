"""MP4 and Matroska through decord, where PyAV is not installed or cannot open a file.

decord 0.6 hides damaged frames, returns the wrong frame after a jump in HEVC (10 of 30 in a 10-bit clip; none in H.264
and VP9), and four channels of shifted pixels for rotated files. It gives meaningless times where a file states none,
shows frames that edit lists cut off and that encoders hide, knows neither mirroring nor the aspect of pixels, and
chooses among several streams itself. So frames are read in a row, what can be noticed is refused and the rest is noted.
"""

from collections.abc import Callable, Iterator

import decord
import numpy as np

from .request import MAX_SCANNED_FRAMES, UnusableError

_LONGEST = 1e9
"""Seconds; a missing stamp comes as one of some 1e15."""
_NOTE = (
    "read with decord: damage, sound, transparency, more than 8 bits, edit lists, mirroring, pixel aspect, several "
    "streams and hidden frames go unnoticed"
)


class DecordSource:
    """The video stream that decord chooses.

    Args:
        path: absolute path, already sniffed.
        alive: called whenever progress is made.
    """

    def __init__(self, path: str, alive: Callable[[], None]) -> None:
        try:
            self._reader = decord.VideoReader(path, num_threads=2)
            count = len(self._reader)
            if not 0 < count <= MAX_SCANNED_FRAMES:
                raise UnusableError(f"holds {count} frames; expected 1 to {MAX_SCANNED_FRAMES}.")
            alive()
            stamps = np.asarray(self._reader.get_frame_timestamp(range(count)), dtype=np.float64)
            first = self._reader[0].asnumpy()
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            raise UnusableError(f"cannot be decoded ({str(error).splitlines()[0][:120]}). Export it again.") from None
        if first.shape[2] != 3:
            raise UnusableError("is rotated by its metadata, which decord cannot follow. Install PyAV: pip install av")
        self.times = _times(stamps[:, 0])
        self.rate: float | None = float(self._reader.get_avg_fps())
        self.height, self.width = first.shape[:2]
        self.pixel_aspect = 1.0
        self.notes = [_NOTE]
        self._alive = alive

    def read(self, indices: list[int]) -> Iterator[np.ndarray]:
        """Frames `h w 3` uint8 by position, all in between decoded."""
        at, frame = -1, np.zeros((0, 0, 3), np.uint8)
        try:
            self._reader.seek(0)
            for index in indices:
                while at < index:
                    at, frame = at + 1, self._reader.next().asnumpy()
                    self._alive()
                yield frame
        except (decord.DECORDError, RuntimeError, IndexError, StopIteration):
            raise UnusableError(f"is damaged or cut off (frame {at} cannot be decoded). Export it again.") from None


def _times(stamps: np.ndarray) -> np.ndarray:
    """Seconds since the first of the stamps `f`.

    Raises:
        UnusableError: a stamp is missing, comes twice or goes back, so that no frame's time can be trusted.
    """
    if not (np.abs(stamps) < _LONGEST).all() or not (np.diff(stamps) > 0).all():  # NaN fails both
        raise UnusableError(
            "has frames whose times decord does not know, or gives twice or out of order; expected one time a frame. "
            "Install PyAV (pip install av)."
        )
    return stamps - stamps[0]
