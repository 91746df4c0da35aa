"""Which points the plot shows."""

import pytest

from pcs_ext.config_io import write_json
from pcs_ext.demo.standing import standing
from pcs_ext.demo.video_methods import measured_methods, methods_table
from pcs_ext.errors import ConfigError
from pcs_ext.results import as_result, toybox


def test_without_measured_subjects_the_page_plots_its_own_seeds(demo, tmp_path):
    data, _ = demo
    found = standing(data.systems, tmp_path / "nothing.json")
    assert [point.id for point in found.points] == ["dreambooth-lora", "textual-inversion", "class-word"]
    assert (found.over, found.ceiling) == ("2 seeds", 0.9)
    assert found.points[0].fidelity == 0.8


def test_measured_subjects_come_first(demo, tmp_path):
    common = {
        "system": "dreambooth",
        "higher_is_better": True,
        "spread": 0.03,
        "n": 960,
        "units": 12,
        "unit": "subject",
    }
    rows = [
        {**common, "recipe": "oft", "metric": "dino-i-truth", "value": 0.7},
        {**common, "recipe": "oft", "metric": "attributes", "value": 0.85},
        {**common, "recipe": "oft", "metric": "dino-i-truth-ceiling", "value": 0.88},
        {**common, "recipe": "half", "metric": "attributes", "value": 0.5},
    ]
    write_json(tmp_path / "r.json", {"toybox": "0123abcd", "rows": rows})
    assert standing(demo[0].systems, tmp_path / "r.json") == standing(demo[0].systems, tmp_path / "nothing.json")
    write_json(tmp_path / "r.json", {"toybox": toybox(), "rows": rows})
    found = standing(demo[0].systems, tmp_path / "r.json")
    assert [(p.label, p.fidelity, p.editability) for p in found.points] == [("OFT", 0.7, 0.85)]
    assert (found.over, found.ceiling) == ("12 subjects", 0.88)


def test_damaged_results_are_not_passed_over(demo, tmp_path):
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(ConfigError, match="list `rows`"):
        standing(demo[0].systems, tmp_path / "r.json")


def test_methods_of_motions_are_those_that_were_measured(tmp_path):
    assert measured_methods(tmp_path / "none.json") == ()
    row = {"higher_is_better": True, "spread": 0.1, "n": 6, "baseline": None, "baseline_value": None, "seconds": 60.0}
    rows = [
        {**row, "method": "vmc", "metric": "motion-read", "value": 0.5},
        {**row, "method": "vmc", "metric": "leakage", "value": 0.3},
        {**row, "method": "vmc + subject", "metric": "motion-read", "value": 0.5},
    ]
    result = as_result(rows, command="python -m benchmarks.video_systems", seeds=[0, 1, 2])
    write_json(tmp_path / "some.json", result)
    write_json(tmp_path / "former.json", {**result, "toybox": "0123abcd"})
    assert measured_methods(tmp_path / "former.json") == (), "figures of a toybox that no longer ships"
    (found,) = measured_methods(tmp_path / "some.json")
    assert (found.label, found.figures) == ("vmc", (0.5, None, None, 0.3, 60.0))
    assert "1\N{NO-BREAK SPACE}min\N{NO-BREAK SPACE}0\N{NO-BREAK SPACE}s" in methods_table([found])
