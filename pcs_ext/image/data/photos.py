"""Reading photos of any common format; whatever cannot be used is named with its reason before a model loads."""

import copy
import dataclasses
import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from pcs_ext.config_io import file_sha256
from pcs_ext.errors import PhotoError
from pcs_ext.image.cameras import Cameras
from pcs_ext.image.data.held import HeldAsLevels, shares_of

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".heic", ".heif", ".jfif"}
MIN_SIDE = 32
LEARNED_SIDE = 2048
"""Shorter side, in pixels, to which photos that are learned are reduced when they are read: twice what SDXL trains on.
Ten photos of a phone's 48 megapixels would else lie in memory as 6 GB, and random crops would read all of it."""
MAX_PIXELS = 200_000_000
_BACKGROUND = 0.5
"""Gray behind transparent pixels, in [0, 1]."""
_MASK = re.compile(r"_mask\d*$")
_BEFORE = "_before"
_DEEP = ("I;16", "I;16B", "I;16L", "I", "F")
"""Modes of gray pictures with more than eight bits."""
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Photo:
    """One decoded photo and what lies beside it.

    Tensors of pixels may be given as uint8 levels, which are held as such and told as float32.
    """

    path: Path
    image: Tensor = HeldAsLevels(-1.0)  # noqa: RUF009  # type: ignore[assignment]
    """`3 h w` float32 in [-1, 1], upright, sRGB."""
    mask: Tensor | None = HeldAsLevels(0.0, optional=True)  # noqa: RUF009  # type: ignore[assignment]
    """`1 h w` in [0, 1]: where the subject is, from `NAME_mask.png` or the alpha channel."""
    caption: str | None = None
    """Text of `NAME.txt`."""
    parts: Tensor | None = HeldAsLevels(0.0, optional=True)  # noqa: RUF009  # type: ignore[assignment]
    """`k h w` in [0, 1]: where each of several subjects is, from `NAME_mask1.png`, `NAME_mask2.png`, ...; `mask` is
    then where any of them is."""
    weight: float = 1.0
    """What it counts in the loss where others count 1."""
    before: Tensor | None = None
    """`3 h w` in [-1, 1]: the picture before something was done to it, from `NAME_before.png`."""
    camera: Cameras | None = None
    """What took it, one, of the whole picture; None: not known, or nobody asks (`pcs_ext.image.posed`)."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = vars(self)["image"].shape[1:]
        return height, width

    def but(self, **changes: Any) -> Self:
        """The same with other values in some fields. As `dataclasses.replace`, but levels stay levels."""
        made = copy.copy(self)
        for name, value in changes.items():
            assert name in self.__dataclass_fields__, f"a photo has no {name}"
            object.__setattr__(made, name, value)
        return made

    def part(self, top: int, left: int, height: int, width: int) -> Self:
        """A part of it and of its masks, of which alone pixels are made. Nothing else is cut."""
        rows, columns = slice(top, top + height), slice(left, left + width)
        cut = {name: vars(self)[name] for name in ("image", "mask", "parts")}
        return self.but(**{name: None if held is None else held[:, rows, columns] for name, held in cut.items()})

    @property
    def digest(self) -> str:
        """Hex digits of the file and of all that is learned with it: caption, masks, camera, earlier picture."""
        shape = torch.Size((3, *self.size))
        found = hashlib.sha256(f"{file_sha256(self.path)} {self.caption!r} {self.weight} {shape}".encode())
        for values in (self.mask, self.parts, self.before):
            levels = b"" if values is None else (values.clamp(-1, 1) * 127).round().to(torch.int8).numpy().tobytes()
            found.update(len(levels).to_bytes(8, "big") + levels)
        if self.camera is not None:
            found.update(torch.cat([self.camera.camera_to_world.flatten(), self.camera.fov]).numpy().tobytes())
        return found.hexdigest()


def find_photos(source: Iterable[Path | str] | Path | str, *, short_side: int | None = None) -> list[Photo]:
    """All photos of a folder (not of its subfolders), or the given files, decoded, in natural order.

    Files named `NAME_mask.*` or `NAME_mask1.*` are masks, `NAME_before.*` beside a `NAME.*` what that was made of,
    `NAME.txt` captions; hidden files and other types are passed over (see `overlooked`).

    Args:
        source: a folder or files.
        short_side: photos, with all that lies beside them, are reduced to a shorter side of so many pixels; None: none.

    Raises:
        PhotoError: nothing usable is there, or a file is missing, empty, corrupt, tiny or too large.
    """
    return [_reduced(_with_companions(path), short_side) for path in photo_files(source)]


def photo_files(source: Iterable[Path | str] | Path | str) -> list[Path]:
    """The files of `find_photos`, without opening them: those of `photo_paths` but for what others were made of.

    Raises:
        PhotoError: a path does not exist, or a folder holds no photos.
    """
    paths = photo_paths(source)
    made = {(path.parent, f"{path.stem}{_BEFORE}") for path in paths}
    return [path for path in paths if (path.parent, path.stem) not in made]


def _reduced(photo: Photo, short_side: int | None) -> Photo:
    height, width = photo.size
    if short_side is None or min(height, width) <= short_side:
        return photo
    scale = short_side / min(height, width)
    size = (round(height * scale), round(width * scale))

    def smaller(values: Tensor | None, low: float) -> Tensor | None:
        if values is None:
            return None
        return torch.nn.functional.interpolate(values[None], size=size, mode="bicubic", antialias=True)[0].clamp(low, 1)

    image = smaller(photo.image, -1)
    assert image is not None
    return dataclasses.replace(
        photo, image=image, mask=smaller(photo.mask, 0), parts=smaller(photo.parts, 0), before=smaller(photo.before, -1)
    )


def photo_paths(source: Iterable[Path | str] | Path | str) -> list[Path]:
    """Photos without opening them: a folder's in natural order, or those given; masks of photos among them left out.

    Raises:
        PhotoError: a path does not exist, or a folder holds no photos.
    """
    given = [Path(source)] if isinstance(source, (str, Path)) else [Path(item) for item in source]
    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            paths += _photos_in(path)
        elif path.exists():
            paths.append(path)
        else:
            raise PhotoError(f"{path} does not exist; expected a photo or a folder of photos.")
    if not paths:
        raise PhotoError("no photos were given; expected a folder or at least one file.")
    stems = {(path.parent, path.stem) for path in paths}
    # A shell that writes out photos/*.png names the masks among them, too.
    return [path for path in paths if not (_MASK.search(path.stem) and _unmasked(path) in stems)]


def _unmasked(path: Path) -> tuple[Path, str]:
    """Folder and stem of the photo that a mask's name belongs to."""
    return path.parent, _MASK.sub("", path.stem)


def _photos_in(folder: Path) -> list[Path]:
    files = sorted((f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".")), key=_natural)
    photos = [f for f in files if f.suffix.lower() in SUFFIXES and not _MASK.search(f.stem)]
    if not photos:
        seen = ", ".join(f.name for f in files[:5]) or "nothing"
        raise PhotoError(
            f"{folder} holds no photos (found: {seen}); expected .jpg, .png, .webp, .tiff, .heic or alike."
        )
    return photos


def _natural(path: Path) -> list[tuple[int, int | str]]:
    return [(0, int(p)) if p.isdigit() else (1, p.lower()) for p in re.split(r"(\d+)", path.name) if p]


def _with_companions(path: Path) -> Photo:
    photo, files = read_photo(path), mask_files(path)
    numbered = [_mask_levels(file, photo) for file in files if file.stem[-1].isdigit()]
    whole = [_mask_levels(file, photo) for file in files if not file.stem[-1].isdigit()]
    parts = torch.cat(numbered) if numbered else None
    masks = whole or ([] if parts is None else [parts.amax(0, keepdim=True)])
    own = {"mask": masks[0]} if masks else {}
    text = path.with_suffix(".txt")
    caption = text.read_text(encoding="utf-8-sig", errors="replace").strip() if text.is_file() else None
    earlier = sorted(path.parent.glob(f"{_escape(path.stem)}{_BEFORE}.*"), key=_natural)
    before = next((read_before(file, photo) for file in earlier if file.suffix.lower() in SUFFIXES), None)
    return photo.but(caption=caption or None, parts=parts, before=before, **own)


def mask_files(photo: Path) -> list[Path]:
    """Masks that lie beside a photo, in natural order."""
    beside = sorted(photo.parent.glob(f"{_escape(photo.stem)}_mask*"), key=_natural)
    return [file for file in beside if file.suffix.lower() in SUFFIXES and _MASK.sub("", file.stem) == photo.stem]


def _escape(stem: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", stem)


def read_photo(path: Path) -> Photo:
    """Decode one photo: EXIF orientation applied, ICC profile converted to sRGB, alpha laid over gray.

    Grayscale, palette, 16-bit, float and CMYK files become RGB. Of animations the first frame is taken.

    Raises:
        PhotoError: names the file and the reason.
    """

    def upright(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
        if min(image.size) < MIN_SIDE:
            size = f"{image.width} x {image.height}"
            raise PhotoError(f"{path} is {size} pixels; expected at least {MIN_SIDE} on each side.")
        return _to_rgb(ImageOps.exif_transpose(image))

    rgb, alpha = _decoded(path, upright)
    pixels = torch.from_numpy(rgb).permute(2, 0, 1).contiguous()
    if alpha is None or alpha.min() == 255:
        return Photo(path=path, image=pixels if pixels.dtype == torch.uint8 else pixels * 2 - 1)
    mask = torch.from_numpy(alpha)[None]
    opaque = shares_of(mask)
    over = shares_of(pixels) * opaque + _BACKGROUND * (1 - opaque)
    return Photo(path=path, image=over * 2 - 1, mask=mask)


def _decoded(path: Path, decode: Callable[[Image.Image], T]) -> T:
    """What `decode` makes of a picture file; PhotoError where it is damaged."""
    image = open_image(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decode(image)
    except (OSError, ValueError, SyntaxError, EOFError, ImageCms.PyCMSError) as error:
        raise PhotoError(f"{path} cannot be decoded ({error}); it is damaged or cut off. Export it again.") from None


def open_image(path: Path) -> Image.Image:
    """A picture of any readable format, opened from bytes in memory but not decoded yet; HEIC needs pillow-heif.

    Raises:
        PhotoError: missing, empty, no picture, HEIC without its reader, or above `MAX_PIXELS`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PhotoError(f"{path} cannot be read ({error.strerror}).") from None
    if not data:
        raise PhotoError(f"{path} is empty (0 bytes).")
    _register_heif(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise PhotoError(f"{path} is not an image that can be read, whatever its name says.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PhotoError(f"{path} cannot be opened ({error}).") from None
    if image.width * image.height > MAX_PIXELS:
        raise PhotoError(
            f"{path} would unpack to {image.width} x {image.height} pixels; expected at most {MAX_PIXELS // 10**6} "
            "megapixels. Make it smaller first."
        )
    return image


def _register_heif(path: Path) -> None:
    if path.suffix.lower() not in (".heic", ".heif"):
        return
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise PhotoError(f"{path} is HEIC; run: pip install pillow-heif, or save it as JPEG.") from None
    pillow_heif.register_heif_opener()


def _to_rgb(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """`h w 3` as 8-bit levels, or float32 in [0, 1] of deeper pictures, and levels of the alpha channel `h w`, if there
    is one."""
    if image.mode in _DEEP:
        return _gray(np.asarray(image)), None
    alpha = None
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.array(image.getchannel("A"))
    image = _to_srgb(image)
    return np.array(image.convert("RGB")), alpha


def _gray(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    # Integers are 16 bit wide; floats are linear in [0, 1] unless they are larger.
    top = 65535.0 if values.max() > 1.0 else 1.0
    return np.repeat(np.clip(values / top, 0, 1)[:, :, None], 3, axis=2)


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(
            image, source, target, outputMode="RGB" if image.mode != "RGBA" else "RGBA"
        )
    except (ImageCms.PyCMSError, OSError):
        return image  # a broken profile says nothing about the pixels; sRGB is what viewers assume then
    return converted if converted is not None else image


def one_photo(path: Path, mask: Path | None = None) -> Photo:
    """The one photo at a path, with a mask that is named or lies beside it.

    Raises:
        PhotoError: a folder of several, or see `find_photos` and `read_mask`.
    """
    found = find_photos([path])
    if len(found) != 1:
        raise PhotoError(f"{path} holds {len(found)} photos; expected one picture, name its file.")
    return found[0] if mask is None else found[0].but(mask=read_mask(mask, found[0]))


def read_mask(path: Path, photo: Photo) -> Tensor:
    """A mask for a photo, `1 h w` in [0, 1], white 1, brought to the photo's size.

    Raises:
        PhotoError: unreadable, or of another shape than the photo.
    """
    return shares_of(_mask_levels(path, photo))


def _mask_levels(path: Path, photo: Photo) -> Tensor:
    mask = _decoded(path, lambda image: _eight_bit(ImageOps.exif_transpose(image)))
    height, width = photo.size
    _check_shape(path, (mask.height, mask.width), photo)
    return torch.from_numpy(np.array(mask.resize((width, height), Image.Resampling.BILINEAR)))[None]


def _eight_bit(image: Image.Image) -> Image.Image:
    """A gray picture of mode L; deeper ones are scaled, not cut off at 255."""
    if image.mode not in _DEEP:
        return image.convert("L")
    return Image.fromarray((_gray(np.asarray(image))[..., 0] * 255).round().astype(np.uint8))


def read_before(path: Path, photo: Photo) -> Tensor:
    """The picture a photo was made of, `3 h w` in [-1, 1], brought to the photo's size.

    Raises:
        PhotoError: unreadable, or of another shape than the photo.
    """
    before = read_photo(path).image
    _check_shape(path, before.shape[1:], photo)
    resized = torch.nn.functional.interpolate(before[None], size=photo.size, mode="bicubic", antialias=True)
    return resized[0].clamp(-1, 1)


def _check_shape(path: Path, size: Sequence[int], photo: Photo) -> None:
    height, width = photo.size
    if abs(size[1] / size[0] - width / height) > 0.02 * width / height:
        raise PhotoError(
            f"{path} is {size[1]} x {size[0]} but its photo is {width} x {height}; expected the same shape."
        )
