"""Pictures as PNG: the bytes, and files that appear whole."""

import io
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pcs_ext.config_io import atomic_write_bytes


def png_bytes(picture: Image.Image, info: PngInfo | None = None) -> bytes:
    """A picture as PNG, lossless, with text chunks if any are given."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def write_png(path: Path, picture: Image.Image, info: PngInfo | None = None) -> None:
    """Write a picture as PNG; the file appears by rename."""
    atomic_write_bytes(path, png_bytes(picture, info))
