"""Where the recipes stand in the plot: over many subjects where those were measured, else over this page's seeds."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcs_ext.config_io import read_json
from pcs_ext.demo.data import PlotPoint, ShownSystem
from pcs_ext.image.evaluate import read_rows
from pcs_ext.results import is_former

LABELS: Mapping[str, str] = {
    "dreambooth-lora": "DreamBooth LoRA",
    "dreambooth": "DreamBooth",
    "textual-inversion": "Textual inversion",
    "custom-diffusion": "Custom Diffusion",
    "lycoris-loha": "LoHa",
    "lycoris-lokr": "LoKr",
    "oft": "OFT",
    "dvar": "DVAR",
    "class-word": "Class word",
}
"""Recipe id to what people call it."""
FIDELITY, EDITABILITY = "dino-i-truth", "attributes"
MEASURED = Path(__file__).parents[2] / "results" / "image_subjects.json"
"""Written by `make truth`; there in a checkout, absent from an installed package."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standing:
    """The plot's points and what their spread is over."""

    points: tuple[PlotPoint, ...]
    over: str
    ceiling: float | None


def standing(systems: Sequence[ShownSystem], measured: Path = MEASURED) -> Standing:
    """The points to plot; no points where the metrics of the two axes were not measured.

    Args:
        systems: what this page shows.
        measured: results file over many subjects, used when it is there and of the toybox that ships.

    Raises:
        ConfigError: the results file is damaged.
    """
    if not measured.is_file():
        return _of_systems(systems)
    rows = read_rows(measured)
    return _of_systems(systems) if is_former(read_json(measured)) else standing_of_rows(rows)


def _of_systems(systems: Sequence[ShownSystem]) -> Standing:
    points = []
    for system in systems:
        figures = system.report.figures
        if FIDELITY in figures and EDITABILITY in figures:
            across, up = figures[EDITABILITY], figures[FIDELITY]
            points.append(_point(system.id, system.label, (up.value, up.spread), (across.value, across.spread)))
    seeds = len(systems[0].report.seeds)
    ceiling = systems[0].report.figures.get(f"{FIDELITY}-ceiling")
    return Standing(
        points=tuple(points),
        over=f"{seeds} seeds" if seeds > 1 else "one seed",
        ceiling=None if ceiling is None else ceiling.value,
    )


def standing_of_rows(rows: Sequence[Mapping[str, Any]]) -> Standing:
    """The points of a results file's rows."""
    by_recipe: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_recipe.setdefault(str(row.get("recipe") or row["system"]), {})[row["metric"]] = row
    points, units, ceilings = [], set(), []
    for recipe, found in by_recipe.items():
        if f"{FIDELITY}-ceiling" in found:
            ceilings.append(found[f"{FIDELITY}-ceiling"]["value"])
        if FIDELITY in found and EDITABILITY in found:
            up, across = found[FIDELITY], found[EDITABILITY]
            units.add(f"{up.get('units', 1)} {up.get('unit', 'subject')}s")
            spreads = (up["value"], up["spread"]), (across["value"], across["spread"])
            points.append(_point(recipe, LABELS.get(recipe, recipe), *spreads))
    return Standing(points=tuple(points), over=" or ".join(sorted(units)), ceiling=max(ceilings, default=None))


def _point(recipe: str, label: str, fidelity: tuple[float, float], editability: tuple[float, float]) -> PlotPoint:
    return PlotPoint(
        id=recipe,
        label=label,
        fidelity=fidelity[0],
        fidelity_spread=fidelity[1],
        editability=editability[0],
        editability_spread=editability[1],
    )
