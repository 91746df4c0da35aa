"""One HTML file in which a GLB is turned: the object is inside, nothing is fetched, no library is needed."""

import base64
import html
from importlib import resources
from pathlib import Path
from string import Template

from pcs_ext.config_io import atomic_write_text
from pcs_ext.errors import InputError


def write_viewer(model: Path, output: Path, *, title: str = "") -> None:
    """Write a page in which one turns an object. The GLB's own bytes are put in.

    `#azimuth=90&elevation=0&zoom=1&turn=1` behind the page's address chooses how it is seen first. Colours and a base
    colour texture are shown; other maps (`3d texture` writes one) and transforms of nodes (no command does) are not.

    Args:
        model: the GLB.
        output: the HTML file.
        title: for the browser's tab and for screen readers; the file's name when empty.

    Raises:
        InputError: the file is no GLB.
    """
    try:
        content = model.read_bytes()
    except OSError as error:
        raise InputError(f"{model} cannot be read ({error}); expected a GLB.") from None
    if content[:4] != b"glTF":
        raise InputError(f"{model} is no GLB; expected the file that `3d make` or `3d export` wrote.")
    template = Template(resources.files("pcs_ext.threed").joinpath("viewer.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=html.escape(title or model.stem, quote=True), model=base64.b64encode(content).decode()
    )
    atomic_write_text(output, page)
