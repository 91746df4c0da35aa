"""The survey's 176 systems and what this suite can do with each; the status is computed, never typed in."""

import dataclasses
import json
import textwrap
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module, resources
from typing import Any, Literal, get_args

from pcs_ext import results

Status = Literal["measured", "runs", "open"]
_FORMER = " (on a former toybox)"
_SEEDS = 3
"""Fewer say nothing about a method."""
_ROOMS = ("image", "video", "defense", "defense.censorship", "defense.audit", "svg", "threed")
"""Where recipes live: packages of pcs_ext with a `recipes.RECIPES` of entries, each with an `id` and a `system`."""
_MEANING = (
    "measured: beats its baseline over enough seeds; runs: has a recipe, edit or adapter; open: none.\n"
    "pcs-ext systems NAME shows all that is known of one."
)
_SHOWN = ("image.reference", "video.reference")
"""Where trained ways to show a base pictures live: packages of pcs_ext with `REFERENCES`, entries like the recipes'."""
_EDITED = ("image.edits",)
"""Where edits live, ways to sample that train nothing: packages of pcs_ext with `EDITS`, entries like the recipes'."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """One row of the survey's Tables 1 to 3 (doi 10.1007/s11633-025-1563-3)."""

    id: str
    name: str
    reference: int
    """Number in the survey's bibliography."""
    table: int
    scope: str
    backbone: str
    needs_pretraining: bool
    """The method needs weights trained on a large set before it sees the subject."""
    one_line: str
    recipes: tuple[str, ...]
    """Recipes of this suite that implement it."""
    edits: tuple[str, ...]
    """Edits of this suite that implement it: they guide sampling and train nothing."""
    references: tuple[str, ...]
    """Kinds of trained reference adapters of this suite that implement it."""
    results: tuple[dict[str, Any], ...]
    """Rows of `results/*.json` that measure it."""

    @property
    def ways(self) -> tuple[str, ...]:
        """Recipes, edits and reference adapters that implement it."""
        return (*self.recipes, *self.edits, *self.references)

    @property
    def status(self) -> Status:
        """`measured`: a way whose result beats its baseline over enough seeds; `runs`: a way; `open`: none."""
        if not self.ways:
            return "open"
        return "measured" if self.claims else "runs"

    @property
    def claims(self) -> tuple[dict[str, Any], ...]:
        """The result rows that make it `measured`."""
        return tuple(row for row in self.results if row["seeds"] >= _SEEDS and beats_baseline(row))

    @property
    def reason(self) -> str:
        """Why the status is what it is, in a few words."""
        if not self.ways:
            return "no recipe yet"
        if self.claims:
            files = sorted({row["file"] + _FORMER * row["former"] for row in self.claims})
            return f"better than its baseline in {', '.join(files)}"
        against = [row for row in self.results if row.get("baseline_value") is not None]
        if not against:
            return "not measured against a baseline yet"
        seeds = max(row["seeds"] for row in against)
        if seeds < _SEEDS:
            return f"measured over {seeds} seed{'s' if seeds > 1 else ''}, {_SEEDS} are needed"
        return "no measure beats its baseline by more than the spread"


def beats_baseline(row: Mapping[str, Any]) -> bool:
    """Whether a result row's value is better than its baseline by more than either spread, as far as known.

    Where a row is `paired`, its spread is that of the difference, run by run, and the baseline's own says nothing.
    """
    if row.get("baseline_value") is None or row["higher_is_better"] is None:
        return False
    gain = row["value"] - row["baseline_value"]
    spread = max(row.get("spread") or 0.0, row.get("baseline_spread") or 0.0)
    return (gain if row["higher_is_better"] else -gain) > spread


def catalogue() -> tuple[System, ...]:
    """All 176 systems in the order of the survey's bibliography."""
    rows = json.loads(resources.files("pcs_ext").joinpath("systems.json").read_text(encoding="utf-8"))
    recipes = _entries_by_system(_ROOMS, "recipes", "RECIPES")
    edits = _entries_by_system(_EDITED, "", "EDITS")
    references = _entries_by_system(_SHOWN, "", "REFERENCES")
    measured = _results_by_system()
    return tuple(
        System(
            id=row["id"],
            name=row["name"],
            reference=row["ref"],
            table=row["table"],
            scope=row["scope"],
            backbone=row["backbone"],
            needs_pretraining=row["needs_pretraining"],
            one_line=row["one_line"],
            recipes=tuple(recipes.get(row["id"], ())),
            edits=tuple(edits.get(row["id"], ())),
            references=tuple(references.get(row["id"], ())),
            results=tuple(measured.get(row["id"], ())),
        )
        for row in sorted(rows, key=lambda row: row["ref"])
    )


def found(systems: Sequence[System], words: Sequence[str]) -> list[System]:
    """Systems that one of the words means, all without words.

    A word that is a system's id means that one; another one those that have it in name, id or scope, whatever the case.
    """
    ids = {system.id for system in systems}
    return [system for system in systems if not words or any(_means(word, system, ids) for word in words)]


def _means(word: str, system: System, ids: Collection[str]) -> bool:
    if word in ids:
        return word == system.id
    return word.lower() in f"{system.name} {system.id} {system.scope}".lower()


def listing(systems: Sequence[System]) -> str:
    """A line per system, and how many there are of each status."""
    lines = [f"{'ref':>4}  {'system':<34}  {'scope':<20}  {'status':<8}  recipes"]
    for system in systems:
        recipes = textwrap.shorten(", ".join(system.ways), 60, placeholder=" ...")
        name, scope = (_cut(text, width) for text, width in ((system.name, 34), (system.scope, 20)))
        lines.append(f"{system.reference:4}  {name:<34}  {scope:<20}  {system.status:<8}  {recipes}".rstrip())
    counts = [f"{sum(system.status == key for system in systems)} {key}" for key in get_args(Status)]
    return "\n".join([*lines, "", f"{', '.join(counts)}; {len(systems)} in all. {_MEANING}"]) + "\n"


def portrait(system: System) -> str:
    """Everything about one system."""
    lines = [
        f"{system.name}  [{system.reference}]  {system.id}",
        *textwrap.wrap(system.one_line, 96, initial_indent="  ", subsequent_indent="  "),
        f"  scope     {system.scope}, on {system.backbone}"
        + (", with weights pretrained for it" if system.needs_pretraining else ""),
        f"  status    {system.status}: {system.reason}",
    ]
    if system.recipes:
        lines += textwrap.wrap(", ".join(system.recipes), 96, initial_indent="  recipes   ", subsequent_indent=" " * 12)
    if system.edits:
        lines += textwrap.wrap(", ".join(system.edits), 96, initial_indent="  edits     ", subsequent_indent=" " * 12)
    if system.references:
        lines.append(f"  adapters  {', '.join(system.references)}")
    for row in system.results:
        against = "" if row.get("baseline_value") is None else f", {row['baseline']} {row['baseline_value']:.3f}"
        against += f" ± {row['baseline_spread']:.3f}" if row.get("baseline_spread") else ""
        better = {True: " (higher is better)", False: " (lower is better)", None: ""}[row["higher_is_better"]]
        measure = f"{row.get('recipe') or system.id} {row['metric']} {row['value']:.3f}"
        spread = f" ± {row.get('spread') or 0.0:.3f}"
        lines.append(f"  {row['file']}{_FORMER * row['former']}: {measure}{spread}{against}{better}")
    return "\n".join(lines) + "\n"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _entries_by_system(rooms: Sequence[str], package: str, name: str) -> dict[str, list[str]]:
    """Ids of the entries of every room's dictionary, by the row of the survey that they implement."""
    found: dict[str, list[str]] = {}
    for room in rooms:
        where = ".".join(part for part in ("pcs_ext", room, package) if part)
        for entry in getattr(import_module(where), name).values():
            if entry.system:  # later methods, kept for comparison, have no row in the survey
                found.setdefault(entry.system, []).append(entry.id)
    return found


def _results_by_system() -> dict[str, list[dict[str, Any]]]:
    """Rows of the committed result files; none when the package is installed without the repository."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(results.FOLDER.glob("*.json")):
        result = results.read_results(path)
        former = {"former": results.is_former(result)}
        for row in result["rows"]:
            if "system" in row:
                known = {**row, "file": path.name, "seeds": len(result["seeds"])} | former
                if not row.get("paired"):  # else `spread` is that of the difference itself
                    known["baseline_spread"] = _baseline_spread(row, result["rows"])
                rows.setdefault(row["system"], []).append(known)
    return rows


def _baseline_spread(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Spread of the baseline of a row, of the same file; None: it does not say.

    A baseline has a row for every condition that it was measured under: that with the value compared with counts, and
    of several the widest.
    """
    mine = [one for one in rows if _way(one) == row["baseline"] and one["metric"] == row["metric"]]
    same = [one for one in mine if one["value"] == row.get("baseline_value")]
    return max((one["spread"] for one in same or mine), default=None)


def _way(row: Mapping[str, Any]) -> str:
    """What a row is about: a method where files compare several, else a recipe."""
    return str(row.get("method") or row.get("recipe") or row.get("system") or "")
