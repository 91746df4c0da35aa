"""What the measurement of customised drawings claims, and what it only tells."""

import json

from benchmarks.svg_systems import BASELINES, EXISTS_FOR, HIGHER, ROOT, SYSTEM, _rows
from pcs_ext.image.evaluate import Judges
from pcs_ext.systems import beats_baseline, catalogue


def test_rows_name_the_system_only_where_a_baseline_could_win() -> None:
    low = {**dict.fromkeys(HIGHER, 0.0), "seconds": 1.0}
    run = {
        SYSTEM: {**low, "ids-kept": 1.0, "roughness": 0.2},
        **{name: {**low, "roughness": 0.6} for name in BASELINES},
    }
    rows = _rows([run] * 3, Judges())
    won = {row["metric"] for row in rows if row["baseline"] and beats_baseline(row)}
    assert won == {"ids-kept", "roughness"}
    assert {row["metric"] for row in rows if "system" in row} == set(EXISTS_FOR)
    assert {row["method"] for row in rows if "system" not in row} == {SYSTEM, *BASELINES}
    assert all(row["method"] == SYSTEM for row in rows if "system" in row)


def test_the_committed_rows_do_so_too() -> None:
    rows = json.loads((ROOT / "results" / "svg_systems.json").read_text("utf-8"))["rows"]
    assert all(("system" in row) == (row["method"] == SYSTEM and row["metric"] in EXISTS_FOR) for row in rows)
    known = next(system for system in catalogue() if system.id == SYSTEM)
    assert {claim["metric"] for claim in known.claims} <= set(EXISTS_FOR)
    assert "roughness" in {claim["metric"] for claim in known.claims}
