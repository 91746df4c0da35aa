"""Photos of every kind decode right; everything else is refused with the file's name and a reason."""

import dataclasses
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from pcs_ext.errors import PhotoError
from pcs_ext.image.data import find_photos, photo_paths, read_photo

RED = (200, 40, 30)


def left_red(mode: str = "RGB", size: tuple[int, int] = (48, 40)) -> Image.Image:
    image = Image.new("RGB", size, (20, 30, 220))
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp", ".gif", ".avif"])
def test_common_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    left_red().save(path, quality=95) if suffix in (".jpg", ".webp", ".avif") else left_red().save(path)
    image = read_photo(path).image
    assert image.shape == (3, 40, 48)
    expected = torch.tensor(RED) / 127.5 - 1
    assert (image[:, 20, 8] - expected).abs().max() < 0.12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = left_red()
    # What a camera stores so that viewers show `upright`: the inverse of each of the eight transpositions.
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    image = read_photo(tmp_path / "a.png").image
    torch.testing.assert_close(image, torch.from_numpy(np.array(upright)).permute(2, 0, 1) / 127.5 - 1)


def test_photos_of_phones_are_read_upright(tmp_path: Path) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    left_red().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "IMG_0001.HEIC", quality=95, exif=exif.tobytes())
    image = find_photos(tmp_path)[0].image
    assert image.shape == (3, 40, 48)
    assert (image[:, 20, 8] - (torch.tensor(RED) / 127.5 - 1)).abs().max() < 0.12


def test_modes_without_colour_or_with_more(tmp_path: Path) -> None:
    for mode in ("L", "P", "1", "LA", "RGBA", "CMYK"):
        suffix = ".tif" if mode == "CMYK" else ".png"
        left_red(mode).save(tmp_path / f"{mode}{suffix}")
        assert read_photo(tmp_path / f"{mode}{suffix}").image.shape == (3, 40, 48)


def test_sixteen_bit_gray_keeps_its_range(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 48 * 40).reshape(40, 48).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = read_photo(tmp_path / "a.png").image
    assert image.min() == pytest.approx(-1)
    assert image.max() == pytest.approx(1)
    assert image[0, 20, 24] == pytest.approx(float(values[20, 24]) / 32767.5 - 1, abs=1e-4)


def test_transparency_becomes_gray_and_a_mask(tmp_path: Path) -> None:
    image = left_red("RGBA")
    image.putalpha(Image.fromarray(np.repeat([[255] * 24 + [0] * 24], 40, 0).astype(np.uint8)))
    image.save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    assert photo.mask is not None
    assert photo.mask[0, 0, 0] == 1
    assert photo.mask[0, 0, -1] == 0
    assert photo.image[:, 0, -1].abs().max() < 1e-6


def test_icc_profile_is_converted(tmp_path: Path) -> None:
    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    left_red().save(tmp_path / "a.png", icc_profile=srgb)
    assert (read_photo(tmp_path / "a.png").image[:, 5, 5] - (torch.tensor(RED) / 127.5 - 1)).abs().max() < 0.02
    left_red().save(tmp_path / "b.png", icc_profile=b"not a profile")
    assert read_photo(tmp_path / "b.png").image.shape == (3, 40, 48)
    assert lab is not None


def test_masks_and_captions_lie_beside(tmp_path: Path) -> None:
    for name in ("b10", "b9", "a"):
        left_red().save(tmp_path / f"{name}.png")
    left_red("L").save(tmp_path / "a_mask.png")
    (tmp_path / "b9.txt").write_text("{subject} on grass\n")
    (tmp_path / ".hidden.png").write_bytes(b"junk")
    (tmp_path / "notes.md").write_text("junk")
    photos = find_photos(tmp_path)
    assert [photo.path.stem for photo in photos] == ["a", "b9", "b10"]
    assert [photo.caption for photo in photos] == [None, "{subject} on grass", None]
    assert [photo.mask is not None for photo in photos] == [True, False, False]


def test_captions_of_windows_editors_are_read_without_their_mark(tmp_path: Path) -> None:
    left_red().save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("{subject} on grass", encoding="utf-8-sig")
    assert find_photos(tmp_path)[0].caption == "{subject} on grass"


def test_photos_are_held_as_the_levels_of_their_files(tmp_path: Path) -> None:
    levels = np.arange(3 * 40 * 48, dtype=np.uint32).astype(np.uint8).reshape(40, 48, 3)
    Image.fromarray(levels).save(tmp_path / "a.png")
    for name in ("a_mask1", "a_mask2"):
        left_red("L").save(tmp_path / f"{name}.png")
    photo = find_photos(tmp_path)[0]
    told = torch.from_numpy(levels.astype(np.float32) / 255 * 2 - 1).permute(2, 0, 1)
    for same in (photo, photo.but(caption="{subject} on grass"), photo.part(0, 0, 40, 48)):
        assert torch.equal(same.image, told)
        held = [vars(same)[name] for name in ("image", "mask", "parts")]
        assert [tensor.dtype for tensor in held] == [torch.uint8] * 3
        assert [tensor.shape[0] for tensor in held] == [3, 1, 2]
    assert (photo.size, photo.caption) == ((40, 48), None)
    part = photo.part(4, 30, 10, 12)
    assert torch.equal(part.image, told[:, 4:14, 30:42])
    assert part.parts is not None
    assert photo.parts is not None
    assert torch.equal(part.parts, photo.parts[:, 4:14, 30:42])
    assert torch.equal(dataclasses.replace(photo, image=-photo.image).image, -told)
    left_red("RGBA").save(tmp_path / "b.png")
    assert read_photo(tmp_path / "b.png").image.dtype == torch.float32


def test_masks_among_files_that_are_given_are_no_photos(tmp_path: Path) -> None:
    for name in ("a.png", "a_mask.png", "a_mask2.png", "alone_mask.png"):
        left_red().save(tmp_path / name)
    given = sorted(tmp_path.glob("*.png"))
    assert [path.name for path in photo_paths(given)] == ["a.png", "alone_mask.png"]
    assert [path.name for path in photo_paths([tmp_path / "a_mask.png"])] == ["a_mask.png"]


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    left_red().save(tmp_path / "a.png")
    left_red("L").save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "a_mask.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(PhotoError, match="a_mask.png cannot be decoded"):
        find_photos(tmp_path / "a.png")


def test_soft_masks_of_sixteen_bits_stay_soft(tmp_path: Path) -> None:
    left_red().save(tmp_path / "a.png")
    Image.fromarray(np.full((40, 48), 32768, np.uint16)).save(tmp_path / "a_mask.png")
    (photo,) = find_photos(tmp_path / "a.png")
    assert photo.mask is not None
    assert photo.mask.mean() == pytest.approx(0.5, abs=0.01)


def _png_of_size(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def _bytes(image: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format)
    return buffer.getvalue()


PNG, JPEG = _bytes(left_red(), "PNG"), _bytes(left_red(size=(400, 300)), "JPEG")
BAD = {
    "empty.jpg": (b"", "is empty"),
    "text.jpg": (b"hello, this is no photo", "not an image"),
    "html.png": (b"<!doctype html><html></html>", "not an image"),
    "zeros.png": (b"\0" * 5000, "not an image"),
    "header.png": (PNG[:20], "cannot be|not an image"),
    "half.png": (PNG[: len(PNG) // 2], "cannot be decoded"),
    "half.jpg": (JPEG[: len(JPEG) // 2], "cannot be decoded"),
    "tiny.png": (_bytes(Image.new("RGB", (31, 200)), "PNG"), "31 x 200 pixels; expected at least 32"),
    "dot.png": (_bytes(Image.new("RGB", (1, 1)), "PNG"), "1 x 1 pixels"),
    "bomb.png": (_png_of_size(100_000, 100_000), "cannot be opened|would unpack"),
    "large.png": (_png_of_size(15_000, 15_000), "would unpack|cannot be opened"),
    "script.svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "video.gif": (b"GIF89a", "cannot be|not an image"),
    "pdf.jpg": (b"%PDF-1.4 nothing", "not an image"),
    "zip.webp": (b"PK\x03\x04" + b"\0" * 60, "not an image"),
    "riff.webp": (b"RIFF\x10\0\0\0WEBPVP8 " + b"\0" * 8, "cannot be|not an image"),
    "photo.heic": (b"\0\0\0\x18ftypheic" + b"\0" * 60, "HEIC|not an image|cannot be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_with_their_reason_and_left_alone(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=reason) as caught:
        find_photos(tmp_path)
    assert name in str(caught.value)
    assert path.read_bytes() == content


def test_places_without_photos(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="does not exist"):
        find_photos(tmp_path / "nowhere")
    with pytest.raises(PhotoError, match="holds no photos .found: nothing"):
        find_photos(tmp_path)
    (tmp_path / "list.txt").write_text("x")
    with pytest.raises(PhotoError, match="found: list.txt"):
        find_photos(tmp_path)
    with pytest.raises(PhotoError, match="no photos were given"):
        find_photos([])


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    left_red().save(tmp_path / "a.png")
    left_red("L", (40, 48)).save(tmp_path / "a_mask.png")
    with pytest.raises(PhotoError, match="a_mask.png is 40 x 48 but its photo is 48 x 40"):
        find_photos(tmp_path)
