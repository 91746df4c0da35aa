"""Which of a photo's metadata go into the protected file."""

from typing import Literal

from PIL import ExifTags, Image

MetadataPolicy = Literal["clean", "all", "none"]
"""clean: dates, camera and exposure stay; places, serial numbers, owner, maker notes and thumbnails go. all: keep what
the picture library can carry. none: nothing but the colour profile."""

_ORIENTATION = 0x0112
_POINTERS = {0x8769, 0x8825, 0xA005}
"""Exif, GPS and interoperability directories: written through `get_ifd`, never as numbers."""
_IDENTIFYING = {
    0x013C,  # HostComputer
    0x927C,  # MakerNote: holds serial numbers in makers' own formats
    0x9286,  # UserComment
    0xA420,  # ImageUniqueID
    0xA430,  # CameraOwnerName
    0xA431,  # BodySerialNumber
    0xA435,  # LensSerialNumber
    0xC62F,  # CameraSerialNumber (DNG)
    0xC634,  # DNGPrivateData
    0xC65D,  # RawDataUniqueID
}
_BULKY = {0x02BC, 0x83BB, 0x8649, 0x8773, 0x0111, 0x0117, 0x0144, 0x0145, 0x014A}
"""XMP, IPTC, Photoshop blocks, profiles and strip tables of TIFF: they belong to the file that was read."""
_LAYOUT = {0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0115, 0x0116, 0x011C, 0x0140, 0x0142, 0x0143, 0x0152, 0x0153}
"""Size, depth, compression and the like: true of the file that was read, not of the one to be written."""


def exif_bytes(image: Image.Image, policy: MetadataPolicy) -> bytes:
    """The EXIF block for the protected file of `image`; empty when nothing is left. The orientation is never copied,
    because the pixels are written upright; embedded thumbnails, which would show the unprotected photo, never either.
    """
    if policy == "none":
        return b""
    source = image.getexif()
    kept = Image.Exif()
    dropped = {_ORIENTATION} | _POINTERS | _BULKY | _LAYOUT | (_IDENTIFYING if policy == "clean" else set())
    for tag, value in source.items():
        if tag not in dropped:
            kept[tag] = value
    details = {tag: value for tag, value in source.get_ifd(ExifTags.IFD.Exif).items() if tag not in dropped}
    if details:
        kept.get_ifd(ExifTags.IFD.Exif).update(details)
    if policy == "all" and source.get_ifd(ExifTags.IFD.GPSInfo):
        kept.get_ifd(ExifTags.IFD.GPSInfo).update(source.get_ifd(ExifTags.IFD.GPSInfo))
    return kept.tobytes() if len(kept) or details or policy == "all" else b""
