"""SVG files as scenes. Nothing is fetched or executed, size and nesting are bounded, what is not drawn is noted."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from typing import Any

import torch

from pcs_ext.errors import InputError
from pcs_ext.svg.vector.colors import Rgba, read_color
from pcs_ext.svg.vector.geometry import (
    GEOMETRY,
    IDENTITY,
    SHAPES,
    Matrix,
    count_segments,
    diagonal,
    drawable,
    multiply,
    read_length,
    read_subpaths,
    shape_data,
)
from pcs_ext.svg.vector.markup import MAX_BYTES, parse_tree, tag_of
from pcs_ext.svg.vector.scene import Paint, Path, Scene, Stroke, paint
from pcs_ext.svg.vector.style import INITIAL, UNSUPPORTED, StyleSheet, computed, number, ruled, unit
from pcs_ext.svg.vector.transforms import read_transform

MAX_SEGMENTS = 30_000
MAX_PATHS = 3_000
MAX_ELEMENTS = 30_000
_MAX_DEPTH = 48
_MAX_TEXT = 16 << 20
_ANIMATIONS = ("animate", "animateMotion", "animateTransform", "set")
_HREF = ("href", "{http://www.w3.org/1999/xlink}href")
_SILENT = ("defs", "title", "desc", "metadata", "style", "linearGradient", "radialGradient", "symbol", "namedview")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Document:
    """A file that was read: its scene, and what is needed to write it back."""

    scene: Scene
    notes: tuple[str, ...]
    """What the scene does not show as the file asks, each kind once, with its count."""
    tree: Any
    """The lxml tree; never changed."""
    elements: dict[str, tuple[Any, Matrix]]
    """Path id -> element of the tree and transform to user units of the picture."""
    opacities: dict[str, float]
    """Path id -> product of the property `opacity` of its element and of those around it, in [0, 1]."""
    sheet: StyleSheet
    """Of the document."""
    transform: Matrix
    """Of the document's root; identity in most."""
    opacity: float
    """Of the document's root, in [0, 1]."""


def read_svg(path: FilePath) -> Document:
    """Read an SVG file.

    Raises:
        InputError: missing, too large, not SVG, with entities, nested or long beyond the limits; says what to do.
        UsageError: the reader's packages are not installed.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file; expected an SVG.")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} has {path.stat().st_size >> 20} MB; expected at most {MAX_BYTES >> 20}. Simplify it.")
    return parse_svg(path.read_bytes(), name=str(path))


def parse_svg(data: bytes, *, name: str = "the SVG") -> Document:
    """The same for bytes; `name` is used in messages."""
    try:
        return _Reader(parse_tree(data)).read()
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


class _Reader:
    def __init__(self, tree: Any) -> None:
        self.tree, self.root = tree, tree.getroot()
        self.noted: Counter[str] = Counter()
        self.paths: list[Path] = []
        self.elements: dict[str, tuple[Any, Matrix]] = {}
        self.opacities: dict[str, float] = {}
        self.segments = self.visited = self.text = 0
        self.by_id: dict[str, Any] = {}
        self.gradients: dict[str, Rgba | None] = {}
        self.animated: set[Any] = set()
        styles, hrefs = [], set()
        for element in self.root.iter():
            self.by_id.setdefault(element.get("id") or "", element)
            hrefs.add(_href(element))
            if tag_of(element) in _ANIMATIONS:
                self.animated.add(element.getparent())
            if tag_of(element) == "style" and element.get("media", "all").strip().lower() in ("", "all", "screen"):
                styles.append("".join((element.text or "", *(child.tail or "" for child in element))))
        self.by_id.pop("", None)
        # Changing what is drawn in several places would change all of them.
        used = {self.by_id[href[1:]] for href in hrefs if href[:1] == "#" and href[1:] in self.by_id}
        self.shared: set[Any] = set()
        for element in self.root.iter():
            if element in used and element not in self.shared:
                self.shared.update(element.iter())
        self.sheet = StyleSheet("\n".join(styles), self.note)

    def note(self, text: str) -> None:
        self.noted[text] += 1

    def read(self) -> Document:
        view_box, size = self._frame()
        style = computed(INITIAL, "svg", self.root.attrib, self.sheet)
        own = self._noted(self.root, "svg", style)
        if {"background", "background-color"} & ruled("svg", self.root.attrib, self.sheet).keys():
            self.note("the background of <svg> is not drawn")
        transform = self._transform(style)
        if style["display"] == "none":
            self.note("nothing is drawn: <svg> itself has display: none")
        else:
            self._children(self.root, transform, style, own, (), (), False)
        notes = tuple(text if count == 1 else f"{text} ({count} times)" for text, count in self.noted.items())
        scene = Scene(view_box=view_box, size=size, paths=tuple(self.paths))
        return Document(
            scene=scene,
            notes=notes,
            tree=self.tree,
            elements=self.elements,
            opacities=self.opacities,
            sheet=self.sheet,
            transform=transform,
            opacity=own,
        )

    def _frame(self) -> tuple[tuple[float, float, float, float], tuple[float, float]]:
        box = self._view_box()
        sides = [self._side(side, len(box) == 4) for side in ("width", "height")]
        if len(box) != 4:
            if None in sides:
                raise InputError("has neither a viewBox nor a width and height; add viewBox='0 0 WIDTH HEIGHT'.")
            box = [0.0, 0.0, float(sides[0] or 0), float(sides[1] or 0)]
        ratio = box[2] / box[3] if box[3] > 0 else 0.0
        width = sides[0] or (sides[1] * ratio if sides[1] else box[2])
        height = sides[1] or (sides[0] / ratio if sides[0] and ratio else box[3])
        if min(box[2], box[3], width, height) <= 0:
            raise InputError("its picture is 0 wide or high; give viewBox, width and height above 0.")
        fitted = self.root.get("preserveAspectRatio", "").strip()
        if fitted not in ("", "xMidYMid", "xMidYMid meet") and abs(width / height - ratio) > 1e-6:
            self.note(
                f"preserveAspectRatio={fitted[:24]!r} not applied: the picture keeps its proportions, in the middle"
            )
        self.size = box[2], box[3]
        return (box[0], box[1], box[2], box[3]), (width, height)

    def _view_box(self) -> list[float]:
        """Its four numbers; none where browsers pass it over."""
        text = self.root.get("viewBox", "").strip()
        try:
            box = [number(word, "viewBox") for word in text.replace(",", " ").split()]
        except InputError:
            box = []
        if text and (len(box) != 4 or "%" in text or min(box[2:]) < 0):
            self.note(f"viewBox {text[:40]!r} is not four numbers and not applied")
            return []
        return box

    def _side(self, name: str, boxed: bool) -> float | None:
        """Width or height of the picture; None where only the viewBox says."""
        text = self.root.get(name, "100%").strip()
        if text.endswith("%") or text in ("", "auto"):
            return None
        try:
            return read_length(text, name)
        except InputError:
            if boxed:
                return None
            raise

    def _children(self, parent: Any, *state: Any) -> None:
        for element in parent:
            if isinstance(element.tag, str):
                self._element(element, *state)
            else:
                self.visited += 1

    def _element(
        self,
        element: Any,
        transform: Matrix,
        parent: Mapping[str, str],
        opacity: float,
        groups: tuple[str, ...],
        uses: tuple[Any, ...],
        locked: bool,
    ) -> None:
        self.visited += 1
        self.text += sum(map(len, element.attrib.values()))
        if self.text > _MAX_TEXT:
            raise InputError(f"more than {_MAX_TEXT >> 20} MB of attributes, with <use> written out; simplify it.")
        if self.visited > MAX_ELEMENTS or len(groups) + len(uses) > _MAX_DEPTH:
            raise InputError(
                f"more than {MAX_ELEMENTS} elements or {_MAX_DEPTH} levels, with <use> written out; simplify it."
            )
        tag = tag_of(element)
        if not tag or tag in _SILENT:
            return
        if tag not in (*SHAPES, "g", "a", "use", "svg"):
            self.note(f"<{tag[:40]}> is not drawn")
            return
        style = computed(parent, tag, element.attrib, self.sheet)
        if style["display"] == "none":
            return
        own = self._noted(element, tag, style)
        transform = multiply(transform, self._transform(style))
        state = (style, opacity * own)
        if tag in SHAPES:
            self._shape(element, tag, transform, *state, groups, locked)
        elif tag == "use":
            self._use(element, transform, *state, groups, uses)
        else:
            if tag == "svg":
                self.note("a nested <svg> is drawn without its own viewBox and clipping")
            self._children(element, transform, *state, (*groups, element.get("id", "")), uses, locked)

    def _noted(self, element: Any, tag: str, style: Mapping[str, str]) -> float:
        """Note what an element asks for in vain; returns its opacity."""
        for name in UNSUPPORTED:
            if style[name] not in ("none", "normal", ""):
                self.note(f"{name} is not applied")
        styled = tag in SHAPES and (self.sheet.rules or element.get("style"))
        if styled and set(GEOMETRY) & ruled(tag, element.attrib, self.sheet).keys():
            self.note("geometry in a style is not applied")
        if element.get("requiredExtensions") or element.get("systemLanguage"):
            self.note("requiredExtensions and systemLanguage are not asked for: the element is drawn")
        if element in self.animated:
            self.note("animation is not applied")
        own = self._number(style, "opacity", unit)
        if own < 1 and (tag not in SHAPES or style["stroke"] != "none"):
            self.note("opacity of a group, or of a fill with its stroke, is applied to each part by itself")
        return own

    def _number(self, style: Mapping[str, str], name: str, read: Callable[[str, str], float]) -> float:
        """A property's number; its initial one where that has to be computed by rules that are not read."""
        try:
            return read(style[name], name)
        except InputError:
            self.note(f"{name} {style[name][:40]!r} is not applied")
            return read(INITIAL[name], name)

    def _transform(self, style: Mapping[str, str]) -> Matrix:
        """Of an element, about its origin."""
        found = read_transform(style["transform"], self.size)
        if found is None:
            self.note(f"transform {style['transform'][:40]!r} is not applied")
            return IDENTITY
        words = style["transform-origin"].replace(",", " ").split()
        if found == IDENTITY or not words:
            return found
        try:
            x, y = (read_length(word, "transform-origin") for word in (*words, words[0])[:2])
        except InputError:
            self.note(f"transform-origin {' '.join(words)[:24]!r} is not applied")
            return found
        return multiply(multiply((1, 0, 0, 1, x, y), found), (1, 0, 0, 1, -x, -y))

    def _use(
        self, element: Any, transform: Matrix, style: dict[str, str], opacity: float, groups: Any, uses: tuple[Any, ...]
    ) -> None:
        href = _href(element)
        target = self.by_id.get(href[1:]) if href.startswith("#") else None
        if target is None:
            self.note("<use> of another file or of nothing is not drawn")
            return
        if target in uses or any(target is ancestor for ancestor in element.iterancestors()):
            raise InputError(f"<use> of {href[:40]!r} contains itself; remove the circle.")
        sides = zip(("x", "y"), self.size, strict=True)
        shift = (1.0, 0.0, 0.0, 1.0, *(read_length(element.get(name) or "0", name, side) for name, side in sides))
        transform, uses = multiply(transform, shift), (*uses, target)  # type: ignore[arg-type]
        if tag_of(target) == "symbol":
            self.note("a <symbol> is drawn without its own viewBox and clipping")
            style = computed(style, "symbol", target.attrib, self.sheet)
            if style["display"] == "none":
                return
            opacity *= self._noted(target, "symbol", style)
            self._children(target, transform, style, opacity, (*groups, element.get("id", "")), uses, True)
        else:
            self._element(target, transform, style, opacity, groups, uses, True)

    def _shape(
        self,
        element: Any,
        tag: str,
        transform: Matrix,
        style: dict[str, str],
        opacity: float,
        groups: Any,
        locked: bool,
    ) -> None:
        if style["visibility"] != "visible":
            return
        data = shape_data(tag, element.attrib, self.size)
        self.segments += count_segments(data)
        if self.segments > MAX_SEGMENTS:
            raise InputError(f"more than {MAX_SEGMENTS} path segments, with <use> written out; simplify it.")
        if len(self.paths) >= MAX_PATHS:
            raise InputError(f"more than {MAX_PATHS} paths, with <use> written out; simplify it.")
        drawn = drawable(data)
        if drawn != data and count_segments(drawn) > 1:
            data = drawn
            self.note("path data is drawn up to an error in it, as browsers do")
        subpaths = read_subpaths(data, transform)
        fill = self._paint(style, "fill", opacity)
        stroke = self._stroke(style, opacity, transform)
        if not subpaths or (fill is None and stroke is None):
            return
        identifier = self._unique(element.get("id"), f"{tag}-{len(self.paths) + 1}")
        locked = locked or element in self.shared
        rule = "evenodd" if style["fill-rule"] == "evenodd" else "nonzero"
        self.elements[identifier], self.opacities[identifier] = (element, transform), opacity
        named = tuple(group for group in groups if group)
        self.paths.append(
            Path(id=identifier, subpaths=subpaths, fill=fill, stroke=stroke, rule=rule, groups=named, locked=locked)
        )

    def _unique(self, own: str | None, wanted: str) -> str:
        """An element's own id or a name that no element of the file has, told apart from those before it."""
        wanted, name, count = own or wanted, own or wanted, 1
        while name in self.elements or (name in self.by_id and name != own):
            count += 1
            name = f"{wanted}~{count}"
        return name

    def _stroke(self, style: dict[str, str], opacity: float, transform: Matrix) -> Stroke | None:
        found = self._paint(style, "stroke", opacity)
        width = self._number(style, "stroke-width", lambda text, name: read_length(text, name, diagonal(self.size)))
        if found is None or width <= 0:
            return None
        a, b, c, d = transform[:4]
        scale = abs(a * d - b * c) ** 0.5
        if abs(a * c + b * d) + abs(a * a + b * b - c * c - d * d) > 1e-3 * scale * scale:
            self.note("a stroke under a stretching transform has the mean width everywhere")
        cap, join = style["stroke-linecap"], style["stroke-linejoin"]
        return Stroke(
            paint=found,
            width=torch.tensor(width * scale, dtype=torch.float64),
            cap=cap if cap in ("round", "square") else "butt",
            join=join if join in ("round", "bevel") else "miter",
            miter_limit=max(self._number(style, "stroke-miterlimit", number), 1.0),
        )

    def _paint(self, style: dict[str, str], kind: str, opacity: float) -> Paint | None:
        text = plain = style[kind]
        if text.lower() in ("none", "transparent"):
            return None
        color: Rgba | None = None
        if text.startswith("url("):
            reference, _, fallback = text[4:].partition(")")
            color, plain = self._gradient(reference.strip("'\" #")), fallback.strip()
        if color is None:
            color = read_color(style["color"] if plain.lower() == "currentcolor" else plain)
        if color is None:
            self.note(f"{kind} {text[:40]!r} cannot be drawn and is left out")
            return None
        alpha = color[3] * opacity * self._number(style, f"{kind}-opacity", unit)
        return paint(*color[:3], alpha)

    def _gradient(self, identifier: str) -> Rgba | None:
        """The mean of a gradient's stops."""
        if identifier not in self.gradients:
            self.gradients[identifier] = self._mean(identifier, 0)
        found = self.gradients[identifier]
        if found is not None:
            self.note("a gradient is drawn as the mean colour of its stops")
        return found

    def _mean(self, identifier: str, depth: int) -> Rgba | None:
        element = self.by_id.get(identifier)
        if element is None or tag_of(element) not in ("linearGradient", "radialGradient") or depth > 8:
            return None
        stops = []
        for stop in element:
            if isinstance(stop.tag, str) and tag_of(stop) == "stop":
                style = computed(INITIAL, "stop", stop.attrib, self.sheet)
                said = style["stop-color"]
                color = read_color(style["color"] if said.lower() == "currentcolor" else said)
                if color is not None:
                    stops.append((*color[:3], color[3] * self._number(style, "stop-opacity", unit)))
        if not stops:
            href = _href(element)
            return self._mean(href[1:], depth + 1) if href.startswith("#") else None
        mean = [sum(column) / len(stops) for column in zip(*stops, strict=True)]
        return mean[0], mean[1], mean[2], mean[3]


def _href(element: Any) -> str:
    return next((element.get(name) for name in _HREF if element.get(name)), "")
