"""Photos of every mode and format come back as they were; what cannot be read is named."""

import functools
import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms

from pcs_ext.defense.files import Format, decode, encode, output_names
from pcs_ext.defense.photos import read_own_photo
from pcs_ext.errors import PhotoError, UsageError
from pcs_ext.image.data import read_photo
from pcs_ext.image.levels import levels_of

RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
ALPHA = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 30), dtype=np.uint8))


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(ALPHA)
    return image


def deep() -> Image.Image:
    return Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 109)


PICTURES = {
    "rgb.png": (RGB, {}, 3),
    "rgb.jpg": (RGB, {"quality": 90}, 3),
    "rgb.webp": (RGB, {"lossless": True}, 3),
    "rgb.tiff": (RGB, {}, 3),
    "rgb.bmp": (RGB, {}, 3),
    "rgb.avif": (RGB, {}, 3),
    "gray.png": (RGB.convert("L"), {}, 1),
    "gray.jpg": (RGB.convert("L"), {}, 1),
    "bits.png": (RGB.convert("1"), {}, 1),
    "palette.png": (RGB.quantize(16), {}, 3),
    "palette.gif": (RGB.quantize(16), {}, 3),
    "rgba.png": (with_alpha(RGB), {}, 3),
    "rgba.webp": (with_alpha(RGB), {"lossless": True, "exact": True}, 3),
    "rgba.tiff": (with_alpha(RGB), {}, 3),
    "gray_alpha.png": (with_alpha(RGB.convert("L")), {}, 1),
    "deep.png": (deep(), {}, 1),
    "deep.tiff": (deep(), {}, 1),
    "cmyk.jpg": (RGB.convert("CMYK"), {"quality": 95}, 3),
    "cmyk.tiff": (RGB.convert("CMYK"), {}, 3),
    "ycbcr.tiff": (RGB.convert("YCbCr"), {}, 3),
    "one.png": (RGB.crop((0, 0, 1, 1)), {}, 3),
    "long.png": (RGB.resize((20000, 2)), {}, 3),
    "Ünï.cödé d.o.t.png": (RGB, {}, 3),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("format", ["png", "webp"])
def test_samples_and_alpha_survive_exactly(name: str, format: Format, tmp_path: Path) -> None:
    image, options, channels = PICTURES[name]
    path = tmp_path / name
    image.save(path, **options)
    before = path.read_bytes()
    photo = read_own_photo(path)
    assert photo.pixels.shape == (channels, image.height, image.width)
    if name == "long.png" and format == "webp":
        with pytest.raises(PhotoError, match="16383 pixels per side; choose --format png"):
            encode(photo, format)
        return
    data = encode(photo, format)
    assert torch.equal(decode(data, channels), photo.pixels)
    if photo.alpha is not None:
        with Image.open(io.BytesIO(data)) as back:
            assert np.array_equal(np.asarray(back.getchannel("A")), photo.alpha.numpy())
            assert np.array_equal(np.asarray(ALPHA), photo.alpha.numpy())
    assert path.read_bytes() == before
    assert photo.sha256 == hashlib.sha256(before).hexdigest()


def test_sixteen_bits_are_rounded_and_told(tmp_path: Path) -> None:
    deep().save(tmp_path / "deep.png")
    photo = read_own_photo(tmp_path / "deep.png")
    expected = np.rint(np.asarray(deep()).astype(float) / 257)
    assert np.array_equal(photo.pixels[0].numpy(), expected)
    assert "16 bits" in photo.notes[0]


def test_every_orientation_is_applied_once(tmp_path: Path) -> None:
    upright = np.asarray(RGB)
    undo = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2), 8: upright.transpose(1, 0, 2)[:, ::-1],
    }  # fmt: skip
    for orientation, stored in undo.items():
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        path = tmp_path / f"{orientation}.png"
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif.tobytes())
        photo = read_own_photo(path)
        assert np.array_equal(photo.pixels.permute(1, 2, 0).numpy(), upright), orientation
        with Image.open(io.BytesIO(encode(photo, "png"))) as back:
            assert back.getexif().get(ExifTags.Base.Orientation) is None


def photographed(path: Path) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.DateTime] = "2024:05:06 07:08:09"
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {
            ExifTags.Base.DateTimeOriginal: "2024:05:06 07:08:09",
            ExifTags.Base.BodySerialNumber: "SERIAL-1",
            ExifTags.Base.LensSerialNumber: "SERIAL-2",
            ExifTags.Base.CameraOwnerName: "OWNER",
            ExifTags.Base.MakerNote: b"SERIAL-3",
        }
    )
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (50.0, 4.0, 0.0)})
    RGB.save(path, exif=exif.tobytes(), dpi=(300, 300), icc_profile=some_profile())
    return path


@functools.cache  # a profile holds the second it was made in
def some_profile() -> bytes:
    """Any embedded profile; here it is sRGB itself."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_dates_and_profiles_stay_places_and_serials_go(format: Format, tmp_path: Path) -> None:
    path = photographed(tmp_path / "a.jpg")
    data = encode(read_own_photo(path), format)
    with Image.open(io.BytesIO(data)) as back:
        details = back.getexif().get_ifd(ExifTags.IFD.Exif)
        assert back.getexif()[ExifTags.Base.Make] == "Maker"
        assert details[ExifTags.Base.DateTimeOriginal] == "2024:05:06 07:08:09"
        assert not back.getexif().get_ifd(ExifTags.IFD.GPSInfo)
        assert back.info["icc_profile"] == some_profile()
    assert b"SERIAL" not in data
    assert b"OWNER" not in data
    whole = encode(read_own_photo(path, metadata="all"), format)
    assert b"SERIAL-1" in whole
    with Image.open(io.BytesIO(whole)) as back:
        assert back.getexif().get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
    with Image.open(io.BytesIO(encode(read_own_photo(path, metadata="none"), format))) as back:
        assert not dict(back.getexif())
        assert back.info["icc_profile"] == some_profile()


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_no_layers_names_or_places_survive_in_any_tag(format: Format, tmp_path: Path) -> None:
    secret = b"SECRET-"
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.DateTime] = "2024:05:06 07:08:09"
    exif[0x935C] = RGB.tobytes()  # ImageSourceData: Photoshop's layers
    exif[0x8482] = (50.123, 4.5, 0.0)  # GeoTIFF: where the first pixel lies
    for tag in (0x010E, 0x013B, 0x8298, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F, 0xFDE8, 0xFDE9):
        exif[tag] = secret if 0x9C00 < tag < 0xA000 else secret.decode()
    RGB.save(tmp_path / "a.tif", exif=exif)
    with Image.open(tmp_path / "a.tif") as source:
        assert 0x935C in source.getexif()
    clean, whole = (encode(read_own_photo(tmp_path / "a.tif", metadata=policy), format) for policy in ("clean", "all"))
    for data in (clean, whole):
        assert RGB.tobytes()[:500] not in data
        with Image.open(io.BytesIO(data)) as back:
            assert 0x935C not in back.getexif()
            assert back.getexif()[ExifTags.Base.Make] == "Maker"
    assert secret not in clean
    with Image.open(io.BytesIO(clean)) as back:
        assert set(back.getexif()) <= {0x010F, 0x0132, 0x8769, 0x011A, 0x011B, 0x0128}
    assert secret in whole
    details = Image.Exif()
    named = {0xA437: secret.decode(), 0xA438: secret.decode(), 0x9286: secret, 0x829A: 0.01}
    details.get_ifd(ExifTags.IFD.Exif).update(named)
    RGB.save(tmp_path / "a.jpg", exif=details.tobytes())
    data = encode(read_own_photo(tmp_path / "a.jpg"), format)
    assert secret not in data
    with Image.open(io.BytesIO(data)) as back:
        assert back.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] == pytest.approx(0.01)


def test_masks_are_read_as_they_are_drawn(tmp_path: Path) -> None:
    RGB.save(tmp_path / "a.png")
    (tmp_path / "a_mask.json").write_text("{}")
    place = tmp_path / "a_mask.png"
    strokes = np.zeros((20, 30), dtype=np.uint8)
    strokes[:, :6] = 255
    white = Image.new("RGB", (30, 20), "white")
    white.putalpha(Image.fromarray(strokes))
    deep = np.where(strokes > 0, 60000, 2000).astype(np.uint16)  # 3 % is dark
    opaque = Image.fromarray(strokes).convert("RGBA")
    for mask in (white, opaque, Image.fromarray(strokes), Image.fromarray(deep)):
        mask.save(place)
        found = read_own_photo(tmp_path / "a.png", mask=True).mask
        assert found is not None
        assert np.array_equal(found.numpy(), strokes > 0), mask.mode


def gray_profile(gamma: float) -> bytes:
    """A profile of gray tones, written by hand: version 2, one curve."""

    def tag(kind: bytes, data: bytes) -> bytes:
        return (kind + bytes(4) + data).ljust((8 + len(data) + 3) // 4 * 4, b"\0")

    white = struct.pack(">3i", 63190, 65536, 54061)
    parts = {
        b"wtpt": tag(b"XYZ ", white),
        b"kTRC": tag(b"curv", struct.pack(">IH", 1, round(256 * gamma))),
        b"desc": tag(b"desc", struct.pack(">I", 5) + b"gray\0" + bytes(79)),
        b"cprt": tag(b"text", b"none\0"),
    }
    place, table, body = 128 + 4 + 12 * len(parts), struct.pack(">I", len(parts)), b""
    for name, data in parts.items():
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", place + len(body), b"none", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + white
    return head.ljust(128, b"\0") + table + body


def test_gray_photos_are_seen_as_trainers_see_them(tmp_path: Path) -> None:
    path = tmp_path / "gray.png"
    RGB.convert("L").resize((64, 48)).save(path, icc_profile=gray_profile(1.8))
    photo = read_own_photo(path)
    assert photo.pixels.shape[0] == 1
    assert photo.srgb is not None
    seen = levels_of(read_photo(path).image)
    assert float((seen.int() - photo.pixels.int()).abs().float().mean()) > 5, "the profile means other tones"
    assert int((seen.int() - photo.srgb.int()).abs().max()) <= 1
    for format in ("png", "jpeg"):
        (tmp_path / f"again.{format}").write_bytes(encode(photo, format, quality=100))
        again = levels_of(read_photo(tmp_path / f"again.{format}").image)
        assert float((again.int() - seen.int()).abs().float().mean()) < 1
    with pytest.raises(PhotoError, match="gray with a profile of its own.*choose --format png"):
        encode(photo, "webp")


def test_jpeg_holds_no_transparency(tmp_path: Path) -> None:
    with_alpha(RGB).save(tmp_path / "a.png")
    with pytest.raises(PhotoError, match="transparent in places.*png or webp"):
        encode(read_own_photo(tmp_path / "a.png"), "jpeg")


def test_hostile_files_are_named(tmp_path: Path) -> None:
    cases = {
        "empty.png": (b"", "is empty"),
        "text.jpg": (b"hello, not a picture", "is not an image"),
        "cut.png": (encode_png()[:300], "damaged or cut off|is not an image"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PhotoError, match=message):
            read_own_photo(tmp_path / name)
    RGB.save(tmp_path / "moving.gif", save_all=True, append_images=[RGB.rotate(90, expand=False)])
    with pytest.raises(PhotoError, match="holds 2 frames or pages"):
        read_own_photo(tmp_path / "moving.gif")
    RGB.save(tmp_path / "pages.tiff", save_all=True, append_images=[RGB.rotate(90)])
    with pytest.raises(PhotoError, match="holds 2 frames or pages"):
        read_own_photo(tmp_path / "pages.tiff")
    Image.new("1", (20000, 6000)).save(tmp_path / "vast.png")
    with pytest.raises(PhotoError, match="20000 x 6000 pixels.*expected at most 100 megapixels"):
        read_own_photo(tmp_path / "vast.png")
    with pytest.raises(PhotoError, match="cannot be read"):
        read_own_photo(tmp_path / "missing.png")


def encode_png() -> bytes:
    buffer = io.BytesIO()
    RGB.save(buffer, format="PNG")
    return buffer.getvalue()


def test_names_do_not_collide() -> None:
    paths = [Path("a/x.jpg"), Path("a/X.png"), Path("a/y.v2.jpg")]
    assert list(output_names(paths, "png").values()) == ["x.jpg.png", "X.png.png", "y.v2.png"]
    cases = [Path("a/A.jpg"), Path("a/a.jpg"), Path("a/a.JPG")]
    assert list(output_names(cases, "png").values()) == ["A.jpg.png", "a.jpg-2.png", "a.JPG-3.png"]
    assert output_names(paths[:1], "webp") == {paths[0]: "x.webp"}
    with pytest.raises(UsageError, match="would both become x.jpg.png"):
        output_names([Path("a/x.jpg"), Path("b/x.jpg")], "png")
