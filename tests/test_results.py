"""What the suite claims stands in `results/`, with how it was made; `make truth` makes it again."""

import json
from importlib import resources
from pathlib import Path

import pytest

from benchmarks.truth import COMMANDS, main
from pcs_ext.config_io import write_json
from pcs_ext.errors import ConfigError
from pcs_ext.results import FOLDER, as_result, is_former, read_results
from pcs_ext.systems import catalogue

FILES = sorted(FOLDER.glob("*.json"))
ROW = {
    "metric": "likeness",
    "higher_is_better": True,
    "value": 0.8,
    "spread": 0.1,
    "n": 3,
    "baseline": None,
    "baseline_value": None,
    "seconds": 1.0,
}


def test_there_are_results() -> None:
    assert len(FILES) >= 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_committed_result_tells_how_it_was_made(path: Path) -> None:
    result = read_results(path)
    assert path.stem in COMMANDS, "make truth does not know how to measure it"
    assert result["command"].startswith(f"python -m {COMMANDS[path.stem][0]}")
    assert len(set(result["seeds"])) == len(result["seeds"])
    known = {row["id"] for row in json.loads(resources.files("pcs_ext").joinpath("systems.json").read_text("utf-8"))}
    baselines = {row["baseline"] for row in result["rows"]}
    assert {row["system"] for row in result["rows"] if "system" in row} <= known | baselines


def test_former_results_are_of_a_toybox_that_no_longer_ships() -> None:
    for path in (FOLDER / "former").glob("*.json"):
        assert is_former(read_results(path)), path.name


def test_every_measured_system_has_its_rows_in_a_committed_file() -> None:
    for system in catalogue():
        if system.status != "measured":
            assert not system.claims
            continue
        assert system.ways
        assert system.claims
        for claim in system.claims:
            result = json.loads((FOLDER / claim["file"]).read_text("utf-8"))
            written = [row for row in result["rows"] if row.items() <= claim.items()]
            assert len(written) == 1, f"{system.id}: {claim['metric']} is no row of {claim['file']}"
            assert len(set(result["seeds"])) >= 3
            gain = claim["value"] - claim["baseline_value"]
            assert (gain if claim["higher_is_better"] else -gain) > claim["spread"]


def test_a_result_says_commit_and_machine(tmp_path: Path) -> None:
    result = as_result([ROW], command="python -m benchmarks.some", seeds=[0, 1], subjects=["rex"])
    assert result["commit"]
    assert "cores" in result["machine"]
    assert not is_former(result)
    assert is_former({**result, "toybox": "0123abcd"})
    write_json(tmp_path / "some.json", result)
    assert read_results(tmp_path / "some.json") == result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"commit": ""}, "lacks commit"),
        ({"seeds": []}, "lacks seeds"),
        ({"rows": [{**ROW, "n": 1}, {"metric": "likeness"}]}, "row 1 lacks baseline"),
        ({"command": 3}, "lacks command"),
    ],
)
def test_a_result_that_hides_something_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    result = as_result([ROW], command="python -m benchmarks.some", seeds=[0])
    write_json(tmp_path / "some.json", {**result, **change})
    with pytest.raises(ConfigError, match=message):
        read_results(tmp_path / "some.json")


def test_truth_lists_its_measurements(capsys: pytest.CaptureFixture[str]) -> None:
    main(list=True)
    listed = capsys.readouterr().out
    assert all(f"{name}: python -m {command[0]}" in listed for name, command in COMMANDS.items())
    with pytest.raises(SystemExit) as stop:
        main(("nosuch",))
    assert stop.value.code == 2
