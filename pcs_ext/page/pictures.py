"""Images as data URIs, so that the page asks for nothing from outside."""

import base64
import io
from pathlib import Path

from PIL import Image, ImageOps

_QUALITY = 86


def svg_uri(path: Path) -> str:
    """A data URI of an SVG file; as the source of an `img` it runs no script and fetches nothing."""
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def webp_uri(path: Path) -> str:
    """A data URI of a WebP file as it is, an animation for instance."""
    return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def video_uri(path: Path) -> str:
    """A data URI of an MP4 file, for the source of a `video`."""
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def data_uri(path: Path, *, side: int) -> str:
    """A WebP data URI of an image whose shorter side is `side` pixels or more; 0 keeps its size.

    Small images are enlarged by Lanczos resampling to a whole multiple here: browsers enlarge with a softer filter,
    and each with its own.
    """
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    short = min(image.size)
    scale = 1 if side == 0 else -(-side // short) if short < side else side / short
    size = (round(image.width * scale), round(image.height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
