"""Path data and basic shapes of a file as cubics (parsed by svgelements), and back as path data."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from pcs_ext.errors import InputError
from pcs_ext.svg.vector.scene import Subpath

Matrix = tuple[float, float, float, float, float, float]
"""SVG's a b c d e f: x' = a x + c y + e, y' = b x + d y + f."""
IDENTITY: Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
SHAPES = ("path", "rect", "circle", "ellipse", "line", "polyline", "polygon")
GEOMETRY = ("d", "x", "y", "width", "height", "rx", "ry", "cx", "cy", "r", "x1", "y1", "x2", "y2", "points")
_ARITY = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}
_COMMAND = re.compile(r"([MmLlHhVvCcSsQqTtAaZz])([^MmLlHhVvCcSsQqTtAaZz]*)")
_BETWEEN = " \t\r\n\f,"
# One way to read each number: two would take quadratic time over long ones that fail.
NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
_ALONG = {
    "x": "x", "width": "x", "rx": "x", "cx": "x", "x1": "x", "x2": "x",
    "y": "y", "height": "y", "ry": "y", "cy": "y", "y1": "y", "y2": "y",
}  # fmt: skip
_LARGEST = 1e7
_CIRCLE = 4 / 3 * math.tan(math.pi / 8)


def multiply(outer: Matrix, inner: Matrix) -> Matrix:
    """The transform that applies `inner` first."""
    a, b, c, d, e, f = outer
    g, h, i, j, k, m = inner
    linear = (a * g + c * h, b * g + d * h, a * i + c * j, b * i + d * j)
    return (*linear, a * k + c * m + e, b * k + d * m + f)


def inverse(matrix: Matrix) -> Matrix | None:
    """The transform back, None where the plane collapses."""
    a, b, c, d, e, f = matrix
    area = a * d - b * c
    if not math.isfinite(area) or abs(area) < 1e-12:
        return None
    return (d / area, -b / area, -c / area, a / area, (c * f - d * e) / area, (b * e - a * f) / area)


def apply(matrix: Matrix, points: Tensor) -> Tensor:
    """Points `n 2` under a transform."""
    a, b, c, d, e, f = matrix
    linear = torch.tensor([[a, b], [c, d]], dtype=points.dtype, device=points.device)
    return points @ linear + torch.tensor([e, f], dtype=points.dtype, device=points.device)


def count_segments(data: str) -> int:
    """At least as many segments as `data` draws, found without parsing it."""
    total = 0
    for command, numbers in _COMMAND.findall(data):
        arity = _ARITY[command.upper()]
        # An arc becomes up to four cubics; its flags may be written without a space between them.
        places = len(NUMBER.findall(numbers))
        total += max(1, 4 * -(-places // 5) if arity == 7 else -(-places // max(arity, 1)))
    return total


def diagonal(size: tuple[float, float]) -> float:
    """What percentages of lengths that are neither wide nor high refer to (SVG 2, section 8.10)."""
    return math.hypot(*size) / 2**0.5


def shape_data(tag: str, attributes: Mapping[str, str], size: tuple[float, float] = (0.0, 0.0)) -> str:
    """Path data of a basic shape or path; empty where it draws nothing.

    Args:
        tag: one of `SHAPES`.
        attributes: of the element.
        size: width and height that percentages refer to.

    Raises:
        InputError: a length that is no number, naming the attribute.
    """

    def number(name: str, default: float = 0.0) -> float:
        text = attributes.get(name, "").strip()
        whole = {"x": size[0], "y": size[1]}.get(_ALONG.get(name, ""), diagonal(size))
        found = default if text in ("", "auto") else read_length(text, name, whole)
        # A negative radius is an error, which counts as none given.
        return default if name in ("rx", "ry") and found < 0 else found

    if tag == "path":
        return attributes.get("d", "")
    if tag == "line":
        return f"M{number('x1')} {number('y1')}L{number('x2')} {number('y2')}"
    if tag in ("polyline", "polygon"):
        # As browsers do: up to an error, and to the last whole point.
        words = attributes.get("points", "")
        values = NUMBER.findall(words[: _complete(words, 2, flags=False)])
        return "" if len(values) < 4 else "M" + " ".join(values) + ("Z" if tag == "polygon" else "")
    if tag == "rect":
        return _rectangle(number, attributes)
    rx = number("r") if tag == "circle" else number("rx", number("ry"))
    ry = number("r") if tag == "circle" else number("ry", number("rx"))
    if rx <= 0 or ry <= 0:
        return ""
    return _ellipse(number("cx"), number("cy"), rx, ry)


def _ellipse(x: float, y: float, rx: float, ry: float) -> str:
    u, v = rx * _CIRCLE, ry * _CIRCLE
    return (
        f"M{x + rx} {y}C{x + rx} {y + v} {x + u} {y + ry} {x} {y + ry}"
        f"C{x - u} {y + ry} {x - rx} {y + v} {x - rx} {y}C{x - rx} {y - v} {x - u} {y - ry} {x} {y - ry}"
        f"C{x + u} {y - ry} {x + rx} {y - v} {x + rx} {y}Z"
    )


def _rectangle(number, attributes: Mapping[str, str]) -> str:
    x, y, width, height = number("x"), number("y"), number("width"), number("height")
    if width <= 0 or height <= 0:
        return ""
    rx = min(max(number("rx", number("ry")), 0), width / 2)
    ry = min(max(number("ry", number("rx")), 0), height / 2)
    right, bottom = x + width, y + height
    if not (rx and ry):
        return f"M{x} {y}L{right} {y}L{right} {bottom}L{x} {bottom}Z"
    u, v = rx * (1 - _CIRCLE), ry * (1 - _CIRCLE)
    return (
        f"M{x + rx} {y}L{right - rx} {y}C{right - u} {y} {right} {y + v} {right} {y + ry}L{right} {bottom - ry}"
        f"C{right} {bottom - v} {right - u} {bottom} {right - rx} {bottom}L{x + rx} {bottom}"
        f"C{x + u} {bottom} {x} {bottom - v} {x} {bottom - ry}L{x} {y + ry}C{x} {y + v} {x + u} {y} {x + rx} {y}Z"
    )


def read_length(text: str, name: str = "length", whole: float | None = None) -> float:
    """A length in user units (1 px = 1/96 inch); of a font that is 16 px high.

    Args:
        text: the attribute.
        name: its name, for messages.
        whole: what percentages refer to; None: they are refused.

    Raises:
        InputError: no number, or a unit that is not known.
    """
    units = {"": 1, "px": 1, "pt": 4 / 3, "pc": 16, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96, "q": 96 / 101.6,
             "em": 16, "rem": 16, "ex": 8}  # fmt: skip
    if whole is not None:
        units["%"] = whole / 100
    match = re.fullmatch("(" + NUMBER.pattern + r")\s*([a-zA-Z%]*)", text.strip())
    if match is None or match[2].lower() not in units or abs(float(match[1])) > _LARGEST:
        raise InputError(
            f"{name}={text[:40]!r} cannot be used; expected a number with px, pt, pc, mm, cm, in or no unit."
        )
    return float(match[1]) * units[match[2].lower()]


def drawable(data: str) -> str:
    """Path data up to its first error, which is what browsers draw of it; all of it where there is none."""
    end = 0
    for match in _COMMAND.finditer(data):
        if data[end : match.start()].strip(_BETWEEN):
            break
        arity = _ARITY[match[1].upper()]
        if end == 0 and match[1] not in "Mm":
            return ""
        kept = _complete(match[2], arity, flags=match[1] in "Aa")
        if kept is not None:
            return data[: match.start(2) + kept] if kept or not arity else data[:end]
        end = match.end()
    return data if not data[end:].strip(_BETWEEN) else data[:end]


def _complete(words: str, arity: int, *, flags: bool) -> int | None:
    """Length of the whole groups of numbers at the beginning of a command's `words`; None where all of it is whole."""
    place, count, whole = 0, 0, 0
    while True:
        while place < len(words) and words[place] in _BETWEEN:
            place += 1
        if place == len(words):
            return None if (count % arity == 0 and count if arity else not count) else whole
        flag = flags and count % 7 in (3, 4)
        match = re.compile("[01]").match(words, place) if flag else NUMBER.match(words, place)
        if match is None or not arity:
            return whole
        place, count = match.end(), count + 1
        whole = place if count % arity == 0 else whole


def read_subpaths(data: str, transform: Matrix) -> tuple[Subpath, ...]:
    """Path data as cubics, float64, transformed. Lines become cubics with handles at thirds, arcs several cubics.

    Raises:
        InputError: cannot be parsed, or coordinates that are not finite or above ten million.
    """
    import svgelements

    try:
        parsed = svgelements.Path(data)
        chains = _chains(parsed, svgelements)
    except (ValueError, TypeError, IndexError, AttributeError, ZeroDivisionError, OverflowError) as error:
        raise InputError(
            f"path data {data[:40]!r}... cannot be parsed ({error}); open and save it elsewhere."
        ) from None
    subpaths = []
    for points, closed in chains:
        tensor = apply(transform, torch.tensor(points, dtype=torch.float64))
        if not bool((tensor.abs() < _LARGEST).all()):
            raise InputError(f"path data {data[:40]!r}... has coordinates beyond {_LARGEST:g} or not finite.")
        subpaths.append(Subpath(points=tensor, closed=closed))
    return tuple(subpaths)


def _chains(parsed, svgelements) -> list[tuple[list[tuple[float, float]], bool]]:
    chains: list[tuple[list[tuple[float, float]], bool]] = []
    points: list[tuple[float, float]] = []
    before: type = object
    for piece in parsed:
        # After a curve of another kind a smooth one starts straight from its point; svgelements reflects any control.
        jumps, before = getattr(piece, "smooth", False) and type(piece) is not before, type(piece)
        if isinstance(piece, svgelements.Move):
            if len(points) > 1:
                chains.append((points, False))
            points = [_xy(piece.end)]
            continue
        if not points:
            points = [_xy(piece.start)]
        if isinstance(piece, svgelements.Close):
            if math.dist(points[-1], points[0]) > 1e-9 or len(points) == 1:
                points += _line(points[-1], points[0])
            chains.append(([*points[:-1]], True))
            points = [points[0]]
        else:
            points += _cubic(piece, points[-1], svgelements, jumps)
    if len(points) > 1:
        chains.append((points, False))
    return chains


def _cubic(piece, start: tuple[float, float], svgelements, jumps: bool) -> list[tuple[float, float]]:
    if isinstance(piece, svgelements.CubicBezier):
        return [start if jumps else _xy(piece.control1), _xy(piece.control2), _xy(piece.end)]
    if isinstance(piece, svgelements.QuadraticBezier):
        (x, y), (u, v), (s, t) = start, start if jumps else _xy(piece.control), _xy(piece.end)
        return [((x + 2 * u) / 3, (y + 2 * v) / 3), ((s + 2 * u) / 3, (t + 2 * v) / 3), (s, t)]
    if isinstance(piece, svgelements.Arc):
        # One by one: replacing all arcs of a path at once takes quadratic time in svgelements.
        points = [
            _xy(point) for curve in piece.as_cubic_curves() for point in (curve.control1, curve.control2, curve.end)
        ]
        return [*points[:-1], _xy(piece.end)] if points else _line(start, _xy(piece.end))
    return _line(start, _xy(piece.end))


def _line(a: tuple[float, float], b: tuple[float, float]) -> list[tuple[float, float]]:
    return [((2 * a[0] + b[0]) / 3, (2 * a[1] + b[1]) / 3), ((a[0] + 2 * b[0]) / 3, (a[1] + 2 * b[1]) / 3), b]


def _xy(point) -> tuple[float, float]:
    return float(point.x), float(point.y)


def path_data(subpaths: tuple[Subpath, ...], back: Matrix = IDENTITY) -> str:
    """Path data of cubics, after the transform `back`; at most 6 significant decimals."""
    parts = []
    for subpath in subpaths:
        points = apply(back, subpath.points.detach().double().cpu())
        if subpath.closed:
            points = torch.cat([points, points[:1]])
        words = [
            f"{x:.6f}".rstrip("0").rstrip(".") + " " + f"{y:.6f}".rstrip("0").rstrip(".") for x, y in points.tolist()
        ]
        parts.append("M" + words[0])
        parts += ["C" + " ".join(words[i : i + 3]) for i in range(1, len(words), 3)]
        parts.append("Z" if subpath.closed else "")
    return "".join(parts)
