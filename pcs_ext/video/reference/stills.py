"""Which files are one picture."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pcs_ext.image.data.photos import SUFFIXES


def is_still(path: Path) -> bool:
    """Whether a file is one picture, and no video, animation or folder."""
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        return False
    try:
        with Image.open(path) as picture:
            return not getattr(picture, "is_animated", False)
    except (OSError, UnidentifiedImageError):
        return True  # who reads it says what is wrong with it
