"""What all pages that this suite writes share: their style and pictures inside the page. Nothing asks for a network."""

from importlib import resources


def style() -> str:
    """The common style sheet: type, colours in light and dark, panels, tables, notes."""
    return resources.files("pcs_ext.page").joinpath("style.css").read_text(encoding="utf-8")
