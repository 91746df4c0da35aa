"""One HTML file that shows a panorama: the picture is inside, nothing is fetched, no library is needed."""

import base64
import html
from importlib import resources
from pathlib import Path
from string import Template

from PIL import Image

from pcs_ext.config_io import atomic_write_text
from pcs_ext.errors import InputError, UsageError

_KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


def check_page(output: Path) -> None:
    """See that a name is one of a page.

    Raises:
        UsageError: it is not called .html, or a folder.
    """
    if output.suffix.lower() not in (".html", ".htm") or output.is_dir():
        raise UsageError(f"The page is {output}; expected a file name that ends in .html.")


def write_viewer(panorama: Path, output: Path, *, title: str = "", fov: float = 80.0) -> None:
    """Write a page in which one looks around. The panorama's own bytes are put in: nothing is encoded again.

    `#azimuth=90&elevation=0&fov=80` behind the page's address chooses where it looks at first.

    Args:
        panorama: JPEG, PNG or WebP, twice as wide as high.
        output: the HTML file.
        title: for the browser's tab and for screen readers; the file's name when empty.
        fov: degrees across that are seen at first, 25 to 120; small pictures look better from wider.

    Raises:
        UsageError: the output is not called .html, or a folder.
        InputError: the file cannot be read, is of another format, or not twice as wide as high.
    """
    check_page(output)
    try:
        with Image.open(panorama) as image:
            size, kind = image.size, _KINDS.get(image.format or "")
        content = panorama.read_bytes()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{panorama} cannot be read as a picture ({error}); expected JPEG, PNG or WebP.") from None
    if kind is None:
        raise InputError(f"{panorama} is of a format that not every browser shows; expected JPEG, PNG or WebP.")
    if size[0] != 2 * size[1]:
        raise InputError(f"{panorama} has {size[0]} x {size[1]} pixels; a whole panorama is twice as wide as high.")
    template = Template(resources.files("pcs_ext.svg.panorama").joinpath("viewer.html").read_text(encoding="utf-8"))
    page = template.safe_substitute(
        title=html.escape(title or panorama.stem, quote=True),
        fov=f"{fov:g}",
        picture=f"data:{kind};base64,{base64.b64encode(content).decode()}",
    )
    atomic_write_text(output, page)
