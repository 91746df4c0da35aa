"""Runs the decoder in a process of its own, so that no file can crash, stall or fill this one."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np

from pcs_ext.errors import InputError
from pcs_ext.video.clips.decoder.request import STALL_SECONDS

# Only the decoder's own folder is imported, so that the process starts without torch.
_START = "import sys; sys.path.insert(0, sys.argv[1]); from decoder.main import main; sys.path.pop(0); main()"


def decode(request: dict[str, Any], *, time_limit: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Frames `f h w 3` uint8 and `{fps, times, notes}` of what `decoder.request.Request` asks for.

    Raises:
        InputError: the file cannot be used, crashed the decoder, or took longer than `time_limit` seconds.
    """
    command = [sys.executable, "-P", "-c", _START, str(Path(__file__).parent)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=2**20
    )
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(time_limit, process.kill)
    timer.daemon = True
    try:
        timer.start()
        process.stdin.write(json.dumps(request).encode())
        process.stdin.close()
        result = _receive(process.stdout, request["path"])
        if result is None:
            raise _died(process.wait(), request["path"], time_limit, timed_out=not timer.is_alive())
        return result
    except BrokenPipeError:
        raise _died(process.wait(), request["path"], time_limit, timed_out=not timer.is_alive()) from None
    finally:
        timer.cancel()
        process.kill()
        process.stdout.close()
        process.wait()


def _receive(stream: IO[bytes], path: str) -> tuple[np.ndarray, dict[str, Any]] | None:
    """What the process sent, or None when it ended before it was done."""
    head: dict[str, Any] = {}
    frames = np.zeros((0, 0, 0, 3), dtype=np.uint8)
    count = 0
    while prefix := stream.read(9):
        letter, length = prefix[:1], int.from_bytes(prefix[1:], "big")
        if letter == b"F":
            if count == len(frames) or stream.readinto(memoryview(frames[count]).cast("B")) < length:  # type: ignore[attr-defined]
                return None
            count += 1
            continue
        body = stream.read(length)
        if letter == b"H":
            head = json.loads(body)
            frames = np.empty((head["frames"], head["height"], head["width"], 3), dtype=np.uint8)
        elif letter == b"X":
            raise InputError(f"{path} {body.decode()}")
        elif letter == b"B":
            raise RuntimeError(f"the decoder failed on {path}:\n{body.decode()}")
        elif letter == b"E":
            return (frames, {**head, "notes": json.loads(body)}) if count == len(frames) else None
    return None


def _died(code: int, path: str, time_limit: float, *, timed_out: bool) -> InputError:
    stalled = hasattr(signal, "SIGALRM") and code == -signal.SIGALRM
    if timed_out or stalled:
        limit = f"{STALL_SECONDS} s without a frame" if stalled else f"{time_limit:g} s"
        return InputError(
            f"{path} took too long to decode ({limit}); it is damaged, huge or has hardly any key frames. Cut it, or "
            "encode it again: ffmpeg -i INPUT -c:v libx264 -g 30 OUTPUT.mp4"
        )
    return InputError(
        f"{path} made the decoder fail (exit code {code}); it is damaged. Copy it again, or encode it again: "
        "ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4"
    )
