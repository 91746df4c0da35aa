"""GIF, animated WebP, animated PNG and folders of pictures, through Pillow."""

import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageOps

from .request import MAX_FRAME_PIXELS, MAX_SCANNED_FRAMES, UnusableError

_FORMATS = {"gif": ["GIF"], "webp": ["WEBP"], "png": ["PNG"]}
_FOLDER_FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "TIFF"]
_FOLDER_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_FASTEST = {"gif": 10, "webp": 10, "png": 0}
"""Milliseconds; browsers show a frame with at most this delay for 100 ms."""
_PICTURE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, MemoryError)
"""What Pillow's plugins raise on damaged files."""


class AnimationSource:
    """Frames of one animated picture, with the delays it states.

    Args:
        path: absolute path, already sniffed.
        kind: `gif`, `webp` or `png`.
        until: frames later than this many seconds are not looked at.
        alive: called whenever progress is made.
    """

    def __init__(self, path: str, kind: str, until: float, alive: Callable[[], None]) -> None:
        self._path, self._kind, self._alive = path, kind, alive
        self.pixel_aspect, self.notes = 1.0, []
        times: list[float] = []
        clock = delay = 0.0
        for image in self._walk():
            times.append(clock)
            delay = float(image.info.get("duration", 0) or 0)
            clock += (100.0 if delay <= _FASTEST[kind] else delay) / 1000
            self.height, self.width = image.height, image.width
            if len(times) > MAX_SCANNED_FRAMES:
                raise UnusableError(f"holds more than {MAX_SCANNED_FRAMES} frames. Cut it into parts.")
            if clock > until:
                break
        if not times:
            raise UnusableError("holds no frames; expected an animation.")
        self.times = np.array(times)
        self.rate = 1000 / delay if delay > _FASTEST[kind] else None

    def _walk(self) -> Iterator[Image.Image]:
        """Each frame in turn, of GIF and PNG not yet decoded, without the still picture before an animated PNG."""
        try:
            with warnings.catch_warnings(), Image.open(self._path, formats=_FORMATS[self._kind]) as image:
                warnings.simplefilter("ignore")
                _check_pixels(image)
                number = 1 if image.info.get("default_image") else 0
                while True:
                    try:
                        image.seek(number)
                    except EOFError:
                        break
                    if self._kind == "webp":
                        image.load()  # only then is its delay known
                    self._alive()
                    yield image
                    number += 1
                self._check_complete(image, number)
        except _PICTURE_ERRORS as error:
            raise UnusableError(f"is damaged or cut off ({error}). Export it again.") from None

    def _check_complete(self, image: Image.Image, found: int) -> None:
        declared = getattr(image, "n_frames", found) if self._kind != "gif" else found
        if found < declared:
            raise UnusableError(f"is damaged or cut off: it holds {found} of {declared} frames. Export it again.")

    def read(self, indices: list[int]) -> Iterator[np.ndarray]:
        """Composed frames, `h w 3` or `h w 4` uint8."""
        frames = enumerate(self._walk())
        at, picture = -1, np.zeros((0, 0, 3), np.uint8)
        for index in indices:
            while at < index:
                at, image = next(frames, (-1, None))
                if image is None:
                    raise UnusableError(f"is damaged or cut off (frame {index} is missing). Export it again.")
                if at == index or self._kind != "gif":
                    picture = self._decode(image)
            yield picture

    def _decode(self, image: Image.Image) -> np.ndarray:
        try:
            image.load()
            pixels = as_rgb(image)
        except _PICTURE_ERRORS as error:
            raise UnusableError(f"is damaged or cut off ({error}). Export it again.") from None
        if pixels.shape[2] == 4 and not self.notes:
            self.notes.append("transparent parts are laid over gray")
        return pixels


class FolderSource:
    """Pictures of a folder in natural order, each a frame.

    Args:
        path: the folder.
        fps: its rate.
        alive: called whenever progress is made.
    """

    def __init__(self, path: str, fps: float, alive: Callable[[], None]) -> None:
        self._files, self._alive = _pictures_in(path), alive
        self.times = np.arange(len(self._files)) / fps
        self.rate: float | None = fps
        self.pixel_aspect, self.notes = 1.0, []
        self.height, self.width = self._read_one(self._files[0]).shape[:2]

    def read(self, indices: list[int]) -> Iterator[np.ndarray]:
        """Frames `h w 3` or `h w 4` uint8.

        Raises:
            UnusableError: a picture cannot be decoded, or is not of the first one's size.
        """
        for index in indices:
            pixels = self._read_one(self._files[index])
            if pixels.shape[:2] != (self.height, self.width):
                raise UnusableError(
                    f"holds pictures of several sizes: {os.path.basename(self._files[index])} is {pixels.shape[1]} x "
                    f"{pixels.shape[0]}, the first is {self.width} x {self.height}. Make them equal first."
                )
            self._alive()
            yield pixels

    def _read_one(self, path: str) -> np.ndarray:
        name = os.path.basename(path)
        try:
            with warnings.catch_warnings(), Image.open(path, formats=_FOLDER_FORMATS) as image:
                warnings.simplefilter("ignore")
                _check_pixels(image, f"holds {name}, a picture")
                pixels = as_rgb(ImageOps.exif_transpose(image))
        except _PICTURE_ERRORS as error:
            raise UnusableError(f"holds {name}, which cannot be decoded ({error}). Remove or replace it.") from None
        if pixels.shape[2] == 4 and not self.notes:
            self.notes.append("transparent parts are laid over gray")
        return pixels


def _pictures_in(folder: str) -> list[str]:
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise UnusableError(f"cannot be listed ({error.strerror}).") from None
    names = sorted((n for n in names if n.lower().endswith(_FOLDER_SUFFIXES)), key=_natural)
    files = [os.path.join(folder, name) for name in names]
    files = [file for file in files if os.path.exists(file) and stat.S_ISREG(os.stat(file).st_mode)]
    if not files:
        raise UnusableError("holds no pictures; expected a video file, or a folder of .png or .jpg frames.")
    if len(files) > MAX_SCANNED_FRAMES:
        raise UnusableError(f"holds {len(files)} pictures; expected at most {MAX_SCANNED_FRAMES}.")
    return files


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(p)) if p.isdecimal() and len(p) < 100 else (1, p.lower()) for p in re.split(r"(\d+)", name) if p]


def _check_pixels(image: Image.Image, holder: str = "has frames") -> None:
    if image.width * image.height > MAX_FRAME_PIXELS:
        raise UnusableError(
            f"{holder} of {image.width} x {image.height} pixels; expected at most {MAX_FRAME_PIXELS // 10**6} "
            "megapixels. Make it smaller first."
        )


def as_rgb(image: Image.Image) -> np.ndarray:
    """`h w 3`, or `h w 4` where something is transparent, of a picture of any mode; 16-bit gray keeps its range."""
    if image.mode.startswith("I;16") or image.mode == "I":
        gray = np.clip(np.asarray(image).astype(np.float32) / 257, 0, 255)
        return np.repeat(np.rint(gray).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        pixels = np.asarray(image.convert("RGBA"))
        return pixels if pixels[:, :, 3].min() < 255 else pixels[:, :, :3]
    return np.asarray(image.convert("RGB"))
