"""The catalogue's status follows from recipes and result files alone."""

import dataclasses
import json
from pathlib import Path

import pytest

from pcs_ext import results, systems
from pcs_ext.image.reference import REFERENCES

ROW = {
    "baseline": "plain",
    "seconds": 1.0,
    "system": "dreambooth",
    "metric": "likeness",
    "higher_is_better": True,
    "value": 0.8,
    "spread": 0.1,
    "n": 3,
}


@pytest.mark.parametrize(
    ("seeds", "baseline", "uncertain", "expected", "reason"),
    [
        ([0, 1, 2], 0.5, 0.2, "measured", "better than its baseline in some.json"),
        ([0], 0.5, 0.2, "runs", "over 1 seed, 3 are needed"),
        ([0, 1, 2], 0.75, 0.0, "runs", "by more than the spread"),
        ([0, 1, 2], 0.5, 0.4, "runs", "by more than the spread"),
        ([0, 1, 2], None, 0.0, "runs", "not measured against a baseline"),
    ],
)
def test_measured_takes_a_gain_beyond_the_spread_and_three_seeds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seeds: list[int],
    baseline: float | None,
    uncertain: float,
    expected: str,
    reason: str,
) -> None:
    head = {"command": "python -m some", "commit": "abc", "machine": "one", "toybox": results.toybox()}
    plain = {**ROW, "method": "plain", "value": baseline or 0.0, "spread": uncertain, "baseline_value": None}
    rows = [{**ROW, "baseline_value": baseline}, {key: value for key, value in plain.items() if key != "system"}]
    (tmp_path / "some.json").write_text(json.dumps({**head, "seeds": seeds, "rows": rows}))
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    found = {system.id: system for system in systems.catalogue()}
    assert found["dreambooth"].status == expected
    assert reason in found["dreambooth"].reason
    assert found["animate124"].status == "runs"


def test_a_baseline_is_as_uncertain_as_the_row_its_value_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = {
        "command": "python -m some",
        "commit": "abc",
        "machine": "one",
        "toybox": results.toybox(),
        "seeds": [1, 2, 3],
    }
    mine = {**ROW, "recipe": "dreambooth-lora", "baseline": "class-word", "baseline_value": 0.5}
    plain = {**ROW, "system": "class-word", "recipe": "class-word", "baseline": None, "baseline_value": None}
    rows = [mine, {**plain, "value": 0.5, "spread": 0.4}, {**plain, "value": 0.2, "spread": 0.01}]
    (tmp_path / "some.json").write_text(json.dumps({**head, "rows": rows}))
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    found = next(system for system in systems.catalogue() if system.id == "dreambooth")
    assert (found.status, found.results[0]["baseline_spread"]) == ("runs", 0.4)


def test_what_was_measured_on_a_former_toybox_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = {"command": "python -m some", "commit": "abc", "machine": "one", "seeds": [0, 1, 2]}
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    for toybox, said in ((results.toybox(), "some.json"), ("0123abcd", "some.json (on a former toybox)")):
        rows = [{**ROW, "baseline_value": 0.1}]
        (tmp_path / "some.json").write_text(json.dumps({**head, "toybox": toybox, "rows": rows}))
        found = next(system for system in systems.catalogue() if system.id == "dreambooth")
        assert found.reason == f"better than its baseline in {said}"
        assert f"  {said}: " in systems.portrait(found)


def test_a_trained_adapter_makes_its_row_run(monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(REFERENCES["ip-adapter"], system="ip-adapter")
    monkeypatch.setitem(REFERENCES, "ip-adapter", row)
    system = next(system for system in systems.catalogue() if system.id == "ip-adapter")
    assert (system.ways, system.status in ("runs", "measured")) == (("ip-adapter",), True)
    assert "  adapters  ip-adapter" in systems.portrait(system)
    monkeypatch.setitem(REFERENCES, "ip-adapter", dataclasses.replace(row, system=""))
    assert next(system for system in systems.catalogue() if system.id == "ip-adapter").status == "open"


def test_a_figure_that_is_neither_better_nor_worse_is_no_gain() -> None:
    row = {"value": 0.1, "spread": 0.0, "baseline_value": 0.5}
    assert systems.beats_baseline({**row, "higher_is_better": False})
    assert not systems.beats_baseline({**row, "higher_is_better": None})
