"""What every method promises: it builds, keeps its budget in the file, and does better than random noise."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcs_ext.config_io import from_jsonable, to_jsonable
from pcs_ext.defense.budget import CONVENTIONS
from pcs_ext.defense.canvas import Canvas
from pcs_ext.defense.engine import Protection
from pcs_ext.defense.method import Defense
from pcs_ext.defense.photos import OwnPhoto, read_own_photo
from pcs_ext.defense.recipes import RECIPES
from pcs_ext.defense.surrogate import Surrogate
from pcs_ext.defense.timing import Search
from pcs_ext.defense.written import write_protected
from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.systems import catalogue

LEVELS = 8.0
OWN = [name for name in RECIPES if not name.endswith("-compat")]
COMPAT = [name for name in RECIPES if name.endswith("-compat")]


def short(name: str, steps: int = 3) -> Defense:
    """The recipe with a few large steps, a short search and no class images."""
    method = RECIPES[name].build("toybox").with_levels(LEVELS)
    method = method.with_steps(steps)
    rule = dataclasses.replace(method.rule, size=2.7, last=None)
    timing = method.timing
    if timing.search is not None:
        timing = dataclasses.replace(timing, search=Search(rounds=1, candidates=2))
    training = method.training
    if training is not None:
        training = dataclasses.replace(
            training,
            prior_loss_weight=0.0,
            first_steps=min(2, training.first_steps),
            pool=min(3, training.pool),
            clean_steps=min(2, training.clean_steps),
            protected_steps=min(1, training.protected_steps),
        )
    return dataclasses.replace(method, rule=rule, timing=timing, training=training)


def run(
    method: Defense, photos: list[OwnPhoto], backbones: list[AbstractBackbone], folder: Path
) -> tuple[list[dict[str, object]], list[Tensor]]:
    """Protect, write, and return what was measured on the files, with the files' samples."""
    canvases = [Canvas(photo, method.budget) for photo in photos]
    surrogates = [
        Surrogate(backbone, ["a photo of a sks toy"], training=method.training, name=str(index))
        for index, backbone in enumerate(backbones)
    ]
    before = [{k: v.clone() for k, v in b.denoiser.state_dict().items()} for b in backbones]
    measured = []
    with surrogates[0].active(), surrogates[-1].active() if len(surrogates) > 1 else torch.no_grad():
        protection = Protection(canvases, surrogates, method, seed=1)
        for _ in protection.run():
            pass
        for canvas in canvases:
            path = folder / f"{canvas.photo.path.stem}-protected.png"
            measured.append(write_protected(canvas, protection, path, "png", 95))
    for backbone, state in zip(backbones, before, strict=True):
        assert all(torch.equal(state[key], value) for key, value in backbone.denoiser.state_dict().items())
    files = [read_own_photo(folder / f"{photo.path.stem}-protected.png").pixels for photo in photos]
    return measured, files


@pytest.mark.parametrize("name", OWN)
def test_the_objective_rises_above_random_noise_within_the_budget(
    name: str, toybox: AbstractBackbone, toys: list[OwnPhoto], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    method = short(name)
    backbones = [toybox] + ([request.getfixturevalue("sd")] if method.ensemble else [])
    measured, files = run(method, toys, backbones, tmp_path)
    for photo, found, pixels in zip(toys, measured, files, strict=True):
        change = pixels.to(torch.int16) - photo.pixels.to(torch.int16)
        assert 0 < int(change.abs().max()) <= LEVELS
        score = found["objective"]["surrogates"][0]  # type: ignore[index]
        assert score["protected"] > max(score["random_noise"], score["clean"]), score


@pytest.mark.parametrize("name", COMPAT)
def test_compat_recipes_run_and_list_their_quirks(
    name: str, toybox: AbstractBackbone, sd: AbstractBackbone, toys: list[OwnPhoto], tmp_path: Path
) -> None:
    method = short(name)
    assert method.quirks
    # The loss of a base with random weights does not tell what it learned from what it did not.
    backbones = [toybox, sd] if method.ensemble else [toybox]
    measured, _ = run(method, toys, backbones, tmp_path)
    for found in measured:
        assert found["budget"]["measured"]["within"]  # type: ignore[index]
        score = found["objective"]["surrogates"][0]  # type: ignore[index]
        assert score["protected"] > score["random_noise"], score


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json_and_name_their_system(name: str) -> None:
    for preset in ("toybox", "sd", "sdxl"):
        method = RECIPES[name].build(preset)  # type: ignore[arg-type]
        assert method.id == name
        assert from_jsonable(Defense, to_jsonable(method)) == method
    assert RECIPES[name].system in {system.id for system in catalogue()} | {None}


def test_budgets_are_those_that_the_scripts_print() -> None:
    expected = {"fsmg-compat": "fsmg", "aspl-compat": "aspl", "simac": "simac", "advdm": "advdm", "mist": "mist",
                "sds": "sds", "photoguard": "photoguard", "pid": "pid", "metacloak": "metacloak"}  # fmt: skip
    for name, convention in expected.items():
        method = RECIPES[name].build("sd")
        assert method.budget.levels == pytest.approx(CONVENTIONS[convention].budget_levels), name
        assert method.rule.size == pytest.approx(CONVENTIONS[convention].step_levels), name
    assert RECIPES["aspl-compat"].build("sd").gradient_steps == 300
    assert RECIPES["fsmg-compat"].build("sd").gradient_steps == 100
    assert RECIPES["metacloak"].build("sd").gradient_steps == 14_400
    assert RECIPES["photoguard"].build("sd").rule.at(999, 1000) == pytest.approx(2.55 / 100)


def test_ensembles_and_single_models_are_told_apart(sd: AbstractBackbone, toys: list[OwnPhoto]) -> None:
    for name, message in (("e-aspl", "works on several bases .*got 1"), ("advdm", "works on one base, got 2")):
        method = short(name)
        surrogates = [Surrogate(sd, ["a"])] * (1 if method.ensemble else 2)
        with pytest.raises(UsageError, match=message):
            Protection([Canvas(toys[0], method.budget)], surrogates, method)
