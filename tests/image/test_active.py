"""Active learning: uncertainty by hand, what is taken, and rounds that go on after a stop."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import CheckpointError, ConfigError, Interrupted, UsageError
from pcs_ext.image.active import ActiveConfig, entropy, take
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES, Recipe
from pcs_ext.image.sample import SampleConfig

SETTINGS = ActiveConfig(directions=("{subject} a", "{subject} b", "{subject} c"), take=1, openness=0.5)


def test_the_least_sure_direction_is_taken() -> None:
    assert entropy(0.5) == pytest.approx(math.log(2))
    assert entropy(0.0) == entropy(1.0) == 0
    asked, known = torch.tensor([[1.0, 0.0]] * 3), torch.tensor([[0.0, 1.0]])
    good, better, bad = [0.8, 0.6], [0.96, 0.28], [0.6, 0.8]
    pictures = torch.tensor([[good] * 4, [bad, good, better, bad], [bad, bad, bad, good]])
    (one,) = take(SETTINGS.directions, pictures, asked, known, SETTINGS)
    assert (one.direction, one.image) == ("{subject} b", 2)
    assert one.weight == pytest.approx(0.5 * (entropy(0.5) + entropy(0.75)) / 3)
    two = dataclasses.replace(SETTINGS, take=2)
    assert [x.direction for x in take(SETTINGS.directions, pictures, asked, known, two)] == [
        "{subject} b",
        "{subject} c",
    ]
    assert take(SETTINGS.directions, pictures, asked, known, dataclasses.replace(SETTINGS, take=3)) == []
    with pytest.raises(ConfigError, match="different prompts that say {subject}"):
        ActiveConfig(directions=("a dog",))


def small(rounds: int = 2) -> Recipe:
    recipe = RECIPES["gal"].build("dog", "toybox")
    directions = tuple(f"{{subject}} {place}" for place in ("on the beach", "in grass", "on a table", "at night"))
    active = ActiveConfig(rounds=rounds, directions=directions, images=4, take=1)
    sampling = SampleConfig(num_inference_steps=1, guidance_scale=1.0)
    recipe = dataclasses.replace(recipe, active=active, sampling=sampling, class_images=1)
    return recipe.with_steps(2)


def test_rounds_go_on_after_a_stop(sd: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    class Stopper:
        def event(self, name: str, message: str = "", **fields: object) -> None:
            self.rounds = getattr(self, "rounds", 0) + (name == "learn")

        def progress(self, task: str, step: int, total: int, **fields: object) -> None:
            if task.startswith("learn") and self.rounds == 2 and step == 1:
                raise KeyboardInterrupt

    for index, place in enumerate(("in the mountains", "under water", "in the mountains")):
        (photos / f"{index}.txt").write_text(f"{{subject}} {place}", encoding="utf-8")
    request = {"noun": "dog", "recipe": small(), "base": sd, "seed": 2}
    straight = learn(photos, output=tmp_path / "a", **request)  # type: ignore[arg-type]
    taken = sorted((tmp_path / "a.taken").iterdir())
    assert [path.name for path in taken] == ["round-1-1.png"]
    assert set(straight.data.training["photos"]) == {"0.png", "1.png", "2.png"}
    assert set(straight.data.training["taken"]) == {"round-1-1.png"}
    assert straight.data.recipe["active"]["rounds"] == 2
    with pytest.raises(Interrupted):
        learn(photos, output=tmp_path / "b", reporter=Stopper(), **request)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="rounds of other settings"):
        learn(photos, output=tmp_path / "b", **{**request, "seed": 3})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="leave --previews out"):
        learn(photos, output=tmp_path / "b", previews=1, **request)  # type: ignore[arg-type]
    resumed = learn(photos, output=tmp_path / "b", **request)  # type: ignore[arg-type]
    assert not (tmp_path / "b.training").exists()
    for name, tensors in straight.data.tensors.items():
        assert all(torch.equal(value, resumed.data.tensors[name][key]) for key, value in tensors.items())
