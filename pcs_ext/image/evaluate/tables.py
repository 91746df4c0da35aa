"""Markdown tables of `results/NAME.json` files: the only way numbers get into the docs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcs_ext.config_io import read_json
from pcs_ext.errors import ConfigError

_NEEDED = {"system", "metric", "higher_is_better", "value", "spread", "n"}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a results file.

    Raises:
        ConfigError: no `rows`, or a row without the fields a table needs.
    """
    data = read_json(path)
    if not isinstance(data, Mapping) or not isinstance(data.get("rows"), list):
        raise ConfigError(f"{path}: expected an object with a list `rows`; write it with `make truth`.")
    for index, row in enumerate(data["rows"]):
        if missing := _NEEDED - row.keys():
            raise ConfigError(f"{path}: row {index} lacks {sorted(missing)}; write it with `make truth`.")
    return data["rows"]


def results_table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str] | None = None) -> str:
    """One line per recipe, one column per metric; the best of each column is bold, arrows say which way is better.

    Args:
        rows: as in `results/NAME.json`.
        metrics: columns, in order; None takes all in order of appearance.
    """
    columns = list(metrics) if metrics is not None else list(dict.fromkeys(row["metric"] for row in rows))
    systems = list(dict.fromkeys(_name(row) for row in rows))
    cells = {(_name(row), row["metric"]): row for row in rows}
    header = ["recipe", *(_heading(metric, rows) for metric in columns)]
    lines = [_line(header), _line([":--", *["--:"] * len(columns)])]
    best = {metric: _best(metric, rows) for metric in columns}
    for system in systems:
        line = [system]
        for metric in columns:
            row = cells.get((system, metric))
            line.append("" if row is None else _cell(row, bold=system in best[metric]))
        lines.append(_line(line))
    notes = [f"- {metric}: {_conditions(metric, rows)}" for metric in columns]
    return "\n".join([*lines, "", *notes]) + "\n"


def _name(row: Mapping[str, Any]) -> str:
    """Several recipes may implement one system of the survey: the recipe names the line where a row has it."""
    return str(row.get("recipe") or row["system"])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _heading(metric: str, rows: Sequence[Mapping[str, Any]]) -> str:
    better = next((row["higher_is_better"] for row in rows if row["metric"] == metric), None)
    return metric + {True: " ↑", False: " ↓", None: ""}[better]


def _cell(row: Mapping[str, Any], *, bold: bool) -> str:
    text = f"{row['value']:.3f} ± {row['spread']:.3f}"
    return f"**{text}**" if bold else text


def _best(metric: str, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    mine = [row for row in rows if row["metric"] == metric and row["higher_is_better"] is not None]
    if len(mine) < 2:
        return set()
    pick = max if mine[0]["higher_is_better"] else min
    value = pick(row["value"] for row in mine)
    return {_name(row) for row in mine if row["value"] == value}


def _conditions(metric: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Encoder, prompts and counts behind a column; every different one is named."""
    mine = [row for row in rows if row["metric"] == metric]
    encoders = sorted({str(row.get("encoder") or "no encoder") for row in mine})
    counts = sorted({f"{row['n']} images" + _units(row) for row in mine})
    return f"{', '.join(encoders)}; {', '.join(counts)}; ± is one standard deviation."


def _units(row: Mapping[str, Any]) -> str:
    prompts = f", {row['prompts']} prompts" if row.get("prompts") else ""
    return prompts + (f", {_count(row['units'], row['unit'])}" if row.get("units") else "")


def _count(count: int, unit: str) -> str:
    return f"{count} {unit}" + ("" if count == 1 else "s")
