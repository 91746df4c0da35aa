"""What is asked of the decoder process and what it says when a file cannot be used."""

import dataclasses

MAX_FRAME_PIXELS = 40_000_000
"""An 8K frame has 33 million pixels."""
MAX_RESULT_BYTES = 2 * 2**30
MAX_SCANNED_FRAMES = 2_000_000
ASSUMED_FPS = 8.0
"""Where no rate is stated: in folders of pictures and files of one."""
STALL_SECONDS = 8
"""No frame takes longer; the process dies when it has made no progress for so long."""


class UnusableError(Exception):
    """A file that cannot be read. The message continues a sentence that begins with the file's name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """Arguments of `read_clip`, as JSON can carry them."""

    path: str
    frames: int | None
    stride: int | None
    seconds: float | None
    start: float
    height: int | None
    width: int | None
    multiple_of: int
    fps: float | None
    """Rate of a folder of pictures; files know their own."""
    reader: str
    """`auto`, `pyav` or `decord`."""
