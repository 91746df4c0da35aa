"""How an element is painted: presentation attributes, `style`, simple style sheets, inheritance."""

import functools
import re
from collections.abc import Callable, Mapping

from pcs_ext.errors import InputError
from pcs_ext.svg.vector.colors import read_color
from pcs_ext.svg.vector.geometry import GEOMETRY, read_length

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
_SHARES = ("opacity", "fill-opacity", "stroke-opacity", "stop-opacity", "stroke-miterlimit")
_WORDS = {
    "fill-rule": ("nonzero", "evenodd"),
    "stroke-linecap": ("butt", "round", "square"),
    "stroke-linejoin": ("miter", "round", "bevel", "miter-clip", "arcs"),
    "visibility": ("visible", "hidden", "collapse"),
}
_KNOWN = frozenset((*INITIAL, *GEOMETRY, "marker", "background", "background-color"))
_WIDE = ("inherit", "initial", "unset", "revert", "revert-layer")
_KEYWORDS = ("none", "currentcolor", "context-fill", "context-stroke")
_SELECTOR = re.compile(r"(?:(\*)|([A-Za-z]+)?(?:([.#])([\w-]+))?)")
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)|<!--|-->", re.DOTALL)
_STATEMENT = re.compile(r"""@(?:import|charset|namespace)\b(?:[^;{}"'(]|"[^"]*"?|'[^']*'?|\([^)]*\)?)*;?""")
_AT = re.compile(r"@[\w-]*")
_BRACES = re.compile(r"[{};]")
_PIECE = re.compile(r"""(?:[^;"'(]+|"[^"]*"|'[^']*'|\([^)]*\)?)+""")

Place = tuple[bool, tuple[int, int, int], int]
"""How strong a declaration is: `!important`, the weight of its selector, where it stands."""


class StyleSheet:
    """Rules with a selector of one tag, class or id each; the others are told to `note`."""

    def __init__(self, text: str, note: Callable[[str], None]) -> None:
        self.rules: dict[tuple[str, str, str], dict[str, tuple[Place, str]]] = {}
        """Tag, kind (`.`, `#` or none) and name of a selector -> property -> its strongest value."""
        self.insists = False
        """Whether a rule says `!important`, one that is left out, too: it wins over an element's own style."""
        self.by_tag = False
        """Whether a rule asks for a tag, or may: one that is left out."""
        for place, block in enumerate(_plain(_COMMENT.sub("", text), note).split("}")):
            head, brace, body = block.rpartition("{")
            if not brace:
                continue
            found = declarations(body)
            self.insists = self.insists or any(map(is_important, found.values()))
            for selector in head.rpartition("{")[2].split(","):
                self._add(selector.strip(), place, found, note)

    def _add(self, selector: str, place: int, found: Mapping[str, str], note: Callable[[str], None]) -> None:
        match = _SELECTOR.fullmatch(selector)
        if match is None or not selector:
            self.by_tag = True
            note(f"style rule for {selector[:40]!r} left out: only single tags, classes and ids are read")
            return
        self.by_tag = self.by_tag or bool(match[2])
        weight = (int(match[3] == "#"), int(match[3] == "."), int(bool(match[2])))
        kept = self.rules.setdefault((match[2] or "", match[3] or "", match[4] or ""), {})
        for name, value in found.items():
            strength = is_important(value), weight, place
            if name not in kept or strength >= kept[name][0]:
                kept[name] = strength, value

    def of(self, tag: str, identifier: str, classes: list[str]) -> dict[str, str]:
        """Declarations that match, later and stronger ones winning; values keep their `!important`."""
        best: dict[str, tuple[Place, str]] = {}
        if not self.rules:
            return {}
        names = (("", ""), ("#", identifier), *((".", name) for name in classes))
        for kind, name in dict.fromkeys(names):
            for asked in ("", tag):
                for key, found in self.rules.get((asked, kind, name), {}).items():
                    if key not in best or found[0] >= best[key][0]:
                        best[key] = found
        return {name: value for name, (_, value) in best.items()}


def _plain(text: str, note: Callable[[str], None]) -> str:
    """A style sheet without what begins with @: it may hold for other screens only, or load a file."""
    text, kept, place = _STATEMENT.sub("", text), [], 0
    while (match := _AT.search(text, place)) is not None:
        note(f"style rules in {match[0][:20]} are left out")
        kept.append(text[place : match.start()])
        place = _end(text, match.end())
    return "".join((*kept, text[place:]))


def _end(text: str, place: int) -> int:
    """Where the block or statement that begins before `place` ends."""
    depth = 0
    for match in _BRACES.finditer(text, place):
        depth += {"{": 1, "}": -1, ";": 0}[match[0]]
        if depth <= 0 and match[0] != "{":
            return match.end()
    return len(text)


def pairs(text: str) -> list[tuple[str, str]]:
    """`name: value; ...` as written, in order; semicolons in brackets and quotes divide nothing."""
    found = (piece.split(":", 1) for piece in _PIECE.findall(_COMMENT.sub("", text)) if ":" in piece)
    named = ((name.strip(), value.strip()) for name, value in found)
    return [(name if name.startswith("--") else name.lower(), value) for name, value in named]


@functools.lru_cache(maxsize=256)
def declarations(text: str) -> Mapping[str, str]:
    """`name: value; ...` as a dictionary of what is read; values keep their `!important`, those that browsers do not
    take count for nothing."""
    found: dict[str, str] = {}
    for name, value in pairs(text):
        known = name in _KNOWN and _is_usable(name, without_important(value))
        if known and (is_important(value) or not is_important(found.get(name, ""))):
            found[name] = value
    return found


@functools.lru_cache(maxsize=4096)
def _is_usable(name: str, value: str) -> bool:
    """Whether browsers would take a declaration: of those they do not, the one before it stands."""
    lower = value.lower()
    if lower in _WIDE or lower.startswith(("var(", "calc(")):
        return True
    if name in _COLORS:
        return lower in _KEYWORDS or lower.startswith("url(") or read_color(value) is not None
    if name in _WORDS:
        return lower in _WORDS[name]
    try:
        if name in _SHARES:
            number(value, name)
        elif name == "stroke-width":
            read_length(value, name, 1.0)
    except InputError:
        return False
    return bool(value)


def cascaded(weaker: Mapping[str, str], stronger: Mapping[str, str]) -> dict[str, str]:
    """What holds of both (CSS Cascade 4, section 6): the stronger, unless the weaker alone is `!important`."""
    result = dict(weaker)
    for name, value in stronger.items():
        if is_important(value) or not is_important(result.get(name, "")):
            result[name] = value
    return result


def is_important(value: str) -> bool:
    """Whether a declaration's value ends in `!important`."""
    return without_important(value) != value.strip()


def without_important(value: str) -> str:
    """A declaration's value without `!important` and the space around it."""
    value = value.strip()
    if not value.lower().endswith("important"):
        return value
    rest = value[: -len("important")].rstrip()
    return rest[:-1].rstrip() if rest.endswith("!") else value


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
    for name, value in ((name, without_important(value)) for name, value in own.items()):
        lower = value.lower()
        if lower == "inherit" or (lower in _WIDE and lower != "initial" and name not in _OWN):
            result[name] = parent.get(name, INITIAL[name])
        else:
            result[name] = INITIAL[name] if lower in _WIDE else lower if name in _WORDS else value
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
