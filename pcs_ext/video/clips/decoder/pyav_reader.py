"""MP4 and Matroska through PyAV: exact times, rotation, alpha, high bit depths, and damage is noticed."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np

from .request import MAX_FRAME_PIXELS, MAX_SCANNED_FRAMES, UnusableError

_DEMUXERS = {"mp4": "mov", "matroska": "matroska"}
_OPTIONS = {"protocol_whitelist": "file", "enable_drefs": "0", "use_absolute_path": "0"}
_DAMAGED = "is damaged or cut off ({}). Copy it again, or repair it: ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4"


class PyavSource:
    """The best video stream of a file. Frames are decoded from the last key frame before each that is wanted.

    Args:
        path: absolute path, already sniffed.
        kind: `mp4` or `matroska`; no other demuxer is tried.
        until: packets later than this many seconds are not looked at.
        alive: called whenever progress is made.
    """

    def __init__(self, path: str, kind: str, until: float, alive: Callable[[], None]) -> None:
        self.notes: list[str] = []
        self._alive = alive
        with _damage():
            self._container = av.open(path, format=_DEMUXERS[kind], options=_OPTIONS, metadata_errors="replace")
        self._stream = _best_stream(self._container)
        self._decoder = self._choose_decoder()
        self._pts, self._keys = self._scan(until)
        base = float(self._stream.time_base or 1)
        self.times = (self._pts - self._pts[0]) * base
        self.rate = float(self._stream.average_rate) if self._stream.average_rate else None
        self.height, self.width = self._decoder.height, self._decoder.width
        self._turn: Callable[[np.ndarray], np.ndarray] = lambda frame: frame
        self.pixel_aspect = self._aspect()
        self._look_at_first()

    def read(self, indices: list[int]) -> Iterator[np.ndarray]:
        """Upright frames, `h w 3` or `h w 4` uint8.

        Raises:
            UnusableError: a wanted frame is missing or was decoded with errors.
        """
        wanted = [int(self._pts[index]) for index in indices]
        before: tuple[int, np.ndarray] | None = None
        for pts, frame in self._decoded(wanted):
            if before is None or before[0] != pts:
                before = (pts, self._picture(frame))
            yield before[1]

    def _decoded(self, wanted: list[int]) -> Iterator[tuple[int, Any]]:
        """The frame on the screen at each wanted pts; seeks when a key frame lies between here and there."""
        frames: Iterator[Any] = iter(())
        current: Any = None
        ahead: Any = None
        for pts in wanted:
            key = self._keys[max(0, int(np.searchsorted(self._keys, pts, side="right")) - 1)]
            position = None if ahead is None else ahead.pts
            if position is None or (key > position and pts > position):
                frames, current, ahead = self._frames_from(int(key)), None, None
                ahead = next(frames, None)
                if ahead is None or ahead.pts > pts:  # a wrong index; the beginning is always right
                    frames = self._frames_from(int(self._pts[0]))
                    ahead = next(frames, None)
            while ahead is not None and ahead.pts <= pts:
                current, ahead = ahead, next(frames, None)
            yield pts, self._checked(current, pts)

    def _checked(self, frame: Any, pts: int) -> Any:
        second = (pts - int(self._pts[0])) * float(self._stream.time_base or 1)
        if frame is None or frame.pts < pts - self._tolerance():
            raise UnusableError(_DAMAGED.format(f"the frame at {second:.2f} s cannot be decoded"))
        if frame.is_corrupt:
            raise UnusableError(_DAMAGED.format(f"the frame at {second:.2f} s was decoded with errors"))
        return frame

    def _tolerance(self) -> int:
        """Some encoders store frames that are never shown: the one before stands for them."""
        return int(np.median(np.diff(self._pts))) if len(self._pts) > 1 else 0

    def _frames_from(self, pts: int, decoder: Any = None) -> Iterator[Any]:
        decoder = decoder or self._decoder
        with _damage():
            self._container.seek(pts, stream=self._stream, backward=True)
        decoder.flush_buffers()
        with _damage():
            for packet in self._container.demux(self._stream):
                for frame in decoder.decode(packet):
                    self._alive()
                    if frame.pts is not None:
                        yield frame

    def _picture(self, frame: Any) -> np.ndarray:
        if (frame.height, frame.width) != (self._coded_height, self._coded_width):
            raise UnusableError(
                f"changes its size from {self._coded_width} x {self._coded_height} to {frame.width} x {frame.height}; "
                "expected one size. Cut it there."
            )
        with _damage():
            return self._turn(frame.to_ndarray(format="rgba" if _has_alpha(frame.format) else "rgb24"))

    def _choose_decoder(self) -> Any:
        """FFmpeg's own VP8 and VP9 decoders drop the alpha plane, libvpx's keep it."""
        own = self._stream.codec_context
        own.thread_count = 2
        name = {"vp9": "libvpx-vp9", "vp8": "libvpx"}.get(own.name)
        if self._stream.metadata.get("alpha_mode", self._stream.metadata.get("ALPHA_MODE")) != "1" or name is None:
            return own
        try:
            decoder = av.CodecContext.create(name, "r")
        except (av.FFmpegError, ValueError):
            self.notes.append("transparency is ignored: this PyAV has no libvpx")
            return own
        decoder.width, decoder.height = own.width, own.height  # type: ignore[attr-defined]
        return decoder

    def _scan(self, until: float) -> tuple[np.ndarray, np.ndarray]:
        """Presentation times of all frames and of key frames, in the stream's unit, without decoding."""
        base = self._stream.time_base
        if base is None or self._decoder.width * self._decoder.height > MAX_FRAME_PIXELS:
            raise UnusableError(
                f"has frames of {self._decoder.width} x {self._decoder.height} pixels; expected at most "
                f"{MAX_FRAME_PIXELS // 10**6} megapixels. Make it smaller first."
            )
        span = until / float(base)
        shown: list[int] = []
        keys: list[int] = []
        with _damage():
            for number, packet in enumerate(self._container.demux(self._stream)):
                if number % 1024 == 0:
                    self._alive()
                time = packet.pts if packet.pts is not None else packet.dts
                if time is None or packet.size == 0 or packet.is_discard:
                    continue
                if packet.is_corrupt:
                    raise UnusableError(_DAMAGED.format(f"at {float(time * base):.2f} s"))
                shown.append(time)
                if packet.is_keyframe:
                    keys.append(time)
                _check_count(len(shown))
                if packet.dts is not None and packet.dts > shown[0] + span:
                    break
        if not shown:
            raise UnusableError("holds no frames; expected a clip. Export it again.")
        return np.unique(np.array(shown, dtype=np.int64)), np.unique(np.array(keys or shown[:1], dtype=np.int64))

    def _aspect(self) -> float:
        aspect = float(self._stream.sample_aspect_ratio or 1)
        if aspect == 1 or not 0.25 <= aspect <= 4:
            return 1.0
        self.notes.append(f"pixels are {aspect:.3g} times as wide as high: stretched to square ones")
        return aspect

    def _look_at_first(self) -> None:
        """Size, rotation and pixel format are what the first frame says; headers may say something else."""
        frame = next(self._frames_from(int(self._pts[0])), None)
        if frame is None:
            raise UnusableError(_DAMAGED.format("no frame can be decoded"))
        self._leave_out_before(frame.pts)
        self._coded_height, self._coded_width = frame.height, frame.width
        matrix = self._display_matrix(frame)
        swapped = False
        if matrix is not None:
            self._turn, swapped = _turning(np.frombuffer(matrix, dtype=np.int32))
            self.notes.append("turned upright as its metadata says")
        self.height, self.width = (frame.width, frame.height) if swapped else (frame.height, frame.width)
        self.pixel_aspect = 1 / self.pixel_aspect if swapped else self.pixel_aspect
        self.notes += _format_notes(frame, self._container)

    def _display_matrix(self, frame: Any) -> bytes | None:
        """Nine int32, or None; only the stream's own decoder is told of it and puts it on its frames."""
        own = self._stream.codec_context
        if self._decoder is not own:
            frame = next(self._frames_from(int(self._pts[0]), own), frame)
        return next((bytes(s) for s in frame.side_data if s.type.name == "DISPLAYMATRIX"), None)

    def _leave_out_before(self, pts: int) -> None:
        """Recordings cut in the middle begin with frames shown before their first key frame, which lean on a lost one.

        No decoder can show them and players skip them. Any other loss at the start stays damage.
        """
        lost = self._pts[self._pts < pts]
        if not len(lost) or lost[-1] >= self._keys[0]:
            return
        self._pts = self._pts[len(lost) :]
        self.times = (self._pts - self._pts[0]) * float(self._stream.time_base or 1)
        what = "frame needs" if len(lost) == 1 else f"{len(lost)} frames need"
        self.notes.append(f"left out: the first {what} an earlier part of the recording")


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """FFmpeg's errors, said so that people understand them."""
    try:
        yield
    except (av.FFmpegError, MemoryError) as error:
        raise UnusableError(_DAMAGED.format(getattr(error, "strerror", None) or "out of memory")) from None


def _check_count(count: int) -> None:
    if count > MAX_SCANNED_FRAMES:
        raise UnusableError(
            f"holds more than {MAX_SCANNED_FRAMES} frames in what was asked for; expected fewer. Cut it into parts, "
            "or give start and seconds."
        )


def _moving_streams(container: Any) -> list[Any]:
    """Video streams without cover pictures."""
    return [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]


def _best_stream(container: Any) -> Any:
    streams = _moving_streams(container)
    if not streams:
        heard = " (only sound)" if container.streams.audio else ""
        raise UnusableError(f"holds no video stream{heard}; expected a video.")
    if streams[0].codec_context is None:
        raise UnusableError(
            "is encoded in a way that cannot be decoded here. Convert it: ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4"
        )
    return streams[0]


def _turning(matrix: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], bool]:
    """The display matrix maps (x, y) to (a x + c y, b x + d y): one of the eight symmetries of the rectangle."""
    a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
    swapped = abs(b) + abs(c) > abs(a) + abs(d)  # zeros may be off by rounding
    across, down = (c, b) if swapped else (a, d)

    def turn(frame: np.ndarray) -> np.ndarray:
        turned = frame.transpose(1, 0, 2) if swapped else frame
        return turned[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]

    return turn, swapped


def _has_alpha(pixel_format: Any) -> bool:
    return any(component.is_alpha for component in pixel_format.components) or pixel_format.name == "pal8"


def _format_notes(frame: Any, container: Any) -> list[str]:
    notes = []
    if _has_alpha(frame.format):
        notes.append("transparent parts are laid over gray")
    bits = max(component.bits for component in frame.format.components)
    if bits > 8:
        notes.append(f"{bits} bits per channel reduced to 8")
    if container.streams.audio:
        notes.append("sound is ignored")
    if len(_moving_streams(container)) > 1:
        notes.append("the first of several video streams is read")
    return notes
