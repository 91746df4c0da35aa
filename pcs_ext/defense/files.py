"""Protected photos on disk: lossless PNG or WebP, or JPEG whose effect is measured after encoding."""

import dataclasses
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pcs_ext.defense.photos import OwnPhoto
from pcs_ext.errors import PhotoError, UsageError

Format = Literal["png", "webp", "jpeg"]
SUFFIX: dict[Format, str] = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
_MOST_SIDE: dict[Format, int] = {"webp": 16383, "jpeg": 65500}
_MOST_EXIF = 65500
"""Bytes: a JPEG's segment ends at 65,533, its own mark included."""
_LONGEST_NAME = 255 - 20
"""Bytes of a file's name, with room for the ends that a strip's name and a file in the making add."""


def encode(photo: OwnPhoto, format: Format, *, quality: int = 95) -> bytes:
    """The bytes of a file that holds the photo's samples (exactly, for png and webp), alpha, profile, EXIF and dpi.

    Args:
        photo: what to write.
        format: png and webp are lossless; jpeg is not, and has no subsampling of colours here (4:4:4).
        quality: of jpeg, 1 to 100.

    Raises:
        PhotoError: the format cannot hold the photo, see `fitting`.
    """
    photo = fitting(photo, format)
    image = _assemble(photo, gray_alpha=format == "png")
    options: dict[str, Any] = {"icc_profile": photo.icc} if photo.icc else {}
    if photo.exif:
        options["exif"] = photo.exif
    if photo.dpi and format != "webp":
        options["dpi"] = photo.dpi
    if format == "webp":
        options |= {"lossless": True, "exact": True, "method": 4}
    if format == "jpeg":
        options |= {"quality": quality, "subsampling": 0}
    buffer = io.BytesIO()
    image.save(buffer, format=format.upper(), **options)
    return buffer.getvalue()


def fitting(photo: OwnPhoto, format: Format) -> OwnPhoto:
    """The photo as the format can hold it: a JPEG has no room for EXIF of more than 64 kB, which is left out then.

    Raises:
        PhotoError: jpeg cannot hold transparency or more than 65,500 pixels per side, webp no more than 16,383,
            nor a gray photo in tones of its own.
    """
    if format == "jpeg" and photo.alpha is not None:
        raise PhotoError(f"{photo.path} is transparent in places, which JPEG cannot hold; choose --format png or webp.")
    most = _MOST_SIDE.get(format, max(photo.size))
    if max(photo.size) > most:
        name = {"webp": "WebP", "jpeg": "JPEG"}[format]
        raise PhotoError(f"{photo.path} is larger than {name}'s {most} pixels per side; choose --format png.")
    if format == "webp" and photo.pixels.shape[0] == 1 and photo.srgb is not None:
        # WebP has no gray: readers drop a gray profile beside colours, and the picture's tones would change.
        raise PhotoError(
            f"{photo.path} is gray with a profile of its own, which WebP cannot hold; choose --format png."
        )
    if format == "jpeg" and len(photo.exif) > _MOST_EXIF:
        return dataclasses.replace(
            photo, exif=b"", notes=(*photo.notes, "its EXIF is too long for JPEG and was left out")
        )
    return photo


def decode(data: bytes, channels: int) -> Tensor:
    """Samples uint8 `c h w` of an encoded photo, read back as any program would.

    Args:
        data: bytes of a file.
        channels: 1 takes one of equal channels (WebP has no gray).
    """
    with Image.open(io.BytesIO(data)) as image:
        opaque = image.convert("RGBA").convert("RGB") if image.mode in ("RGBA", "LA") else image.convert("RGB")
        levels = torch.from_numpy(np.array(opaque)).permute(2, 0, 1)
    return levels[:channels].contiguous()


def _assemble(photo: OwnPhoto, *, gray_alpha: bool) -> Image.Image:
    gray = photo.pixels.shape[0] == 1
    levels = photo.pixels[0] if gray else photo.pixels.permute(1, 2, 0)
    image = Image.fromarray(levels.contiguous().numpy())
    if photo.alpha is None:
        return image
    if gray and not gray_alpha:
        image = image.convert("RGB")
    image.putalpha(Image.fromarray(photo.alpha.numpy()))
    return image


def output_names(paths: list[Path], format: Format) -> dict[Path, str]:
    """A file name for every photo: its stem with the format's suffix; the whole name is the stem where stems collide,
    with a number where names differ in upper and lower case alone.

    Args:
        paths: of the photos, distinct.
        format: gives the suffix.

    Raises:
        UsageError: two photos have one name (they come from different folders).
        PhotoError: a name is too long, or not UTF-8.
    """
    names: dict[Path, str] = {}
    stems = [path.stem.casefold() for path in paths]
    for path in paths:
        alone = stems.count(path.stem.casefold()) == 1
        names[path] = f"{path.stem if alone else path.name}{SUFFIX[format]}"
    seen: dict[str, Path] = {}
    for path in paths:
        number = 1
        # Names that differ in upper and lower case alone are two files here and one on other systems.
        while (other := seen.setdefault(names[path].casefold(), path)) != path and other.parent == path.parent:
            number += 1
            names[path] = f"{path.name}-{number}{SUFFIX[format]}"
        if other != path:
            raise UsageError(f"{other} and {path} would both become {names[path]}; protect the folders one by one.")
    for path, name in names.items():
        _check_name(path, name)
    return names


def _check_name(path: Path, name: str) -> None:
    try:
        size = len(name.encode("utf-8"))
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise PhotoError(f"the name of {str(path)!a} is not UTF-8, so no report can hold it; rename it.") from None
    if size > _LONGEST_NAME:
        raise PhotoError(
            f"the name of {path} is too long: {name} has {size} bytes, expected at most {_LONGEST_NAME}; rename it."
        )
