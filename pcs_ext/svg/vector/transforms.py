"""Lists of transforms as attributes and styles write them: those of CSS Transforms 1, and the flat ones of level 2."""

import math
import re
from collections.abc import Callable

from pcs_ext.errors import InputError
from pcs_ext.svg.vector.geometry import IDENTITY, NUMBER, Matrix, multiply, read_length

_CALL = re.compile(r"([a-z0-9]+)\s*\(([^()]*)\)[\s,]*")
_WORD = re.compile(r"[\s,]*(" + NUMBER.pattern + r"[a-z%]*)")
_ANGLE = re.compile(r"(.*?)(deg|grad|rad|turn|)")
_TURN = {"": math.pi / 180, "deg": math.pi / 180, "grad": math.pi / 200, "rad": 1.0, "turn": 2 * math.pi}


def read_transform(text: str, size: tuple[float, float] = (0.0, 0.0)) -> Matrix | None:
    """A list of transforms as one; None where browsers take none of it, or it turns out of the plane.

    Args:
        text: such as `translate(10 20) scale(2)`.
        size: width and height that percentages refer to.

    Raises:
        InputError: numbers that are too large to draw with.
    """
    words, place, found = text.strip().lower(), 0, IDENTITY
    while words != "none" and place < len(words):
        call = _CALL.match(words, place)
        step = None if call is None else _read(call[1], _words(call[2]), size)
        if call is None or step is None:
            return None
        found, place = multiply(found, step), call.end()
        if not all(math.isfinite(value) and abs(value) < 1e9 for value in found):
            raise InputError(f"transform={text[:60]!r} cannot be drawn; expected numbers below a thousand million.")
    return found


def _words(text: str) -> list[str]:
    """Numbers with their units, which need nothing between them; none where there is anything else."""
    words, place = [], 0
    while (match := _WORD.match(text, place)) is not None:
        words.append(match[1])
        place = match.end()
    return words if not text[place:].strip() else []


def _read(name: str, words: list[str], size: tuple[float, float]) -> Matrix | None:
    kinds, least, build = _FORMS.get(name, ("", 0, None))
    if build is None or not least <= len(words) <= len(kinds):
        return None
    values = [_value(word, kind, size) for word, kind in zip(words, kinds[: len(words)], strict=True)]
    return None if None in values else build(*values)


def _value(word: str, kind: str, size: tuple[float, float]) -> float | None:
    """A number of a kind: a length along x, y or none of them (z), an angle (a) in radians, or a plain number (n)."""
    unit = 1.0
    if kind == "a":
        match = _ANGLE.fullmatch(word)
        assert match is not None, word
        word, unit = match[1], _TURN[match[2]]
    if kind in "an" and word[-1:].isalpha():
        return None
    try:
        return unit * read_length(word, "transform", {"x": size[0], "y": size[1], "n": 1.0}.get(kind))
    except InputError:
        return None if not word[-1:].isdigit() else math.inf


def _turned(angle: float, x: float = 0.0, y: float | None = None) -> Matrix | None:
    if y is None and x:
        return None
    cos, sin, y = math.cos(angle), math.sin(angle), y or 0.0
    return (cos, sin, -sin, cos, x - cos * x + sin * y, y - sin * x - cos * y)


def _flat(*m: float) -> Matrix | None:
    """A matrix of 4 by 4, column by column, that leaves the plane in itself or parallel to it."""
    flat = m[3] == m[7] == 0 and m[15] == 1
    return (m[0], m[1], m[4], m[5], m[12], m[13]) if flat else None


_FORMS: dict[str, tuple[str, int, Callable[..., Matrix | None]]] = {
    "matrix": ("nnnnnn", 6, lambda *m: m),
    "matrix3d": ("n" * 16, 16, _flat),
    "translate": ("xy", 1, lambda x, y=0.0: (1.0, 0.0, 0.0, 1.0, x, y)),
    "translate3d": ("xyz", 3, lambda x, y, z: (1.0, 0.0, 0.0, 1.0, x, y)),
    "translatex": ("x", 1, lambda x: (1.0, 0.0, 0.0, 1.0, x, 0.0)),
    "translatey": ("y", 1, lambda y: (1.0, 0.0, 0.0, 1.0, 0.0, y)),
    "translatez": ("z", 1, lambda z: IDENTITY),
    "scale": ("nn", 1, lambda x, y=None: (x, 0.0, 0.0, x if y is None else y, 0.0, 0.0)),
    "scale3d": ("nnn", 3, lambda x, y, z: (x, 0.0, 0.0, y, 0.0, 0.0)),
    "scalex": ("n", 1, lambda x: (x, 0.0, 0.0, 1.0, 0.0, 0.0)),
    "scaley": ("n", 1, lambda y: (1.0, 0.0, 0.0, y, 0.0, 0.0)),
    "rotate": ("axy", 1, _turned),
    "rotatez": ("a", 1, _turned),
    "skew": ("aa", 1, lambda x, y=0.0: (1.0, math.tan(y), math.tan(x), 1.0, 0.0, 0.0)),
    "skewx": ("a", 1, lambda x: (1.0, 0.0, math.tan(x), 1.0, 0.0, 0.0)),
    "skewy": ("a", 1, lambda y: (1.0, math.tan(y), 0.0, 1.0, 0.0, 0.0)),
}
