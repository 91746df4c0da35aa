"""The loop of the decoder process: one request in, a head, frames and notes out.

Records on standard output are a letter, a length (8 bytes, big end first) and a body: `H` the head as JSON, `F` one
frame `h w 3` uint8, `E` the end with its notes as JSON, `X` why the file cannot be used, `B` a fault of ours.
"""

import importlib.util
import json
import os
import signal
import sys
import traceback
from typing import Any, BinaryIO

from PIL import Image

from .geometry import Fit, fit
from .request import ASSUMED_FPS, MAX_RESULT_BYTES, STALL_SECONDS, Request, UnusableError
from .sampling import plan
from .sniff import sniff
from .source import Source

MEMORY_LIMIT = 4 * 2**30


def main() -> None:
    """Serve one request read from standard input. Nothing else is ever written to standard output."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # native libraries print where they like
    Image.MAX_IMAGE_PIXELS = None  # the readers have a stricter limit and say what to do
    _limit()
    _alive()
    request = Request(**json.load(sys.stdin))
    try:
        _serve(request, out)
    except UnusableError as error:
        _send(out, b"X", str(error).encode("utf-8", "replace"))
    except MemoryError:
        _send(out, b"X", b"needs more memory than a clip may take. Make it smaller, or ask for fewer frames.")
    except Exception:  # the parent raises it again: nothing is swallowed
        _send(out, b"B", traceback.format_exc().encode("utf-8", "replace"))


def _serve(request: Request, out: BinaryIO) -> None:
    source = _open(request)
    chosen = plan(source.times, request, source.rate)
    fitted = fit(source.height, source.width, request, source.pixel_aspect)
    _check_result(len(chosen.indices), fitted)
    head = {"frames": len(chosen.indices), "height": fitted.height, "width": fitted.width, "fps": chosen.fps}
    head["times"] = [float(source.times[index]) for index in chosen.indices]
    _send(out, b"H", json.dumps(head).encode())
    for frame in source.read(chosen.indices):
        _send(out, b"F", fitted(frame).tobytes())
    _send(out, b"E", json.dumps(source.notes + chosen.notes).encode())


def _open(request: Request) -> Source:
    kind = sniff(request.path)
    until = _last_second(request)
    if kind == "folder":
        from .picture_reader import FolderSource

        source = FolderSource(request.path, request.fps or ASSUMED_FPS, _alive)
        source.notes += [] if request.fps else [f"a folder states no rate: {ASSUMED_FPS:g} frames per second assumed"]
        return source
    if kind in ("gif", "webp", "png"):
        from .picture_reader import AnimationSource

        return AnimationSource(request.path, kind, until, _alive)
    return _open_video(request, kind, until)


def _open_video(request: Request, kind: str, until: float) -> Source:
    if request.reader in ("auto", "pyav") and importlib.util.find_spec("av"):
        from .pyav_reader import PyavSource

        return PyavSource(request.path, kind, until, _alive)
    if request.reader in ("auto", "decord") and importlib.util.find_spec("decord"):
        from .decord_reader import DecordSource

        return DecordSource(request.path, _alive)
    raise UnusableError("is a video, and no reader is installed; expected PyAV; run: pip install av")


def _last_second(request: Request) -> float:
    """How far a clip must be looked at."""
    return float("inf") if request.seconds is None else request.start + request.seconds + 1.0


def _check_result(frames: int, fitted: Fit) -> None:
    size = frames * fitted.height * fitted.width * 3
    if size > MAX_RESULT_BYTES:
        raise UnusableError(
            f"would unpack to {frames} frames of {fitted.width} x {fitted.height} ({size / 2**30:.1f} GiB); expected "
            f"at most {MAX_RESULT_BYTES / 2**30:g} GiB. Ask for fewer frames, or for a smaller size."
        )


def _send(out: BinaryIO, letter: bytes, body: Any) -> None:
    _alive()
    out.write(letter + len(body).to_bytes(8, "big"))
    out.write(body)
    out.flush()


def _alive() -> None:
    """Put off the alarm whose default action ends the process, native code or not."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, STALL_SECONDS)


def _limit() -> None:
    """No more memory than a clip may need, no files written, no core dumps; POSIX only."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
