"""The XML of an SVG file: parsed without fetching or expanding anything."""

from typing import Any

from pcs_ext.errors import InputError, UsageError

MAX_BYTES = 16 << 20
_MAX_ATTRIBUTES = 200
_SPACE = "{http://www.w3.org/2000/svg"


def parse_tree(data: bytes) -> Any:
    """The lxml tree of an SVG document.

    Raises:
        InputError: too large, compressed, not well-formed, with entities, or of another kind.
        UsageError: the parser is not installed.
    """
    try:
        import lxml.etree as etree
    except ImportError:
        raise UsageError("Reading SVG needs lxml and svgelements; run: pip install lxml svgelements") from None
    if data[:2] == b"\x1f\x8b":
        raise InputError("compressed (svgz); unpack it first (gunzip).")
    if len(data) > MAX_BYTES:
        raise InputError(f"more than {MAX_BYTES >> 20} MB; simplify it.")
    if b"<!ENTITY" in data or b"<\x00!\x00E\x00N\x00T" in data or b"\x00<\x00!\x00E\x00N\x00T" in data:
        raise InputError("declares entities, which can expand without end or read files; save it as plain SVG.")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        tree = etree.ElementTree(etree.fromstring(data, parser))
    except (etree.XMLSyntaxError, ValueError) as error:
        raise InputError(f"not well-formed XML ({error}); export it again.") from None
    dtd = tree.docinfo.internalDTD
    if dtd is not None and any(True for _ in dtd.iterentities()):
        raise InputError("declares entities, which can expand without end or read files; save it as plain SVG.")
    if tag_of(tree.getroot()) != "svg":
        raise InputError(f"its root is <{tag_of(tree.getroot())}>; expected <svg>.")
    # lxml takes quadratic time to list many.
    if any(len(element.attrib) > _MAX_ATTRIBUTES for element in tree.iter()):
        raise InputError(f"an element with more than {_MAX_ATTRIBUTES} attributes; simplify it.")
    return tree


def tag_of(element: Any) -> str:
    """Name of an element of SVG, "" of others and of comments."""
    space, _, name = element.tag.rpartition("}") if isinstance(element.tag, str) else ("", "", "")
    return name if space in ("", _SPACE) else ""
