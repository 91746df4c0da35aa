"""Which files are one picture."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pcs_ext.errors import InputError, UsageError
from pcs_ext.image.data.photos import SUFFIXES


def is_still(path: Path, *, damaged: bool = True) -> bool:
    """Whether a file is one picture, and no video, animation or folder.

    Args:
        path: a file or folder.
        damaged: the answer for pictures that cannot be opened.
    """
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        return False
    try:
        with Image.open(path) as picture:
            return not getattr(picture, "is_animated", False)
    except (OSError, UnidentifiedImageError):
        return damaged  # who reads it says what is wrong with it


def photos_and_clip(paths: Sequence[Path]) -> tuple[tuple[Path, ...], Path | None]:
    """What of `--reference` is shown, and what is started from.

    Raises:
        InputError: something is not there.
        UsageError: there are several clips.
    """
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise InputError(
            f"{missing[0]} does not exist; expected photos after --reference, or a clip to start from. Prompts stand "
            "before it."
        )
    photos = tuple(path for path in paths if is_still(path))
    clips = [path for path in paths if path not in photos]
    if len(clips) > 1:
        raise UsageError(f"--reference has {len(clips)} clips ({clips[0]}, {clips[1]}, ...); a clip starts from one.")
    return photos, clips[0] if clips else None
