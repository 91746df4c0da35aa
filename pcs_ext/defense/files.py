"""Protected photos on disk: lossless PNG or WebP, or JPEG whose effect is measured after encoding."""

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
_WEBP_SIDE = 16383


def encode(photo: OwnPhoto, format: Format, *, quality: int = 95) -> bytes:
    """The bytes of a file that holds the photo's samples (exactly, for png and webp), alpha, profile, EXIF and dpi.

    Args:
        photo: what to write.
        format: png and webp are lossless; jpeg is not, and has no subsampling of colours here (4:4:4).
        quality: of jpeg, 1 to 100.

    Raises:
        PhotoError: jpeg cannot hold transparency; webp cannot hold more than 16,383 pixels per side.
    """
    if format == "jpeg" and photo.alpha is not None:
        raise PhotoError(f"{photo.path} is transparent in places, which JPEG cannot hold; choose --format png or webp.")
    if format == "webp" and max(photo.size) > _WEBP_SIDE:
        raise PhotoError(f"{photo.path} is larger than WebP's {_WEBP_SIDE} pixels per side; choose --format png.")
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
    """A file name for every photo: its stem with the format's suffix; the whole name is the stem where stems collide.

    Args:
        paths: of the photos, distinct.
        format: gives the suffix.

    Raises:
        UsageError: two photos have one name (they come from different folders).
    """
    names: dict[Path, str] = {}
    stems = [path.stem.casefold() for path in paths]
    for path in paths:
        alone = stems.count(path.stem.casefold()) == 1
        names[path] = f"{path.stem if alone else path.name}{SUFFIX[format]}"
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(names[path].casefold(), path)
        if other != path:
            raise UsageError(f"{other} and {path} would both become {names[path]}; protect the folders one by one.")
    return names
