"""Verbs of the command line: which one is meant, and the lists of them that help shows."""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import math
import re
import textwrap
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pcs_ext.errors import UsageError

Verbs = Mapping[str, Callable[..., Any]]
"""Verb -> function. "svg make" is the verb `make` of the group `svg`."""

_PROMISE = "Teach a diffusion model your subject once; use it in images, video, 3D, vector art and panoramas."
_SECTIONS = {
    "Learn a subject, make pictures": (
        "learn",
        "image",
        "evaluate",
        "export",
        "merge",
        "continual",
        "classes",
        "reference",
    ),
    "Videos, 3D, vector art, panoramas": ("video", "3d", "svg", "panorama"),
    "Protect": ("protect", "verify", "censor", "audit"),
    "Find out": ("demo", "doctor", "recipes", "systems", "tokens"),
}
"""Heading -> first words of its verbs; whatever stands in none of them comes last, under `More`."""
_ELSEWHERE = {
    "train": "learn",
    "personalize": "learn",
    "generate": "image",
    "sample": "image",
    "cloak": "protect",
    "pano": "panorama",
}
"""What other tools call it."""


def chosen(arguments: list[str], verbs: Verbs) -> tuple[str, list[str]]:
    """The verb that arguments begin with, and the rest of them; a group may be a verb of its own, too.

    Raises:
        UsageError: no such verb, or a group without a verb of it; the message names the nearest.
    """
    first, second = [*arguments, "", ""][:2]
    if f"{first} {second}" in verbs:
        return f"{first} {second}", arguments[2:]
    if first in verbs:
        return first, arguments[1:]
    members = group(first, verbs)
    if not members:
        raise UsageError(f"there is no command {first!r}. {_nearest(first, verbs)}pcs-ext --help lists them all.")
    names = ", ".join(verb.split()[1] for verb in members)
    raise UsageError(f"{first} has no command {second!r}. {_nearest(second, members)}It has {names}.")


def words_first(arguments: list[str], run: Callable[..., Any]) -> list[str]:
    """Words that stand between flags, moved in front of them: `make rex --motion spin "a text"`.

    A flag of one value has the word behind it, one of several has all up to the next flag.

    Args:
        arguments: of the verb; returned as they are where a flag is unknown, for the parser to say so.
        run: the verb's function, whose parameters are the flags.
    """
    values, words, flags = {"-o": 1, "-h": 0, "--help": 0, **_values_by_flag(run)}, [], []
    wanted = 0.0
    for argument in arguments:
        if argument.startswith("-") and len(argument) > 1 and not argument[1].isdigit():
            name, given = argument.partition("=")[::2]
            if name not in values:
                return arguments
            flags.append(argument)
            wanted = 0 if given else values[name]
        elif wanted > 0:
            flags.append(argument)
            wanted -= 1
        else:
            words.append(argument)
    return [*words, *flags]


def _values_by_flag(run: Any) -> dict[str, float]:
    """Flag -> how many values it takes; groups of flags are looked into."""
    found: dict[str, float] = {}
    for name, annotation in typing.get_type_hints(run, include_extras=True).items():
        kind = typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation
        if dataclasses.is_dataclass(kind):
            found |= _values_by_flag(kind)
        else:
            if kind is bool:
                found[f"--no-{name.replace('_', '-')}"] = 0
            several = typing.get_origin(kind) in (tuple, list)
            found[f"--{name.replace('_', '-')}"] = 0 if kind is bool else math.inf if several else 1
    return found


def _nearest(word: str, verbs: Verbs) -> str:
    """ "Did you mean learn? ", or nothing. The second word of a verb alone counts, too."""
    names = {verb.split()[-1]: verb for verb in verbs} | {verb.split()[0]: verb.split()[0] for verb in verbs}
    names |= {other: name for other, name in _ELSEWHERE.items() if name in names}
    close = difflib.get_close_matches(word.lower(), names, n=1)
    return f"Did you mean {names[close[0]]}? " if close else ""


def group(name: str, verbs: Verbs) -> Verbs:
    """The verbs of a group; empty when there is no such group."""
    return {verb: run for verb, run in verbs.items() if verb.startswith(f"{name} ")}


def overview(verbs: Verbs, examples: str, *, width: int, bold: bool) -> str:
    """All verbs under their headings, one line each where they fit.

    Args:
        verbs: all.
        examples: a text to close with.
        width: columns.
        bold: mark headings for a terminal.
    """
    lines, column = ["usage: pcs-ext COMMAND ...", "", *textwrap.wrap(_PROMISE, width)], _column(verbs)
    for heading, members in _by_section(verbs).items():
        lines += ["", f"\x1b[1m{heading}\x1b[0m" if bold else heading, *listed(members, width=width, column=column)]
    return "\n".join([*lines, "", examples.strip("\n")]) + "\n"


def _by_section(verbs: Verbs) -> dict[str, Verbs]:
    """Heading -> its verbs, in the order of the section's words; headings without verbs are left out."""
    placed = {
        heading: {verb: run for word in words for verb, run in verbs.items() if verb.split()[0] == word}
        for heading, words in _SECTIONS.items()
    }
    seen = {verb for members in placed.values() for verb in members}
    placed["More"] = {verb: run for verb, run in verbs.items() if verb not in seen}
    return {heading: members for heading, members in placed.items() if members}


def group_overview(name: str, verbs: Verbs, *, width: int) -> str:
    """A group's verbs, and how to ask for more."""
    members = group(name, verbs)
    ask = f"pcs-ext {name} COMMAND --help shows the settings of one."
    shown = listed(members, width=width, column=_column(members))
    return "\n".join([f"usage: pcs-ext {name} COMMAND ...", "", *shown, "", ask]) + "\n"


def _column(verbs: Verbs) -> int:
    """Where sentences begin behind the longest verb."""
    return max(22, *(len(verb) + 3 for verb in verbs))


def listed(verbs: Verbs, *, width: int, column: int) -> list[str]:
    """Lines of verbs and the first sentences of their docstrings."""
    lines = []
    for verb, run in verbs.items():
        text = textwrap.wrap(summary(run), max(width - column, 20)) or [""]
        lines += [f"  {verb:{column - 3}} {text[0]}", *(" " * column + line for line in text[1:])]
    return lines


def summary(run: Callable[..., Any]) -> str:
    """First paragraph of a docstring, without its full stop."""
    return (inspect.getdoc(run) or "").split("\n\n")[0].replace("\n", " ").rstrip(".")


def examples(lines: Sequence[str]) -> str:
    """What the help of a verb ends with; empty where there are none."""
    if not lines:
        return ""
    return "\n".join(["Examples", *(f"  {line}" for line in "\n".join(lines).split("\n"))]) + "\n"


def explained(run: Callable[..., Any]) -> Callable[..., Any]:
    """The same function for the parser of flags, whose help then keeps each sentence in one paragraph and tells no
    default that says nothing (None, an empty text) or that the sentence tells itself ("0 takes the recipe's")."""
    from tyro.conf import arg

    def same(*given: Any, **named: Any) -> Any:
        check_numbers(named)
        return run(*given, **named)

    text, signature = _joined(run), inspect.signature(run)
    groups, hints = {}, {}
    for name, annotation in typing.get_type_hints(run, include_extras=True).items():
        kind = _bare(annotation)
        if dataclasses.is_dataclass(kind):
            made = _explained_group(kind, signature.parameters[name].default)
            groups[name], hints[name] = kind, Annotated[kind, arg(name="", constructor=made)]
        elif name in signature.parameters:
            told = functools.partial(_default, _sentence(name, text))
            hints[name] = Annotated[annotation, arg(help_behavior_hint=told)]
    parameters = [
        known.replace(annotation=hints[name]) for name, known in signature.parameters.items() if name not in groups
    ]
    # Groups have defaults of their own, field by field, and come last.
    parameters += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]) for name in groups]
    same.__name__, same.__doc__, same.__annotations__ = run.__name__, text, hints
    same.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return same


def check_numbers(flags: Mapping[str, Any]) -> None:
    """See that every number of a call is one to compute with.

    Args:
        flags: parameter -> what was given; tuples are looked into.

    Raises:
        UsageError: NaN, infinite, or an integer that 64 bits do not hold.
    """
    for name, value in flags.items():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float) and not math.isfinite(one):
                raise UsageError(f"--{name.replace('_', '-')} must be a finite number, got {one}.")
            if isinstance(one, int) and not -(2**63) <= one < 2**63:
                raise UsageError(f"--{name.replace('_', '-')} must fit into 64 bits, got {one}.")


def _explained_group(group: Any, usual: Any) -> Callable[..., Any]:
    """A function that makes a group of flags, for the parser, and tells of its fields what `explained` tells.

    Args:
        group: the dataclass.
        usual: the group when no flag is given, or `inspect.Parameter.empty` where one has to be.
    """
    from tyro.conf import arg

    sentences, parameters = _field_sentences(group), []
    hints = typing.get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        said = sentences.get(field.name, "")
        hint = Annotated[hints[field.name], arg(help=said, help_behavior_hint=functools.partial(_default, said))]
        default = getattr(usual, field.name, field.default)
        default = inspect.Parameter.empty if default is dataclasses.MISSING else default
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)
        )

    def made(**fields: Any) -> Any:
        check_numbers(fields)
        return group(**fields)

    made.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    made.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return made


def _field_sentences(group: Any) -> dict[str, str]:
    """What a dataclass says of each field, in its own docstring or below the field, here or where it comes from."""
    text = _joined(group)
    found = {field.name: _sentence(field.name, text) for field in dataclasses.fields(group)}
    for kind in reversed(group.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in itertools.pairwise(tree.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                assert isinstance(field.target, ast.Name)
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _bare(annotation: Any) -> Any:
    """What is annotated."""
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation


def _joined(described: Any) -> str:
    """A docstring with the sentence of each argument on one line."""
    return re.sub(r"\n {8,}(?=\S)", " ", inspect.getdoc(described) or "")


def _sentence(name: str, text: str) -> str:
    """What a docstring says of an argument."""
    found = re.search(rf"^ {{4}}{name}: (.*)$", text, re.MULTILINE)
    return found[1] if found else ""


def _default(sentence: str, label: str) -> str:
    """How a default is told behind its argument's sentence."""
    if label == "True":  # the flag is then called --no-NAME, and the sentence says what NAME does
        return "(done unless this is given)"
    told = label in ("", "''", "None", "False") or (label in ("0", "0.0") and re.search(r"\b0\b", sentence))
    return "" if told else f"(default: {label})"
