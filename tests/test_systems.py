"""The catalogue's status follows from recipes and result files alone."""

import json
from pathlib import Path

import pytest

import pcs_ext.systems as systems

ROW = {"system": "dreambooth", "metric": "likeness", "higher_is_better": True, "value": 0.8, "spread": 0.1}


@pytest.mark.parametrize(
    ("seeds", "baseline", "expected"),
    [([0, 1, 2], 0.5, "measured"), ([0], 0.5, "runs"), ([0, 1, 2], 0.75, "runs"), ([0, 1, 2], None, "runs")],
)
def test_measured_takes_a_gain_beyond_the_spread_and_three_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: list[int], baseline: float | None, expected: str
) -> None:
    (tmp_path / "some.json").write_text(json.dumps({"seeds": seeds, "rows": [{**ROW, "baseline_value": baseline}]}))
    monkeypatch.setattr(systems, "_RESULTS", tmp_path)
    status = {system.id: system.status for system in systems.catalogue()}
    assert status["dreambooth"] == expected
    assert status["tip-editor"] == "open"
