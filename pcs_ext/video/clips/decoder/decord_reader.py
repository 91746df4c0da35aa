"""MP4 and Matroska through decord, where PyAV is not installed or cannot open a file.

decord 0.6 tells nothing of damaged frames, decodes 10-bit HEVC in wrong colours and returns four channels of shifted
pixels for rotated files; what can be noticed is refused, the rest is noted.
"""

from collections.abc import Callable, Iterator

import decord
import numpy as np

from .request import MAX_SCANNED_FRAMES, UnusableError


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
        self.times = np.sort(stamps[:, 0] - stamps[:, 0].min())
        self.height, self.width = first.shape[:2]
        self.pixel_aspect = 1.0
        self.notes = ["read with decord: damage, sound, transparency and more than 8 bits go unnoticed"]
        self._alive = alive

    def read(self, indices: list[int]) -> Iterator[np.ndarray]:
        """Frames `h w 3` uint8 by position."""
        for index in indices:
            try:
                frame = self._reader[index].asnumpy()
            except (decord.DECORDError, RuntimeError, IndexError):
                raise UnusableError(
                    f"is damaged or cut off (frame {index} cannot be decoded). Export it again."
                ) from None
            self._alive()
            yield frame
