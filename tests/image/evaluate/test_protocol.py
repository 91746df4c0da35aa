"""The whole evaluation with tiny encoders: what is measured, over what, and that it can tell good from bad."""

import dataclasses

import pytest
import torch

from pcs_ext.config_io import write_json
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.evaluate import (
    Judges,
    Prompt,
    Report,
    Truth,
    evaluate_images,
    evaluate_subject,
    load_image_encoder,
    load_image_text_encoder,
    meaning,
    read_rows,
    result_rows,
    results_table,
)
from tests.support.elsewhere import ELSEWHERE, elsewhere

PROMPTS = (
    Prompt(text="a photo of {subject} in the snow", kind="context", expected={"tone": "bright"}),
    Prompt(text="a photo of {subject} at night", kind="context", expected={"tone": "dark"}),
)


@dataclasses.dataclass
class BrightnessReader:
    """Reads one attribute that a picture without a network shows."""

    id: str = "brightness"

    def __call__(self, images):
        return [{"tone": "bright" if image.mean() > 0 else "dark", "class": "blob"} for image in images]


@pytest.fixture(scope="module")
def judges(clip_folder, dino_folder):
    clip, dino = load_image_text_encoder(clip_folder), load_image_encoder(dino_folder)
    return Judges(clip=clip, dino=dino, attributes=BrightnessReader(), batch_size=3)


def _paint(texts, seeds):
    """A subject that obeys its prompts: bright for snow, dark for night, different for each seed."""
    pictures = []
    for text, seed in zip(texts, seeds, strict=True):
        noise = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 0.3
        pictures.append(noise + (0.5 if "snow" in text else -0.8))
    return torch.stack(pictures)


def _evaluate(judges, generate=_paint, references=None, **changes) -> Report:
    references = _paint(["snow"] * 3, [7, 8, 9]) if references is None else references
    settings = {"noun": "blob", "prompts": PROMPTS, "seeds": (0, 1, 2), "recipe": "mine", "subject": "rex", **changes}
    return evaluate_subject(generate, references, judges=judges, batch_size=4, **settings)


def test_every_figure_says_what_it_was_measured_with(judges):
    truth = Truth(views=_paint(["snow"] * 4, [20, 21, 22, 23]), attributes={"class": "blob"})
    drift = (_paint(["snow"] * 2, [1, 2]), _paint(["snow"] * 2, [1, 2]))
    report = _evaluate(judges, truth=truth, drift=drift)
    expected = {"clip-t", "vendi", "distance", "drift", "attributes", "attributes/tone", "subject", "copies"}
    for name in ("clip-i", "dino-i"):
        expected |= {name, f"{name}-truth", f"{name}-ceiling", f"{name}-truth-ceiling"}
    assert set(report.figures) == expected
    for name, figure in report.figures.items():
        assert figure.encoder
        assert figure.n > 0
        assert meaning(name)
        assert figure.interval[0] <= figure.value <= figure.interval[1] or figure.spread == 0
    assert report.figures["clip-t"].units == 3
    assert report.figures["clip-t"].n == 6
    assert report.figures["attributes"].value == 1
    assert report.figures["subject"].value == 1
    assert report.figures["drift"].value == pytest.approx(0, abs=1e-6)


def test_encoders_on_another_device_measure_the_same(clip_folder, dino_folder, judges):
    truth = Truth(views=_paint(["snow"] * 4, [20, 21, 22, 23]))
    drift = (_paint(["snow"] * 2, [1, 2]), _paint(["night"] * 2, [3, 4]))
    expected = _evaluate(judges, truth=truth, drift=drift)
    with elsewhere():
        moved = dataclasses.replace(
            judges,
            clip=load_image_text_encoder(clip_folder, ELSEWHERE),
            dino=load_image_encoder(dino_folder, ELSEWHERE),
        )
        found = _evaluate(moved, truth=truth, drift=drift)
    assert {name: figure.value for name, figure in found.figures.items()} == pytest.approx(
        {name: figure.value for name, figure in expected.figures.items()}, abs=1e-5
    )


def test_a_subject_that_ignores_its_prompts_loses_attributes(judges):
    report = _evaluate(judges, lambda texts, seeds: _paint(["snow"] * len(texts), seeds))
    assert report.figures["attributes"].value == 0.5


def test_the_references_themselves_are_most_similar_and_flagged(judges):
    references = _paint(["snow"] * 3, [7, 8, 9])
    copied = evaluate_images(
        references.repeat(2, 1, 1, 1),
        references,
        noun="blob",
        prompts=PROMPTS,
        seeds=(0, 1, 2),
        judges=judges,
        recipe="copy",
        subject="rex",
    )
    honest = _evaluate(judges, references=references)
    assert copied.figures["dino-i"].value > honest.figures["dino-i"].value
    assert copied.figures["copies"].value == 1
    assert honest.figures["copies"].value == 0


def test_images_are_judged_as_they_are_stored(judges):
    def nearly(texts, seeds):
        # Less than half a level of 8 bits: the stored file is the same.
        stored = ((_paint(texts, seeds) + 1) * 127.5).round()
        return (stored + 0.3) / 127.5 - 1

    def stored(texts, seeds):
        return ((_paint(texts, seeds) + 1) * 127.5).round() / 127.5 - 1

    assert _evaluate(judges, nearly).figures == _evaluate(judges, stored).figures


def test_one_seed_has_no_diversity_and_one_reference_no_copying_check(judges):
    report = _evaluate(judges, references=_paint(["snow"], [7]), seeds=(5,))
    assert not {"vendi", "distance", "copies"} & set(report.figures)
    assert report.figures["clip-t"].spread == 0


def test_nothing_to_measure_is_refused(judges):
    with pytest.raises(UsageError, match="at least one prompt"):
        _evaluate(judges, seeds=())
    with pytest.raises(UsageError, match="one reference photo"):
        _evaluate(judges, references=torch.zeros(0, 3, 32, 32))


def test_a_report_comes_back_from_disk_as_it_was(judges, tmp_path):
    report = _evaluate(judges)
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report
    (tmp_path / "report.json").write_text('{"recipe": "x", "recipy": 1}')
    with pytest.raises(ConfigError, match="recipy"):
        Report.load(tmp_path / "report.json")


def test_rows_and_table_name_baseline_encoder_and_counts(judges, tmp_path):
    good = [_evaluate(judges, subject=name) for name in ("rex", "pip")]
    bad_painter = lambda texts, seeds: _paint(["snow"] * len(texts), seeds)  # noqa: E731
    bad = [_evaluate(judges, bad_painter, subject=name, recipe="class-word") for name in ("rex", "pip")]
    rows = result_rows(good, system="dreambooth", baseline=bad, seconds=12.5) + result_rows(bad)
    row = next(row for row in rows if row["metric"] == "attributes")
    assert (row["system"], row["recipe"]) == ("dreambooth", "mine")
    assert (row["value"], row["baseline"], row["baseline_value"]) == (1.0, "class-word", 0.5)
    assert (row["unit"], row["units"], row["n"], row["seconds"]) == ("subject", 2, 12, 12.5)
    write_json(tmp_path / "r.json", {"rows": rows})
    table = results_table(read_rows(tmp_path / "r.json"), ["attributes", "clip-t"])
    assert table.splitlines()[0] == "| recipe | attributes ↑ | clip-t ↑ |"
    assert "**1.000 ± 0.000**" in table
    assert "- attributes: brightness; 12 images, 2 prompts, 2 subjects" in table


def test_runs_of_one_subject_are_one_unit(judges):
    reports = [_evaluate(judges, subject=name) for name in ("rex", "rex", "pip")]
    assert result_rows(reports)[0]["units"] == 2


def test_a_results_file_without_rows_is_refused(tmp_path):
    (tmp_path / "r.json").write_text('{"rows": [{"system": "x"}]}')
    with pytest.raises(ConfigError, match="row 0 lacks"):
        read_rows(tmp_path / "r.json")
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(ConfigError, match="list `rows`"):
        read_rows(tmp_path / "r.json")
