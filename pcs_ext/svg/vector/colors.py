"""Colours as CSS writes them (CSS Color 4): hex, names, rgb, hsl and hwb in the comma and the space form."""

import colorsys
import re

from PIL import ImageColor

Rgba = tuple[float, float, float, float]
"""Red, green, blue and alpha in [0, 1], sRGB."""
_FUNCTION = re.compile(r"(rgba?|hsla?|hwb)\(([^()]*)\)")
_HEX = re.compile(r"#(?:[0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8})")
_TURN = {"deg": 1 / 360, "grad": 1 / 400, "rad": 0.15915494309189535, "turn": 1.0, "": 1 / 360}
_VALUE = re.compile(r"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?)(%|deg|grad|rad|turn|)")


def read_color(text: str) -> Rgba | None:
    """A CSS colour; None where it is none, or in a form that is not read (`color(...)`, `var(...)`, `lab(...)`)."""
    text = text.strip().lower()
    if _HEX.fullmatch(text):
        digits = text[1:] if len(text) > 5 else "".join(2 * digit for digit in text[1:])
        red, green, blue, alpha = (int(f"{digits}ff"[i : i + 2], 16) / 255 for i in range(0, 8, 2))
        return red, green, blue, alpha
    if text == "transparent":
        return 0.0, 0.0, 0.0, 0.0
    if (match := _FUNCTION.fullmatch(text)) is not None:
        return _called(match[1], match[2])
    named = ImageColor.colormap.get(text)
    return read_color(named) if isinstance(named, str) else None


def _called(name: str, inside: str) -> Rgba | None:
    words = [word for word in re.split(r"[\s,/]+", inside.strip()) if word]
    found = [_VALUE.fullmatch(word) for word in words]
    if len(words) not in (3, 4) or None in found:
        return None
    values = [(min(max(float(match[1]), -1e9), 1e9), match[2]) for match in found if match is not None]
    alpha = 1.0 if len(values) == 3 else _share(*values[3], whole=1.0)
    if name.startswith("rgb"):
        red, green, blue = (_share(*value, whole=255.0) for value in values[:3])
        return red, green, blue, alpha
    hue = values[0][0] * _TURN.get(values[0][1], 1 / 360) % 1
    first, second = (_share(*value, whole=100.0) for value in values[1:3])
    if name == "hwb":
        spread = max(first + second, 1.0)
        white, black = first / spread, second / spread
        red, green, blue = (white + part * (1 - white - black) for part in colorsys.hsv_to_rgb(hue, 1, 1))
    else:
        red, green, blue = colorsys.hls_to_rgb(hue, second, first)
    return red, green, blue, alpha


def _share(value: float, unit: str, *, whole: float) -> float:
    """In [0, 1], of a percentage or of a number whose largest is `whole`."""
    return min(max(value / (100 if unit == "%" else whole), 0.0), 1.0)
