"""Scenes as SVG files: changes are patched into the document they came from, or a new document is written."""

import copy
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.errors import UsageError
from pcs_ext.svg.vector.geometry import GEOMETRY, IDENTITY, Matrix, inverse, path_data
from pcs_ext.svg.vector.placement import scale_of
from pcs_ext.svg.vector.read import Document
from pcs_ext.svg.vector.scene import Paint, Path, Scene, Stroke
from pcs_ext.svg.vector.style import INITIAL, StyleSheet, pairs, ruled, without_important
from pcs_ext.svg.vector.transforms import read_transform

_NAMESPACE = "http://www.w3.org/2000/svg"
_UNDRAWN = (
    "defs", "title", "desc", "metadata", "style", "script", "namedview", "symbol", "marker", "linearGradient",
    "radialGradient", "pattern", "clipPath", "mask", "filter", "view",
)  # fmt: skip
_FREE = ("display", "opacity", "transform", "mix-blend-mode", "filter", "mask", "clip-path")
"""Properties that a style sheet's rule for a tag could give to new elements."""
_OF_EDITORS = ("{http://sodipodi.sourceforge.net/DTD/sodipodi-0.dtd}", "{http://www.inkscape.org/namespaces/inkscape}")
"""Attributes from which Inkscape draws a star, an arc or a path effect anew, whatever the path says."""
_LIVE = ("original-d", "path-effect", "flatsided", "rounded", "randomized", "connector-curvature")


def patch_svg(document: Document, scene: Scene, *, added: Sequence[Path] = (), beneath: Sequence[Path] = ()) -> bytes:
    """The document with the changes of `scene`: elements that did not change stay as they are, and so do ids, classes,
    groups, order, metadata and everything that is not drawn. Paths absent from `scene` are removed.

    A path cannot cover more than the property `opacity` of its element and groups lets it: what is above is cut.

    Args:
        document: as read.
        scene: with paths of the document only, in its order.
        added: new paths, written into a group of their own (`added`) on top of everything.
        beneath: new paths, written into a group of their own (`added-beneath`) under everything.

    Raises:
        UsageError: a path that is new, or a change of one that is drawn through `use`.
    """
    tree = copy.deepcopy(document.tree)
    twins = dict(zip(document.tree.getroot().iter(), tree.getroot().iter(), strict=True))
    root = tree.getroot()
    before = {path.id: path for path in document.scene.paths}
    after = {path.id: path for path in scene.paths}
    if new := [name for name in after if name not in before]:
        raise UsageError(f"{new[0]} is not a path of the document; write new scenes with new_svg().")
    if [name for name in before if name in after] != list(after):
        raise UsageError("The paths come in another order than in the document; keep its order.")
    for name, old in before.items():
        element, transform = document.elements[name]
        if (name not in after or _changed(old, after[name])) and old.locked:
            raise UsageError(f"{name} is drawn through <use> and shares its shape; unlink the clone first.")
        if name not in after:
            twins[element].getparent().remove(twins[element])
        elif _changed(old, after[name]):
            _patch(twins[element], old, after[name], transform, document.opacities[name], document.sheet)
    if added:
        _add(root, added, "added", len(root), document)
    if beneath:
        _add(root, beneath, "added-beneath", _lowest(root), document)
    return _bytes(tree)


def _lowest(root: Any) -> int:
    """Where among the root's children the first one is that may draw something."""
    for place, child in enumerate(root):
        if isinstance(child.tag, str) and child.tag.rpartition("}")[2] not in _UNDRAWN:
            return place
    return len(root)


def _add(root: Any, added: Sequence[Path], name: str, place: int, document: Document) -> None:
    """Put paths into a group at a place among the root's children, painted as they are whatever the root hands down."""
    import lxml.etree as etree

    space = root.tag.rpartition("}")[0]
    prefix = f"{space}}}" if space else ""
    taken = {element.get("id") for element in root.iter()}
    while name in taken:
        name += "_"
    group = etree.SubElement(root, f"{prefix}g", id=name)
    root.insert(place, group)
    mark = " !important" if document.sheet.insists else ""
    back, scale = inverse(document.transform), scale_of(document.transform)
    if back is None:
        raise UsageError("the document's root has a transform that flattens it; remove the transform first.")
    for path in added:
        element = etree.SubElement(group, f"{prefix}path", id=path.id, d=path_data(path.subpaths, back))
        _paint_whole(element, path, document.opacity, scale, mark)
        for name in ("stroke-dasharray", "marker-start", "marker-mid", "marker-end", "filter", "mask", "clip-path"):
            _set(element, name, f"none{mark}")
        for name, value in (("opacity", "1"), ("paint-order", "normal"), ("visibility", "visible")):
            _set(element, name, f"{value}{mark}")
    for element in (group, *group) if document.sheet.by_tag else ():
        for name in _FREE:
            _set(element, name, f"{INITIAL[name]}{mark}")


def _paint_whole(element: Any, path: Path, around: float, scale: float, mark: str) -> None:
    """Every property of a path's paint. `scale`: user units per unit of the element."""
    _paint_over(element, "fill", path.fill, around, mark)
    _set(element, "fill-rule", f"{path.rule}{mark}")
    _paint_over(element, "stroke", path.stroke and path.stroke.paint, around, mark)
    if path.stroke is not None:
        _set(element, "stroke-width", f"{float(path.stroke.width.detach()) / scale:.6g}{mark}")
        _set_ends(element, path.stroke, mark)


def _set_ends(element: Any, stroke: Stroke, mark: str) -> None:
    _set(element, "stroke-linecap", f"{stroke.cap}{mark}")
    _set(element, "stroke-linejoin", f"{stroke.join}{mark}")
    _set(element, "stroke-miterlimit", f"{stroke.miter_limit:g}{mark}")


def new_svg(scene: Scene) -> bytes:
    """A document of its own for a scene; nested groups are not written."""
    import lxml.etree as etree

    root = etree.Element("svg", nsmap={None: _NAMESPACE})
    root.set("viewBox", " ".join(f"{value:.12g}" for value in scene.view_box))
    root.set("width", f"{scene.size[0]:g}")
    root.set("height", f"{scene.size[1]:g}")
    for path in scene.paths:
        _fill_in(etree.SubElement(root, "path"), path)
    return _bytes(etree.ElementTree(root))


def _fill_in(element: Any, path: Path) -> None:
    element.set("id", path.id)
    element.set("d", path_data(path.subpaths))
    if path.rule == "evenodd":
        element.set("fill-rule", "evenodd")
    _set_paint(element, "fill", path.fill)
    if path.stroke is not None:
        _set_paint(element, "stroke", path.stroke.paint)
        element.set("stroke-width", f"{float(path.stroke.width.detach()):.6g}")
        element.set("stroke-linecap", path.stroke.cap)
        element.set("stroke-linejoin", path.stroke.join)
        element.set("stroke-miterlimit", f"{path.stroke.miter_limit:g}")


def write_svg(path: FilePath, data: bytes) -> None:
    """Put a document on disk; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, data)


def _bytes(tree: Any) -> bytes:
    import lxml.etree as etree

    return etree.tostring(tree, xml_declaration=True, encoding="UTF-8")


def _patch(element: Any, old: Path, new: Path, transform: Matrix, around: float, sheet: StyleSheet) -> None:
    """`around`: what the property `opacity` of the element and its groups leaves of it."""
    mark = " !important" if sheet.insists else ""
    a, b, c, d = transform[:4]
    scale = max(abs(a * d - b * c) ** 0.5, 1e-12)
    if _moved(old, new):
        was = element.tag
        _reshape(element, new, transform)
        if sheet.by_tag and element.tag != was:
            if not _painted_by_reference(element):
                _paint_whole(element, old, around, scale, mark)
            _keep_rules(element, was.rpartition("}")[2], sheet, mark)
    if _repainted(old.fill, new.fill):
        _paint_over(element, "fill", new.fill, around, mark)
    if old.rule != new.rule:
        _set(element, "fill-rule", f"{new.rule}{mark}")
    old_stroke, new_stroke = old.stroke, new.stroke
    if _repainted(old_stroke and old_stroke.paint, new_stroke and new_stroke.paint):
        _paint_over(element, "stroke", new_stroke and new_stroke.paint, around, mark)
    if new_stroke and (old_stroke is None or not _same(old_stroke.width, new_stroke.width)):
        _set(element, "stroke-width", f"{float(new_stroke.width.detach()) / scale:.6g}{mark}")
    if new_stroke and (old_stroke is None or _ends(old_stroke) != _ends(new_stroke)):
        _set_ends(element, new_stroke, mark)


def _reshape(element: Any, new: Path, transform: Matrix) -> None:
    """Turn an element into a path of another shape."""
    back = inverse(transform)
    if back is None:
        raise UsageError(f"{new.id} has a transform that flattens it; remove the transform first.")
    element.tag = element.tag.replace(element.tag.rpartition("}")[2], "path")
    for name in GEOMETRY:
        element.attrib.pop(name, None)
    for name in list(element.attrib):
        space, _, local = name.rpartition("}")
        if f"{space}}}" in _OF_EDITORS and (f"{space}}}" == _OF_EDITORS[0] or local in _LIVE):
            del element.attrib[name]
    element.set("d", path_data(new.subpaths, back))


def _keep_rules(element: Any, was: str, sheet: StyleSheet, mark: str) -> None:
    """Give an element that became a path what style sheets said of its former tag, and not what they say of paths."""
    before, after = (ruled(tag, element.attrib, sheet) for tag in (was, "path"))
    for name in sorted(before.keys() | after.keys()):
        if name not in INITIAL or before.get(name) == after.get(name):
            continue
        if name in before:
            _set(element, name, f"{without_important(before[name])}{mark}")
        elif name == "transform":
            matrix = read_transform(element.get(name, "")) or IDENTITY
            _set(element, name, f"matrix({','.join(f'{value:.9g}' for value in matrix)}){mark}")
        else:
            _set(element, name, f"{element.get(name) or 'unset'}{mark}")


def _painted_by_reference(element: Any) -> bool:
    """Whether a gradient or pattern paints it, which a scene knows as a flat colour only."""
    return any("url(" in element.get(name, "") for name in ("style", "fill", "stroke"))


def _ends(stroke: Stroke) -> tuple[str, str, float]:
    return stroke.cap, stroke.join, stroke.miter_limit


def _paint_over(element: Any, kind: str, new: Paint | None, around: float, mark: str) -> None:
    if new is None:
        _set(element, kind, f"none{mark}")
        return
    _set(element, kind, f"{_hex(new.color)}{mark}")
    # Always: the colour that goes may have had an alpha of its own, and the opacity may be inherited or come from a
    # style sheet. The scene's opacity holds `around`, which stays.
    value = float(new.opacity.detach()) / around if around > 0 else 1.0
    _set(element, f"{kind}-opacity", f"{min(max(value, 0.0), 1.0):.5g}{mark}")


def _set(element: Any, name: str, value: str) -> None:
    """As a style declaration: it wins over attributes and over style sheets that do not insist."""
    others = [(key, text) for key, text in pairs(element.get("style", "")) if key != name]
    element.set("style", ";".join(f"{key}:{text}" for key, text in (*others, (name, value))))


def _set_paint(element: Any, kind: str, found: Paint | None) -> None:
    element.set(kind, "none" if found is None else _hex(found.color))
    if found is not None and float(found.opacity.detach()) < 1:
        element.set(f"{kind}-opacity", f"{max(float(found.opacity.detach()), 0.0):.5g}")


def _hex(color: Tensor) -> str:
    levels = (color.detach().double().cpu().clamp(0, 1) * 255).round().int().tolist()
    return "#" + "".join(f"{level:02x}" for level in levels)


def _changed(old: Path, new: Path) -> bool:
    if old is new:
        return False
    strokes = [stroke for stroke in (old.stroke, new.stroke) if stroke]
    return (
        _moved(old, new)
        or old.rule != new.rule
        or _repainted(old.fill, new.fill)
        or _repainted(*(stroke and stroke.paint for stroke in (old.stroke, new.stroke)))
        or (len(strokes) == 2 and (_ends(strokes[0]) != _ends(strokes[1]) or not _same(*(s.width for s in strokes))))
    )


def _moved(old: Path, new: Path) -> bool:
    if len(old.subpaths) != len(new.subpaths):
        return True
    pairs = zip(old.subpaths, new.subpaths, strict=True)
    return any(a.closed != b.closed or not _same(a.points, b.points) for a, b in pairs)


def _repainted(old: Paint | None, new: Paint | None) -> bool:
    if old is None or new is None:
        return old is not new
    return not (_same(old.color, new.color) and _same(old.opacity, new.opacity))


def _same(a: Tensor, b: Tensor) -> bool:
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-7, atol=1e-7))
