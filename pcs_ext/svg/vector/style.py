"""How an element is painted: presentation attributes, `style`, simple style sheets, inheritance, flat colours."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from pcs_ext.errors import InputError

Rgba = tuple[float, float, float, float]
INITIAL: dict[str, str] = {
    "fill": "#000000",
    "fill-opacity": "1",
    "fill-rule": "nonzero",
    "stroke": "none",
    "stroke-opacity": "1",
    "stroke-width": "1",
    "stroke-linecap": "butt",
    "stroke-linejoin": "miter",
    "stroke-miterlimit": "4",
    "stroke-dasharray": "none",
    "color": "#000000",
    "visibility": "visible",
    "display": "inline",
    "opacity": "1",
    "stop-color": "#000000",
    "stop-opacity": "1",
    "paint-order": "normal",
    "mix-blend-mode": "normal",
    "filter": "none",
    "mask": "none",
    "clip-path": "none",
    "marker-start": "none",
    "marker-mid": "none",
    "marker-end": "none",
}
_OWN = ("display", "opacity", "stop-color", "stop-opacity", "mix-blend-mode", "filter", "mask", "clip-path")
UNSUPPORTED = ("filter", "mask", "clip-path", "marker-start", "marker-mid", "marker-end", "stroke-dasharray")
_SELECTOR = re.compile(r"\s*(?:(\*)|([A-Za-z]+)?(?:([.#])([\w-]+))?)\s*")
_RULE = re.compile(r"([^{}]*)\{([^{}]*)\}")
_IMPORTANT = re.compile(r"\s*!\s*important\s*$", re.IGNORECASE)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


class StyleSheet:
    """Rules with a selector of one tag, class or id each; the others are told to `note`."""

    def __init__(self, text: str, note: Callable[[str], None]) -> None:
        self.rules: list[tuple[int, str, str, str, dict[str, str]]] = []
        self.insists = False
        """Whether a rule says `!important`, one that is left out, too: it wins over an element's own style."""
        for selectors, body in _RULE.findall(_COMMENT.sub("", text[:200_000])):
            found = declarations(body)
            self.insists = self.insists or any(map(_is_important, found.values()))
            for selector in selectors.split(","):
                match = _SELECTOR.fullmatch(selector)
                if match is None or not selector.strip():
                    note(
                        f"style rule for {selector.strip()[:40]!r} left out: only single tags, classes and ids are read"
                    )
                    continue
                weight = {"#": 3, ".": 2}.get(match[3] or "", 1 if match[2] else 0)
                self.rules.append((weight, match[2] or "", match[3] or "", match[4] or "", found))
        self.rules.sort(key=lambda rule: rule[0])

    def of(self, tag: str, identifier: str, classes: list[str]) -> dict[str, str]:
        """Declarations that match, later and stronger ones winning; values keep their `!important`."""
        result: dict[str, str] = {}
        for _, rule_tag, kind, name, found in self.rules:
            named = not kind or (name == identifier if kind == "#" else name in classes)
            if named and (not rule_tag or rule_tag == tag):
                result = cascaded(result, found)
        return result


def declarations(text: str) -> dict[str, str]:
    """`name: value; ...` as a dictionary; values keep their `!important`."""
    found: dict[str, str] = {}
    for name, value in (part.split(":", 1) for part in text.split(";") if ":" in part):
        found = cascaded(found, {name.strip().lower(): value.strip()})
    return found


def cascaded(weaker: Mapping[str, str], stronger: Mapping[str, str]) -> dict[str, str]:
    """What holds of both (CSS Cascade 4, section 6): the stronger, unless the weaker alone is `!important`."""
    result = dict(weaker)
    for name, value in stronger.items():
        if _is_important(value) or not _is_important(result.get(name, "")):
            result[name] = value
    return result


def _is_important(value: str) -> bool:
    return _IMPORTANT.search(value) is not None


def computed(parent: Mapping[str, str], tag: str, attributes: Mapping[str, str], sheet: StyleSheet) -> dict[str, str]:
    """All properties of an element, inherited ones included."""
    result = {name: INITIAL[name] if name in _OWN else value for name, value in parent.items()}
    own = {name: value.strip() for name, value in attributes.items() if name in INITIAL}
    ruled = sheet.of(tag, attributes.get("id", ""), attributes.get("class", "").split())
    own |= cascaded(ruled, declarations(attributes.get("style", "")))
    for name, value in ((name, _IMPORTANT.sub("", value)) for name, value in own.items()):
        if name not in INITIAL or value == "inherit":
            result[name] = parent.get(name, value) if name in INITIAL else value
        else:
            result[name] = INITIAL[name] if value in ("initial", "unset") else value
    return result


def number(text: str, name: str) -> float:
    """A plain number or a percentage.

    Raises:
        InputError: anything else.
    """
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise InputError(f"{name}={text[:40]!r} is not a number; correct it in the file.") from None
    if not abs(value) < 1e7:
        raise InputError(f"{name}={text[:40]!r} is not a usable number; correct it in the file.")
    return value


def unit(text: str, name: str) -> float:
    """A number cut to [0, 1]."""
    return min(max(number(text, name), 0.0), 1.0)


def read_color(text: str) -> Rgba | None:
    """Red, green, blue and alpha in [0, 1] of a CSS colour; None where it is not one."""
    import svgelements

    try:
        color: Any = svgelements.Color(text)
        if color.value is None:
            return None
        return color.red / 255, color.green / 255, color.blue / 255, color.alpha / 255
    except (ValueError, TypeError, IndexError, AttributeError):
        return None
