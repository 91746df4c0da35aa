"""How an element is painted: presentation attributes, `style`, simple style sheets, inheritance."""

import re
from collections.abc import Callable, Mapping

from pcs_ext.errors import InputError
from pcs_ext.svg.vector.colors import read_color

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
    "vector-effect": "none",
    "transform": "none",
    "transform-origin": "",
}
_OWN = (
    "display", "opacity", "stop-color", "stop-opacity", "mix-blend-mode", "filter", "mask", "clip-path",
    "vector-effect", "transform", "transform-origin",
)  # fmt: skip
"""Not inherited."""
UNSUPPORTED = (
    "filter", "mask", "clip-path", "marker-start", "marker-mid", "marker-end", "stroke-dasharray", "mix-blend-mode",
    "paint-order", "vector-effect",
)  # fmt: skip
_COLORS = ("fill", "stroke", "color", "stop-color")
_KEYWORDS = ("none", "currentcolor", "inherit", "initial", "unset", "revert", "context-fill", "context-stroke")
_SELECTOR = re.compile(r"\s*(?:(\*)|([A-Za-z]+)?(?:([.#])([\w-]+))?)\s*")
_RULE = re.compile(r"([^{}]*)\{([^{}]*)\}")
_IMPORTANT = re.compile(r"\s*!\s*important\s*$", re.IGNORECASE)
_COMMENT = re.compile(r"/\*.*?\*/|<!--|-->", re.DOTALL)
_STATEMENT = re.compile(r"@(?:import|charset|namespace)[^;{}]*;")
_PIECE = re.compile(r"""(?:[^;"'(]|"[^"]*"|'[^']*'|\([^)]*\)?)+""")


class StyleSheet:
    """Rules with a selector of one tag, class or id each; the others are told to `note`."""

    def __init__(self, text: str, note: Callable[[str], None]) -> None:
        self.rules: list[tuple[tuple[int, int, int], str, str, str, dict[str, str]]] = []
        self.insists = False
        """Whether a rule says `!important`, one that is left out, too: it wins over an element's own style."""
        self.by_tag = False
        """Whether a rule asks for a tag, or may: one that is left out."""
        for selectors, body in _RULE.findall(_plain(_COMMENT.sub("", text[:200_000]), note)):
            found = declarations(body)
            self.insists = self.insists or any(map(_is_important, found.values()))
            for selector in selectors.split(","):
                match = _SELECTOR.fullmatch(selector)
                if match is None or not selector.strip():
                    self.by_tag = True
                    note(
                        f"style rule for {selector.strip()[:40]!r} left out: only single tags, classes and ids are read"
                    )
                    continue
                self.by_tag = self.by_tag or bool(match[2])
                weight = (int(match[3] == "#"), int(match[3] == "."), int(bool(match[2])))
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


def _plain(text: str, note: Callable[[str], None]) -> str:
    """A style sheet without what begins with @: it may hold for other screens only, or load a file."""
    text, kept, place = _STATEMENT.sub("", text), [], 0
    while (start := text.find("@", place)) >= 0:
        note(f"style rules in {text[start:].split('{')[0].split()[0][:20]} are left out")
        kept.append(text[place:start])
        depth, place = 0, start
        while place < len(text):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            place += 1
            if depth == 0 and text[place - 1] in "};":
                break
    return "".join((*kept, text[place:]))


def pairs(text: str) -> list[tuple[str, str]]:
    """`name: value; ...` as written, in order; semicolons in brackets and quotes divide nothing."""
    found = (piece.split(":", 1) for piece in _PIECE.findall(_COMMENT.sub("", text)) if ":" in piece)
    named = ((name.strip(), value.strip()) for name, value in found)
    return [(name if name.startswith("--") else name.lower(), value) for name, value in named]


def declarations(text: str) -> dict[str, str]:
    """`name: value; ...` as a dictionary; values keep their `!important`, colours that are none count for nothing."""
    found: dict[str, str] = {}
    for name, value in pairs(text):
        if _is_usable(name, value):
            found = cascaded(found, {name: value})
    return found


def _is_usable(name: str, value: str) -> bool:
    """Whether browsers would take a declaration: of those they do not, the one before it stands."""
    value = _IMPORTANT.sub("", value)
    if name not in _COLORS:
        return bool(value)
    return value.lower() in _KEYWORDS or value.lower().startswith(("url(", "var(")) or read_color(value) is not None


def cascaded(weaker: Mapping[str, str], stronger: Mapping[str, str]) -> dict[str, str]:
    """What holds of both (CSS Cascade 4, section 6): the stronger, unless the weaker alone is `!important`."""
    result = dict(weaker)
    for name, value in stronger.items():
        if _is_important(value) or not _is_important(result.get(name, "")):
            result[name] = value
    return result


def _is_important(value: str) -> bool:
    return _IMPORTANT.search(value) is not None


def ruled(tag: str, attributes: Mapping[str, str], sheet: StyleSheet) -> dict[str, str]:
    """What style sheets and the attribute `style` say of an element."""
    by_rules = sheet.of(tag, attributes.get("id", ""), attributes.get("class", "").split())
    own = cascaded(by_rules, declarations(attributes.get("style", "")))
    if "marker" in own:
        own = {f"marker-{place}": own["marker"] for place in ("start", "mid", "end")} | own
    return own


def computed(parent: Mapping[str, str], tag: str, attributes: Mapping[str, str], sheet: StyleSheet) -> dict[str, str]:
    """All properties of an element, inherited ones included."""
    result = {name: INITIAL[name] if name in _OWN else value for name, value in parent.items()}
    own = {name: value.strip() for name, value in attributes.items() if name in INITIAL}
    own = {name: value for name, value in own.items() if _is_usable(name, value)}
    own |= {name: value for name, value in ruled(tag, attributes, sheet).items() if name in INITIAL}
    for name, value in ((name, _IMPORTANT.sub("", value)) for name, value in own.items()):
        if value == "inherit" or (value == "unset" and name not in _OWN):
            result[name] = parent.get(name, INITIAL[name])
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
