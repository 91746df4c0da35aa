"""Which of a photo's metadata go into the protected file."""

from typing import Literal

from PIL import ExifTags, Image

MetadataPolicy = Literal["clean", "all", "none"]
"""clean: dates, camera, lens and exposure stay, and nothing else: no places, names, texts, serial numbers, maker notes.
all: every EXIF tag of up to 4 kB that is not about the file's own layout, places among them; XMP and IPTC never. none:
nothing but the colour profile. Previews, layers and thumbnails, which show the unprotected photo, always go."""

_POINTERS = {0x8769, 0x8825, 0xA005}
"""Exif, GPS and interoperability directories: written through `get_ifd`, never as numbers."""
_BULKY = {0x02BC, 0x83BB, 0x8649, 0x8773, 0x935C, 0x0111, 0x0117, 0x0144, 0x0145, 0x014A}
"""XMP, IPTC, Photoshop blocks and layers, profiles and strip tables of TIFF: they belong to the file that was read."""
_LAYOUT = {0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0112, 0x0115, 0x0116, 0x011C, 0x0140, 0x0142, 0x0143, 0x0152,
           0x0153}  # fmt: skip
"""Size, depth, orientation and the like: true of the file that was read, not of the one to be written."""
_LARGEST = 4096
"""Bytes of a value: larger ones (maker notes, private blocks) may hold a preview of the unprotected photo."""
_HARMLESS = {
    *(0x010F, 0x0110, 0x0132),  # make, model, date
    *(0x011A, 0x011B, 0x0128),  # resolution
    *(0x829A, 0x829D, 0x8822, 0x8827, 0x8830, 0x8831, 0x8832, 0x8833),  # exposure time, aperture, program, sensitivity
    *(0x9000, 0x9003, 0x9004, 0x9010, 0x9011, 0x9012, 0x9290, 0x9291, 0x9292),  # version, dates, their zones, fractions
    *(0x9201, 0x9202, 0x9203, 0x9204, 0x9205, 0x9206, 0x9207, 0x9208, 0x9209, 0x920A),  # exposure, flash, focal length
    *(0xA001, 0xA20E, 0xA20F, 0xA210, 0xA217, 0xA300, 0xA301, 0xA500),  # colour space, sensor, kind of source
    *(0xA401, 0xA402, 0xA403, 0xA404, 0xA405, 0xA406, 0xA407, 0xA408, 0xA409, 0xA40A, 0xA40C),  # modes, zoom, tones
    *(0xA432, 0xA433, 0xA434),  # lens
}
"""What `clean` keeps: of a list of what to drop, the next format's tag for names and places would be missing."""


def exif_bytes(image: Image.Image, policy: MetadataPolicy) -> bytes:
    """The EXIF block for the protected file of `image`; empty when nothing is left. The orientation is never copied,
    because the pixels are written upright.
    """
    if policy == "none":
        return b""
    source, kept = image.getexif(), Image.Exif()
    for tag, value in source.items():
        if _stays(tag, value, policy):
            kept[tag] = value
    details = {t: value for t, value in source.get_ifd(ExifTags.IFD.Exif).items() if _stays(t, value, policy)}
    if details:
        kept.get_ifd(ExifTags.IFD.Exif).update(details)
    if policy == "all" and source.get_ifd(ExifTags.IFD.GPSInfo):
        kept.get_ifd(ExifTags.IFD.GPSInfo).update(source.get_ifd(ExifTags.IFD.GPSInfo))
    return kept.tobytes() if len(kept) or details or policy == "all" else b""


def _stays(tag: int, value: object, policy: MetadataPolicy) -> bool:
    if tag in _POINTERS | _BULKY | _LAYOUT or (policy == "clean" and tag not in _HARMLESS):
        return False
    numbers = 8 if isinstance(value, (tuple, list)) else 1
    return not isinstance(value, (bytes, str, tuple, list)) or numbers * len(value) <= _LARGEST
