"""What ways to learn motions reached over many subjects and motions, as far as that was measured and committed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcs_ext.demo.data import ShownMethod
from pcs_ext.demo.numbers import seconds_text
from pcs_ext.demo.wording import esc
from pcs_ext.results import FOLDER, is_former, read_results

MEASURED = FOLDER / "video_systems.json"
"""Written by `make truth`; there in a checkout, absent from an installed package."""
COLUMNS: Mapping[str, str] = {
    "motion-read": "Motion as learned",
    "motion-fidelity": "Fidelity of motion",
    "subject": "Likeness to the subject",
    "leakage": "Looks of the clip",
    "seconds": "Time to learn",
}
"""Measure -> what its column is called; the last is no measure but what learning took."""


def measured_methods(path: Path = MEASURED) -> tuple[ShownMethod, ...]:
    """Methods in the order of the results; none where there are no results of the toybox that ships.

    Raises:
        ConfigError: the results are damaged.
    """
    if not path.is_file():
        return ()
    found: dict[str, dict[str, Any]] = {}
    result = read_results(path)
    for row in [] if is_former(result) else result["rows"]:
        found.setdefault(row["method"], {}).setdefault(row["metric"], row)
    return tuple(
        ShownMethod(label=method, figures=_figures(rows)) for method, rows in found.items() if "leakage" in rows
    )


def _figures(rows: Mapping[str, Mapping[str, Any]]) -> tuple[float | None, ...]:
    values = [rows[name]["value"] if name in rows else None for name in list(COLUMNS)[:-1]]
    return (*values, rows["leakage"]["seconds"])


def methods_table(methods: Sequence[ShownMethod]) -> str:
    """The figures as a table; nothing where there are none."""
    if not methods:
        return ""
    heads = "".join(f'<th scope="col">{esc(label)}</th>' for label in COLUMNS.values())
    rows = "".join(
        f'<tr><th scope="row">{esc(method.label)}</th>'
        + "".join(_cell(name, value) for name, value in zip(COLUMNS, method.figures, strict=True))
        + "</tr>"
        for method in methods
    )
    return (
        '<div class="panel measured"><h3>Ways to learn a motion, over many subjects and motions</h3>'
        f'<table style="--columns: {len(COLUMNS)}"><thead><tr><th scope="col">Method</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cell(name: str, value: float | None) -> str:
    text = "–" if value is None else seconds_text(value) if name == "seconds" else f"{value:.2f}"
    return f'<td data-label="{esc(COLUMNS[name])}">{text}</td>'
