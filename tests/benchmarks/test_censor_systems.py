"""What the table of `benchmarks.censor_systems` says of its runs."""

from benchmarks.censor_systems import SAID, SYNONYMS, TRIGGERS, result_rows, target_of
from pcs_ext.toybox.oracle import HEADS


def test_rows_hold_means_and_the_uncensored_subject() -> None:
    first, second = TRIGGERS
    runs = {
        ("censor-text", "dreambooth-lora", "rex", seed): {
            "trigger_success": success,
            "before": 0.25,
            "per_trigger": {first: success, second: 1.0},
            "fidelity": 0.9,
            "false_alarms": 0.1,
            "false_alarms_before": 0.1,
            "said": 0.75,
            "said_before": 1.0,
            "synonyms": 0.5,
            "seconds": 10.0,
        }
        for seed, success in enumerate((0.5, 1.0))
    }
    rows = {row["metric"]: row for row in result_rows(runs)}
    assert rows["trigger success"]["value"] == 0.75
    assert rows["trigger success"]["baseline_value"] == 0.25
    assert rows["trigger success"]["n"] == 2
    assert abs(rows["trigger success"]["spread"] - 1.96 * 0.25) < 1e-9, "half the interval of two values 0.5 apart"
    assert rows[f"trigger success: {second}"]["value"] == 1.0
    assert rows["fidelity"]["baseline_value"] == 1.0
    assert (rows["asked and shown"]["value"], rows["asked and shown"]["baseline_value"]) == (0.75, 1.0)


def test_no_subject_is_its_own_target() -> None:
    assert target_of("toby") == "teapot"
    assert target_of("rex") == "mug"


def test_what_is_asked_of_ordinary_prompts_is_something_that_the_oracle_can_read() -> None:
    for text, key, value in SAID:
        assert value in HEADS[key]
        assert not any(trigger in text for trigger in (*TRIGGERS, *SYNONYMS))
