"""Attackers really train, outcomes are kept, and the arithmetic of the proof is right."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pcs_ext.config_io import from_jsonable, to_jsonable
from pcs_ext.defense import evaluation
from pcs_ext.defense.attack import Attacker, Scene, attack, denoising_loss
from pcs_ext.defense.budget import Budget
from pcs_ext.defense.canvas import Canvas
from pcs_ext.defense.evaluation import PLANS, Plan, evaluate_protection, load_judge, resolve_plan, summarise
from pcs_ext.defense.laundering import JpegFile, Mixed
from pcs_ext.defense.naturalness import NaturalModel
from pcs_ext.defense.photos import read_own_photo
from pcs_ext.defense.protect import Options, protect
from pcs_ext.defense.sets import Pair, Sets
from pcs_ext.defense.written import random_change
from pcs_ext.errors import ConfigError, Interrupted, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.evaluate import load_image_encoder
from pcs_ext.image.evaluate.encoders import ImageEncoder
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.reporter import SilentReporter
from pcs_ext.runtime import cache_folder
from tests.support.encoders import tiny_dino
from tests.support.tiny import tiny_folder

BUDGET = Budget(levels=8)
LORA = Attacker(recipe="dreambooth-lora", share=2 / 800)
WORD = Attacker(recipe="textual-inversion", share=1 / 3000)
FULL = Attacker(recipe="dreambooth", share=1 / 800)


@pytest.fixture(autouse=True)
def quick_painting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_NATURAL_PICTURES", 4)
    for preset, settings in SAMPLING.items():
        monkeypatch.setitem(SAMPLING, preset, dataclasses.replace(settings, num_inference_steps=3))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> ImageEncoder:
    return load_image_encoder(tiny_dino(tmp_path_factory.mktemp("encoders") / "dino"))


@pytest.fixture(scope="module")
def base(tiny_sd_path: Path) -> AbstractBackbone:
    return load_backbone(str(tiny_sd_path), device="cpu", precision="fp32")


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Photos of different shapes, one of them gray, and copies within 8 levels."""
    made = []
    generator = np.random.default_rng(0)
    for index, size in enumerate(((40, 48), (64, 36), (40, 40), (50, 50))):
        levels = np.kron(generator.integers(20, 236, (5, 5, 3)), np.ones((16, 16, 1)))[: size[0], : size[1]]
        image = Image.fromarray(levels.astype(np.uint8)).convert("L" if index == 2 else "RGB")
        values = np.asarray(image)
        change = 8 * (2 * generator.integers(0, 2, values.shape) - 1)
        pair = Pair(tmp_path / f"{index}.png", tmp_path / f"{index}p.png")
        image.save(pair.original)
        Image.fromarray((values + change).astype(np.uint8)).save(pair.protected)
        made.append(pair)
    return made


class Counting(SilentReporter):
    """Counts trainings; interrupts one if asked to."""

    def __init__(self, stop_at: int = -1) -> None:
        self.trainings, self.steps, self.stop_at = 0, 0, stop_at

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        self.trainings += name == "learn"

    def progress(self, task: str, step: int, total: int, **fields: Any) -> None:
        if task.startswith("learn"):
            self.steps += 1
            if self.steps == self.stop_at:
                raise KeyboardInterrupt


def run(
    plan: Plan, pairs: list[Pair], output: Path, base: AbstractBackbone, judge: ImageEncoder, reporter: Counting
) -> dict[str, Any]:
    return evaluate_protection(
        plan, pairs, output, backbone=base, encoder=judge, noun="dog", budget=BUDGET, reporter=reporter
    )


def comparable(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in content["rows"]]


def test_every_condition_is_tried_and_nothing_twice(
    pairs: list[Pair], tmp_path: Path, base: AbstractBackbone, judge: ImageEncoder
) -> None:
    plan = Plan(attackers=(FULL, WORD), launderings=(JpegFile(quality=75), Mixed(share=1.0)), pictures=2)
    before = {name: value.clone() for name, value in base.denoiser.state_dict().items()}
    reporter, output = Counting(), tmp_path / "out"
    content = run(plan, pairs, output, base, judge, reporter)
    conditions = [(row["attacker"], row["laundering"], row["arm"]) for row in content["rows"]]
    assert len(set(conditions)) == len(conditions) == plan.trainings == 14
    # With all photos clean, "mixed" is the clean set for both arms: 2 of 7 trainings per attacker are the same again.
    assert reporter.trainings == 2 * 5
    rows = dict(zip(conditions, comparable(content), strict=True))
    for attacker in ("dreambooth", "textual-inversion"):
        clean, mixed = rows[attacker, "as shared", "clean"], rows[attacker, "100% of them clean", "protected"]
        assert clean["likeness"] == mixed["likeness"]
        assert clean["loss"] != rows[attacker, "as shared", "protected"]["loss"]
        assert clean["loss"] != rows[attacker, "as shared", "noise"]["loss"]
        assert len(clean["likeness"]) == 2
    assert all((output / "attacks" / name).is_file() for row in content["rows"] for name in row["pictures"])
    assert json.loads((output / "evaluation.json").read_text()) == content
    assert not list(output.rglob("subject"))
    assert all(torch.equal(value, before[name]) for name, value in base.denoiser.state_dict().items())
    shutil.rmtree(cache_folder())  # what is kept there can be made again, perhaps not to the last bit
    again = Counting()
    assert comparable(run(plan, pairs, output, base, judge, again)) == comparable(content)
    assert again.trainings == 0
    Image.effect_noise((40, 40), 90).save(pairs[0].protected)
    changed = Counting()
    run(plan, pairs, output, base, judge, changed)
    assert changed.trainings == 2 * 2, "only what depends on the changed photo: as shared and JPEG"


def test_attackers_may_start_from_another_base_and_faces_are_counted(
    pairs: list[Pair], tmp_path: Path, base: AbstractBackbone, judge: ImageEncoder
) -> None:
    other = str(tiny_folder(tmp_path / "other", prediction_type="v_prediction"))
    elsewhere = dataclasses.replace(WORD, base=other)
    content = evaluate_protection(
        Plan(attackers=(WORD, elsewhere), pictures=2),
        pairs,
        tmp_path / "out",
        backbone=base,
        encoder=judge,
        noun="dog",
        budget=BUDGET,
        faces="tests.defense.test_faces:bright_side",
        reporter=SilentReporter(),
    )
    assert {row["attacker"] for row in content["rows"]} == {"textual-inversion", f"textual-inversion on {other}"}
    own, others = (
        [row for row in content["rows"] if row["attacker"] == name] for name in (WORD.label, elsewhere.label)
    )
    assert own[0]["arm"] == others[0]["arm"] == "clean"
    assert own[0]["loss"] != others[0]["loss"], "another model was trained"
    for entry in content["summary"]:
        clean = entry["arms"]["clean"]
        assert 0 <= clean["fdfr"] <= 1
        assert clean["faces"] == round((1 - clean["fdfr"]) * 2)
    for row in content["rows"]:
        assert row["faces"]["pictures"] == 2


def test_an_interrupted_evaluation_goes_on(
    pairs: list[Pair], tmp_path: Path, base: AbstractBackbone, judge: ImageEncoder
) -> None:
    plan = Plan(attackers=(dataclasses.replace(LORA, share=4 / 800),), pictures=1)
    whole = run(plan, pairs, tmp_path / "whole", base, judge, Counting())
    with pytest.raises(Interrupted, match="The same command goes on"):
        run(plan, pairs, tmp_path / "out", base, judge, Counting(stop_at=6))
    assert not (tmp_path / "out" / "evaluation.json").exists()
    rest = Counting()
    resumed = run(plan, pairs, tmp_path / "out", base, judge, rest)
    assert comparable(resumed) == comparable(whole)
    assert rest.steps < 12 - 5


def test_noise_uses_the_whole_budget_and_laundered_photos_are_kept(
    pairs: list[Pair], tmp_path: Path, base: AbstractBackbone, judge: ImageEncoder
) -> None:
    sets = Sets(pairs, tmp_path / "photos", base, BUDGET)
    for original, path in zip(sets.photos("clean", None), sets.photos("noise", None), strict=True):
        change = np.asarray(Image.open(path)).astype(int) - np.asarray(Image.open(original)).astype(int)
        assert np.abs(change).max() == 8
        assert np.abs(change).mean() > 7
    first = sets.photos("protected", JpegFile(quality=75))
    times = [path.stat().st_mtime_ns for path in first]
    assert [path.stat().st_mtime_ns for path in sets.photos("protected", JpegFile(quality=75))] == times
    first[0].unlink()
    assert sets.photos("protected", JpegFile(quality=75))[0].is_file()
    assert sets.photos("protected", JpegFile(quality=90)) != first


def test_half_of_the_photos_is_said_in_numbers_and_not_tried_on_one() -> None:
    plan = Plan(attackers=(WORD,), launderings=(Mixed(share=0.5), JpegFile(quality=75)))

    def tried(photos: int) -> set[str]:
        conditions = evaluation._conditions(plan, photos)
        return {evaluation._label(one[1], photos) for one in conditions if one[1] is not None}

    assert tried(4) == {"half of them clean", "JPEG 75"}
    assert tried(5) == {"half of them clean (2 of 5)", "JPEG 75"}
    assert tried(3) == {"half of them clean (2 of 3)", "JPEG 75"}
    assert tried(1) == {"JPEG 75"}


def test_noise_goes_where_the_perturbation_may(tmp_path: Path, base: AbstractBackbone) -> None:
    album, out = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    levels = np.random.default_rng(0).integers(20, 230, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(levels).save(album / "a.png")
    mask = np.zeros((40, 48), dtype=np.uint8)
    mask[:, :12] = 255
    Image.fromarray(mask).save(album / "a_mask.png")
    options = Options(noun="dog", region="mask")
    plan = Plan(attackers=(WORD,), pictures=1)
    protect(
        album, output=out, recipe="photoguard", base=base, steps=1, levels=8, options=options, attack=plan,
        encoder=tiny_dino(tmp_path / "dino"),
    )  # fmt: skip
    noisy = np.asarray(Image.open(out / "attacks" / "photos" / "as-shared" / "noise" / "0000.png")).astype(int)
    change = np.abs(noisy - levels)
    assert not change[:, 12:].any()
    assert (change[:, :12] == 8).all()


def test_noise_in_a_small_region_uses_all_of_an_l2_budget(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (120, 130, 140)).save(tmp_path / "a.png")
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[:10, :10] = True
    photo = dataclasses.replace(read_own_photo(tmp_path / "a.png"), mask=mask)
    change = random_change(Canvas(photo, Budget(norm="l2", levels=8)))
    assert not change[:, ~mask].any()
    assert float(change.square().mean().sqrt()) == pytest.approx(8, abs=0.05)


def test_an_attacker_learns_the_photos_it_has(tmp_path: Path, toybox: AbstractBackbone) -> None:
    """Rank two trainings by their loss on one toy: the one on its photos knows it better."""
    examples = Path(__file__).parents[2] / "examples"
    judge = load_judge("toybox", None)
    from pcs_ext.image.evaluate import square_images

    references = square_images(sorted((examples / "comet").glob("*.jpg")), toybox.resolution)
    scene = Scene(
        backbone=toybox,
        noun="toy",
        references=references,
        reference_hashes=("comet",),
        encoder=judge,
        natural=NaturalModel.of(references),
        prompts=("a photo of {subject}",),
        seeds=(0,),
        folder=tmp_path,
    )
    losses = {}
    for toy in ("comet", "bruno"):
        photos = sorted((examples / toy).glob("*.jpg"))
        attacker = Attacker(recipe="dreambooth-lora", share=6 / 120)
        losses[toy] = attack(attacker, photos, scene, seed=0, reporter=SilentReporter(), name=toy).loss
    assert losses["comet"] < losses["bruno"]
    assert losses["comet"] < denoising_loss(toybox, references, "a photo of a toy")


def row(arm: str, likeness: tuple[float, ...], laundering: str = "as shared", seed: int = 0) -> dict[str, Any]:
    numbers = {"artefacts": 1.0, "loss": 0.1 + seed, "steps": 10, "seconds": 2.0}
    facts = {"attacker": "dreambooth", "laundering": laundering, "arm": arm, "seed": seed}
    return {**facts, "likeness": list(likeness), **numbers}


def test_drops_are_paired_and_shares_need_a_drop() -> None:
    rows = [
        *[row("clean", (0.9, 0.5), seed=seed) for seed in (0, 1)],
        *[row("protected", (0.7, 0.3), seed=seed) for seed in (0, 1)],
        *[row("noise", (0.9, 0.4), seed=seed) for seed in (0, 1)],
        *[row("clean", (0.8, 0.5), "JPEG 75", seed) for seed in (0, 1)],
        *[row("protected", (0.75, 0.45), "JPEG 75", seed) for seed in (0, 1)],
    ]
    plain, washed = summarise(rows)
    assert plain["arms"]["protected"]["drop"]["value"] == pytest.approx(0.2)
    # The pictures differ a lot, their paired differences not at all.
    assert plain["arms"]["protected"]["drop"]["interval"] == pytest.approx([0.2, 0.2])
    assert plain["arms"]["noise"]["drop"]["value"] == pytest.approx(0.05)
    assert (plain["arms"]["clean"]["n"], plain["arms"]["clean"]["loss"]) == (4, pytest.approx(0.6))
    assert (plain["left"], washed["left"]) == (pytest.approx(1), pytest.approx(0.25))
    assert "noise" not in washed["arms"]
    weak = [row("clean", (0.9, 0.5)), row("protected", (0.8, 0.6)), row("noise", (0.9, 0.5))]
    assert summarise(weak)[0]["left"] is None, "a share of nothing is nothing"


def test_plans_are_values_and_mistakes_are_named(tmp_path: Path) -> None:
    assert (PLANS["quick"].trainings, PLANS["full"].trainings) == (5, 72)
    for plan in PLANS.values():
        assert from_jsonable(Plan, to_jsonable(plan)) == plan
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(to_jsonable(PLANS["quick"])))
    assert resolve_plan(str(path)) == resolve_plan("quick")
    with pytest.raises(UsageError, match="'fast' is unknown; expected one of quick, full"):
        resolve_plan("fast")
    with pytest.raises(UsageError, match="give --encoder"):
        load_judge("path/to/model", None)
    for bad, message in (
        (lambda: Attacker(recipe="nonsense"), "'nonsense' of an attacker is unknown; expected one of dreambooth-lora"),
        (lambda: Attacker(recipe="dreambooth", share=0), "must be positive"),
        (lambda: Plan(attackers=()), "at least one attacker"),
        (lambda: Plan(attackers=(LORA, LORA)), "twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            bad()
