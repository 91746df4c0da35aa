"""The user's photos as they are: full resolution, own colour profile, own transparency. Nothing is cropped or resized.

`pcs_ext.image.data` reads photos for training, in sRGB floats; here the very samples of the file count, because the
protected file must differ from it by the perturbation and nothing else.
"""

import dataclasses
import hashlib
import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from pcs_ext.defense.metadata import MetadataPolicy, exif_bytes
from pcs_ext.errors import PhotoError
from pcs_ext.image.data import open_image
from pcs_ext.image.data.photos import SUFFIXES

MAX_PIXELS = 100_000_000
"""Above this the perturbation, its gradient and a view of the whole photo would need more than about 10 GB."""
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I", "F")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class OwnPhoto:
    """One photo with everything its protected copy needs."""

    path: Path
    sha256: str
    """Of the file's bytes: names the photo in reports, seeds and resumes."""
    pixels: Tensor
    """uint8 `c h w`, upright, c = 1 for gray photos, else 3, in the photo's own colour space."""
    alpha: Tensor | None = None
    """uint8 `h w`; written back bit for bit."""
    srgb: Tensor | None = None
    """uint8 `3 h w`: what trainers see where the colour profile is not sRGB; None: `pixels`."""
    icc: bytes | None = None
    """The embedded profile, if the pixels are still in its space."""
    exif: bytes = b""
    """Block to write, already filtered."""
    dpi: tuple[float, float] | None = None
    """Resolution in dots per inch."""
    mask: Tensor | None = None
    """bool `h w`: where the photo may change; None: everywhere."""
    notes: tuple[str, ...] = ()
    """What had to be converted, in words for the report."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def with_pixels(self, pixels: Tensor) -> "OwnPhoto":
        """The same photo with other samples, uint8 `c h w`."""
        assert pixels.shape == self.pixels.shape, f"{tuple(pixels.shape)} is not {tuple(self.pixels.shape)}"
        return dataclasses.replace(self, pixels=pixels)


def read_own_photo(path: Path, *, metadata: MetadataPolicy = "clean", mask: bool = False) -> OwnPhoto:
    """Decode a photo for protection. Applies the EXIF orientation once; 16 bits per sample become 8, CMYK becomes RGB.

    Args:
        path: of the photo.
        metadata: what is kept.
        mask: let only the light parts of `NAME_mask.*` beside it change.

    Raises:
        PhotoError: damaged, animated, of several pages, above `MAX_PIXELS`, or without a mask that has light
            parts; says what to do.
    """
    image = open_image(path)
    _refuse(path, image)
    try:
        exif = exif_bytes(image, metadata)
        notes = _notes(image)
        deep = image.mode in _SIXTEEN_BIT
        image = ImageOps.exif_transpose(image)
        rgb, alpha = (_eight_bit(image), None) if deep else _split(image)
        icc = image.info.get("icc_profile") if not deep and image.mode not in ("CMYK", "LAB", "YCbCr", "HSV") else None
        srgb = _srgb(rgb, icc)
    except (OSError, ValueError, SyntaxError, EOFError, ImageCms.PyCMSError, Image.DecompressionBombError) as error:
        raise PhotoError(f"{path} cannot be decoded ({error}); it is damaged or cut off. Export it again.") from None
    return OwnPhoto(
        path=path,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        pixels=_planes(rgb),
        alpha=None if alpha is None else torch.from_numpy(np.array(alpha)),
        srgb=srgb,
        icc=icc,
        exif=exif,
        dpi=_resolution(image),
        mask=_mask(path, rgb.size) if mask else None,
        notes=notes,
    )


def _resolution(image: Image.Image) -> tuple[float, float] | None:
    """Dots per inch; None where the file says none, or nonsense such as 0/0."""
    dpi = image.info.get("dpi")
    if not dpi or not all(math.isfinite(value) and value > 0 for value in map(float, dpi[:2])):
        return None
    return float(dpi[0]), float(dpi[1])


def _refuse(path: Path, image: Image.Image) -> None:
    # Phones store previews and depth maps behind the photo (MPO, HEIC bursts): the first picture is the photo.
    frames = 1 if image.format in ("MPO", "HEIF") else getattr(image, "n_frames", 1)
    if frames > 1:
        raise PhotoError(
            f"{path} holds {frames} frames or pages; expected one picture. Export the frame to protect as PNG first."
        )
    if image.width * image.height > MAX_PIXELS:
        raise PhotoError(
            f"{path} is {image.width} x {image.height} pixels; expected at most {MAX_PIXELS // 10**6} megapixels. "
            "Make it smaller first."
        )


def _notes(image: Image.Image) -> tuple[str, ...]:
    notes = []
    raw_mode = str([tile.args for tile in getattr(image, "tile", [])])
    if image.mode in _SIXTEEN_BIT or ";16" in raw_mode:
        notes.append("16 bits per sample were reduced to 8; the budget is counted from the 8-bit picture")
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        notes.append(f"{image.mode} was converted to sRGB; the budget is counted from the converted picture")
    if image.mode in ("P", "1", "PA"):
        notes.append("a picture of few colours became one of full colour")
    if image.format == "MPO":
        notes.append("pictures stored behind the photo (previews, depth) were left out")
    return tuple(notes)


def _eight_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    # Integers are 16 bit wide; floats are in [0, 1] unless they are larger.
    top = 1.0 if image.mode == "F" and values.max(initial=0) <= 1 else 65535.0
    return Image.fromarray(np.clip(np.rint(values * (255 / top)), 0, 255).astype(np.uint8))


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """An L or RGB picture and its alpha channel. Colours under transparent pixels are kept."""
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.mode in ("RGBA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    if image.mode in ("L", "1"):
        return image.convert("L"), None
    return _without_ink(image), None


def _without_ink(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK" and profile:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        assert converted is not None
        return converted
    return image.convert("RGB")


def _srgb(image: Image.Image, icc: bytes | None) -> Tensor | None:
    """`3 h w` in sRGB, or None where that is what the samples say already; gray photos have profiles, too."""
    if not icc or image.mode not in ("RGB", "L"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return None  # a broken profile says nothing about the pixels; sRGB is what viewers assume then
    assert converted is not None
    seen = _planes(converted)
    return None if torch.equal(seen, _planes(image.convert("RGB"))) else seen


def _planes(image: Image.Image) -> Tensor:
    levels = torch.from_numpy(np.array(image))
    return levels[None] if levels.dim() == 2 else levels.permute(2, 0, 1).contiguous()


def mask_path(path: Path) -> Path:
    """The picture beside a photo that says where it may change.

    Raises:
        PhotoError: there is none.
    """
    beside = (file for file in sorted(path.parent.iterdir()) if file.suffix.lower() in SUFFIXES)
    found = [file for file in beside if file.stem == f"{path.stem}_mask"]
    if not found:
        raise PhotoError(
            f"{path} has no {path.stem}_mask.png beside it; draw one (light = may change) or choose another --region."
        )
    return found[0]


def _lightness(image: Image.Image) -> Image.Image:
    """Of a mask, mode L: transparent places are dark, whatever colour lies under them."""
    if image.mode in _SIXTEEN_BIT:
        return _eight_bit(image)
    if image.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("L")


def _mask(path: Path, size: tuple[int, int]) -> Tensor:
    found = mask_path(path)
    image = _lightness(ImageOps.exif_transpose(open_image(found)))
    if abs(image.width * size[1] - image.height * size[0]) > 0.02 * image.height * size[0]:
        raise PhotoError(
            f"{found} is {image.width} x {image.height}, its photo {size[0]} x {size[1]}; expected the same shape."
        )
    mask = torch.from_numpy(np.array(image.resize(size, Image.Resampling.BILINEAR)) >= 128)
    if not mask.any():
        raise PhotoError(
            f"{found} is dark all over, so nothing of {path.name} may change; draw light where it may, or leave the "
            "photo out."
        )
    return mask
