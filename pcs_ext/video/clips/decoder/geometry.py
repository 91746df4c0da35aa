"""From a decoded frame to the pixels that are returned: upright, opaque, cropped, resized."""

import dataclasses

import numpy as np
from PIL import Image

from .request import MAX_FRAME_PIXELS, Request, UnusableError

_BACKGROUND = 128
"""Gray behind transparent pixels, as for photos."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """Centre crop and size that turn any frame of one size into the frame asked for."""

    box: tuple[float, float, float, float]
    """left, top, right, bottom in pixels of the decoded frame."""
    height: int
    width: int

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """`h w 3` or `h w 4` uint8 -> `height width 3` uint8, bicubic with anti-aliasing."""
        image = Image.fromarray(opaque(frame))
        if self.box == (0, 0, image.width, image.height) and image.size == (self.width, self.height):
            return np.asarray(image)
        return np.asarray(image.resize((self.width, self.height), Image.Resampling.BICUBIC, box=self.box))


def fit(height: int, width: int, request: Request, pixel_aspect: float = 1.0) -> Fit:
    """Crop for a frame of `height` x `width`; `pixel_aspect` is the width of a pixel over its height.

    Without a size the frame keeps its own, cropped to multiples of `multiple_of`.

    Raises:
        UnusableError: the frame is too large to decode, or smaller than `multiple_of`.
    """
    if height * width > MAX_FRAME_PIXELS:
        raise UnusableError(
            f"has frames of {width} x {height} pixels; expected at most {MAX_FRAME_PIXELS // 10**6} megapixels. "
            "Make it smaller first."
        )
    shown = width * pixel_aspect
    of = request.multiple_of
    out_h = (request.height or height) // of * of
    out_w = (request.width or round(shown)) // of * of
    if not out_h or not out_w:
        raise UnusableError(f"has frames of {width} x {height} pixels; expected at least {of} on each side.")
    if request.height is None:
        crop_h, crop_w = float(out_h), float(min(out_w, shown))
    else:
        scale = min(height / out_h, shown / out_w)
        crop_h, crop_w = out_h * scale, out_w * scale
    # Whole pixels where nothing is resized, so that frames are cut and not interpolated.
    top, left = (height - crop_h) / 2, (shown - crop_w) / 2
    if request.height is None:
        top, left = float(int(top)), float(int(left))
    box = (left / pixel_aspect, top, min(width, (left + crop_w) / pixel_aspect), min(height, top + crop_h))
    return Fit(box, out_h, out_w)


def opaque(frame: np.ndarray) -> np.ndarray:
    """Lay `h w 4` over gray; `h w 3` is returned as it is."""
    if frame.shape[2] == 3:
        return np.ascontiguousarray(frame)
    alpha = frame[:, :, 3:].astype(np.uint16)
    return ((frame[:, :, :3] * alpha + _BACKGROUND * (255 - alpha) + 127) // 255).astype(np.uint8)
