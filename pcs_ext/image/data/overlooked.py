"""What of a user's folders is not read, and which photos are there twice: told, because nobody would look."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from pcs_ext.image.data.photos import SUFFIXES, Photo

_VIDEOS = {".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".3gp"}
_RAW = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".srw", ".pef"}
_EXPECTED = {".txt", ".json", ".aae", ".xmp"}
_SYSTEM = {"thumbs.db", "desktop.ini", "ehthumbs.db"}
_NAMED = 4
_THUMB = 32
_SAME = 1.5
"""Largest root mean square difference, in 8-bit levels, of thumbnails of one picture that was saved twice."""


def overlooked(source: Iterable[Path | str] | Path | str) -> list[str]:
    """Sentences on what of the given folders is not read: videos, raw files, other files, folders inside.

    Hidden files, those of operating systems, captions, JSON and editors' sidecars are nobody's photos and not named.
    """
    given = [source] if isinstance(source, (str, Path)) else list(source)
    return [sentence for path in map(Path, given) if path.is_dir() for sentence in _of_folder(path)]


def _of_folder(folder: Path) -> list[str]:
    inside = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    folders = [path.name for path in inside if path.is_dir()]
    others = [
        path
        for path in inside
        if path.is_file() and path.suffix.lower() not in SUFFIXES | _EXPECTED and path.name.lower() not in _SYSTEM
    ]
    kinds = {
        "videos are not read": [path.name for path in others if path.suffix.lower() in _VIDEOS],
        "raw files are not read, export them as JPEG or TIFF": [
            path.name for path in others if path.suffix.lower() in _RAW
        ],
        "no photos, passed over": [path.name for path in others if path.suffix.lower() not in _VIDEOS | _RAW],
        "folders inside are not looked into": folders,
    }
    return [f"{folder}: {what}: {_names(names)}" for what, names in kinds.items() if names]


def repeated(photos: Sequence[Photo]) -> list[str]:
    """Sentences on photos that show the same picture, such as a copy or a HEIC file and its JPEG; each counts."""
    thumbs = [_thumbnail(photo) for photo in photos]
    groups: list[list[int]] = []
    for index, thumb in enumerate(thumbs):
        known = next((group for group in groups if _difference(thumbs[group[0]], thumb) < _SAME), None)
        groups.append([index]) if known is None else known.append(index)
    return [
        f"{_names([photos[index].path.name for index in group])} show the same picture, which counts "
        f"{'twice' if len(group) == 2 else f'{len(group)} times'}"
        for group in groups
        if len(group) > 1
    ]


def enlarged(photos: Sequence[Photo], side: int) -> list[str]:
    """A sentence on photos whose shorter side is below what a base trains on, if there are any.

    Args:
        photos: decoded.
        side: of the base's pictures, pixels.
    """
    small = [photo for photo in photos if min(photo.size) < side]
    if not small:
        return []
    found = _names([f"{photo.path.name} ({photo.size[1]} x {photo.size[0]})" for photo in small])
    return [f"smaller than the {side} pixels that the base learns, so enlarged: {found}"]


def _thumbnail(photo: Photo) -> torch.Tensor:
    return F.interpolate(photo.image[None], size=(_THUMB, _THUMB), mode="bilinear", antialias=True)[0] * 127.5


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).square().mean().sqrt())


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
