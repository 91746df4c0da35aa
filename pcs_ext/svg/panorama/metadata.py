"""Marks by which viewers know a 360 degree photo: Google's GPano XMP properties, all that its table requires."""

import io
from pathlib import Path
from xml.sax.saxutils import quoteattr

import lxml.etree as etree
from PIL import Image, PngImagePlugin

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.errors import InputError, UsageError

NAMESPACE = "http://ns.google.com/photos/1.0/panorama/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_PNG_KEY = "XML:com.adobe.xmp"
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
JPEG_QUALITY = 95


def properties(width: int, height: int, *, heading: float = 0.0) -> dict[str, str]:
    """The GPano properties of a whole panorama of `width * height` pixels whose middle looks to `heading` degrees."""
    return {
        "ProjectionType": "equirectangular",
        "UsePanoramaViewer": "True",
        "PoseHeadingDegrees": f"{round(heading % 360, 3) % 360:g}",
        "CroppedAreaImageWidthPixels": str(width),
        "CroppedAreaImageHeightPixels": str(height),
        "FullPanoWidthPixels": str(width),
        "FullPanoHeightPixels": str(height),
        "CroppedAreaLeftPixels": "0",
        "CroppedAreaTopPixels": "0",
    }


def packet(values: dict[str, str]) -> bytes:
    """An XMP packet with the properties as attributes of one description, which most readers understand."""
    attributes = " ".join(f"GPano:{name}={quoteattr(value)}" for name, value in values.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{_RDF}"><rdf:Description rdf:about="" xmlns:GPano="{NAMESPACE}" {attributes}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def check_target(path: Path) -> None:
    """Say before the work that a panorama cannot be written to `path`.

    Raises:
        UsageError: its ending is not that of a format with room for the marks, or it is a folder.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; expected the name of a file.")
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"{path.name} has no ending of a panorama; expected one of {', '.join(_FORMATS)}.")


def save_panorama(image: Image.Image, path: Path, *, heading: float = 0.0) -> None:
    """Write a panorama that viewers recognise: JPEG, PNG or lossless WebP, by the ending of `path`.

    Raises:
        UsageError: another ending, a picture that is not twice as wide as high, or a transparent one as JPEG.
    """
    check_target(path)
    width, height = image.size
    if width != 2 * height:
        raise UsageError(f"an equirectangular panorama is twice as wide as high, got {width} x {height} pixels.")
    image = _writable(image, path)
    marks, kind, buffer = (
        packet(properties(width, height, heading=heading)),
        _FORMATS[path.suffix.lower()],
        io.BytesIO(),
    )
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt(_PNG_KEY, marks.decode())
        image.save(buffer, "PNG", pnginfo=info)
    elif kind == "JPEG":
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, xmp=marks)
    else:
        image.save(buffer, "WEBP", lossless=True, xmp=marks)
    atomic_write_bytes(path, buffer.getvalue())


def _writable(image: Image.Image, path: Path) -> Image.Image:
    """In a mode that all of the formats hold."""
    transparent = "A" in image.getbands() or "transparency" in image.info
    if transparent and _FORMATS[path.suffix.lower()] == "JPEG":
        raise UsageError(f"{path} cannot be JPEG: the picture has transparent parts; choose .png or .webp.")
    return image if image.mode in ("RGB", "RGBA", "L") else image.convert("RGBA" if transparent else "RGB")


def read_properties(path: Path) -> dict[str, str]:
    """The GPano properties of a file, written as attributes or as elements; empty when there are none to be read.

    Raises:
        InputError: the file is no picture.
    """
    try:
        with Image.open(path) as image:
            image.load()
            found = image.info.get("xmp") or image.info.get(_PNG_KEY) or b""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture ({error}); expected JPEG, PNG or WebP.") from None
    text = found.encode() if isinstance(found, str) else found
    # No entity of a stranger's file is resolved, nothing is fetched.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True)
    try:
        root = etree.fromstring(text, parser)
    except etree.XMLSyntaxError:
        root = None
    if root is None:
        return {}
    values: dict[str, str] = {}
    for node in root.iter(f"{{{_RDF}}}Description"):
        pairs = [*node.attrib.items(), *((child.tag, child.text or "") for child in node)]
        values |= {
            str(key).removeprefix(f"{{{NAMESPACE}}}"): str(value)
            for key, value in pairs
            if str(key).startswith(f"{{{NAMESPACE}}}")
        }
    return values
