"""The survey's 176 systems and what this suite can do with each; the status is computed, never typed in."""

import dataclasses
import json
from collections.abc import Mapping
from importlib import import_module, resources
from pathlib import Path
from typing import Any, Literal

Status = Literal["measured", "runs", "open"]
_SEEDS = 3
"""Fewer say nothing about a method."""
_ROOMS = ("image", "video", "defense", "defense.censorship", "svg")
"""Where recipes live: packages of pcs_ext with a `recipes.RECIPES` of entries, each with an `id` and a `system`."""
_RESULTS = Path(__file__).parent.parent / "results"


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
    results: tuple[dict[str, Any], ...]
    """Rows of `results/*.json` that measure it."""

    @property
    def status(self) -> Status:
        """`measured`: a recipe whose result beats its baseline over enough seeds; `runs`: a recipe; `open`: neither."""
        if not self.recipes:
            return "open"
        enough = [row for row in self.results if row["seeds"] >= _SEEDS]
        return "measured" if any(beats_baseline(row) for row in enough) else "runs"


def beats_baseline(row: Mapping[str, Any]) -> bool:
    """Whether a result row's value is better than its baseline by more than the row's spread."""
    if row.get("baseline_value") is None:
        return False
    gain = row["value"] - row["baseline_value"]
    return (gain if row["higher_is_better"] else -gain) > (row.get("spread") or 0.0)


def catalogue() -> tuple[System, ...]:
    """All 176 systems in the order of the survey's bibliography."""
    rows = json.loads(resources.files("pcs_ext").joinpath("systems.json").read_text(encoding="utf-8"))
    recipes = _recipes_by_system()
    results = _results_by_system()
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
            results=tuple(results.get(row["id"], ())),
        )
        for row in sorted(rows, key=lambda row: row["ref"])
    )


def _recipes_by_system() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for room in _ROOMS:
        for entry in import_module(f"pcs_ext.{room}.recipes").RECIPES.values():
            if entry.system:  # later methods, kept for comparison, have no row in the survey
                found.setdefault(entry.system, []).append(entry.id)
    return found


def _results_by_system() -> dict[str, list[dict[str, Any]]]:
    """Rows of the committed result files; none when the package is installed without the repository."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(_RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        for row in result["rows"]:
            if "system" in row:
                known = {**row, "file": path.name, "seeds": len(result["seeds"])}
                found.setdefault(row["system"], []).append(known)
    return found
