"""Photos chosen from many: scores by hand, what the next round does, and rounds that go on after a stop."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFilter

from pcs_ext.errors import CheckpointError, ConfigError, Interrupted
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES, Recipe
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.selection import (
    SelectConfig,
    balance,
    chosen,
    loss_weights,
    ranks,
    scores,
    sharpness,
    standing,
)
from pcs_ext.image.selection_rounds import Scored, Selection
from pcs_ext.reporter import SilentReporter
from tests.support.encoders import tiny_clip


def test_ranks_standings_and_points() -> None:
    assert ranks(torch.tensor([3.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]
    assert ranks(torch.tensor([5.0, 5.0, 7.0])).tolist() == [0.25, 0.25, 1.0]
    assert ranks(torch.tensor([5.0])).tolist() == [1.0]
    pool = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert standing(torch.tensor([2.5, 9.0]), pool) == pytest.approx((0.5 + 1.0) / 2)
    assert standing(torch.tensor([2.0]), pool) == pytest.approx((1 + 0.5) / 4)
    quality, concept = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([9.0, 8.0, 7.0])
    assert scores(quality, concept, 0.75).tolist() == pytest.approx([0.25, 0.5, 0.75])
    assert scores(quality, concept, 0.0).tolist() == [1.0, 0.5, 0.0]
    assert balance(0.8, 0.2) == pytest.approx(0.2), "the concept lacks four times as much"
    assert balance(1.0, 1.0) == 0.5
    assert chosen(torch.tensor([0.1, 0.9, 0.5, 0.9]), [2], 2) == [2, 1, 3]
    assert chosen(torch.tensor([0.1, 0.9]), [1], 5) == [1, 0]
    assert loss_weights(torch.tensor([0.0, 1.0, 2.0])) == pytest.approx([0.1, 1.0, 2.0])


def test_sharpness_is_the_laplacians_variance() -> None:
    flat = torch.zeros(1, 3, 8, 8)
    dot = flat.clone()
    dot[..., 3, 3] = 1.0
    values = torch.zeros(36)
    values[:5] = torch.tensor([-4.0, 1.0, 1.0, 1.0, 1.0])
    assert float(sharpness(dot)) == pytest.approx(math.log(float(values.var())), abs=1e-5)
    assert float(sharpness(flat)) == pytest.approx(math.log(1e-8), abs=1e-3)
    with Image.effect_noise((32, 32), 60) as noise:
        soft = noise.filter(ImageFilter.GaussianBlur(2))
        pair = [torch.tensor(list(x.tobytes()), dtype=torch.float32).reshape(1, 32, 32) / 127.5 - 1 for x in
                (noise, soft)]  # fmt: skip
    sharp, blurred = sharpness(torch.stack(pair).expand(-1, 3, -1, -1)).tolist()
    assert sharp > blurred


def small(clip: Path, **changes) -> Recipe:
    recipe = RECIPES["coti"].build("dog", "toybox")
    select = SelectConfig(rounds=3, first=2, add=1, quality="sharpness", images=1, encoder=str(clip))
    sampling = SampleConfig(num_inference_steps=1, guidance_scale=1.0)
    recipe = dataclasses.replace(recipe, select=dataclasses.replace(select, **changes), sampling=sampling)
    return recipe.with_steps(2)


@pytest.fixture
def pool(photos: Path) -> Path:
    """Five photos, the last two blurred."""
    for index in (3, 4):
        image = Image.effect_noise((40, 40), 60).convert("RGB")
        image.filter(ImageFilter.GaussianBlur(index)).save(photos / f"{index}.png")
    return photos


def test_what_the_next_round_does(sd: AbstractBackbone, pool: Path, tmp_path: Path) -> None:
    clip = tiny_clip(tmp_path / "clip")
    photos = find_photos(pool)
    selection = Selection(small(clip), photos, sd, folder=tmp_path / "work", seed=0, reporter=SilentReporter())
    rows, weights, rate = selection._next([])
    assert len(rows) == 2
    assert rate == 1.0
    assert sum(weights) == pytest.approx(2.0)
    good = Scored(rows=tuple(rows), rate=1.0, quality=0.0, concept=1.0)
    more, _, rate = selection._next([good])
    assert more[:2] == rows
    assert len(more) == 3
    assert rate == 1.0
    rest = [row for row in range(5) if row not in rows]
    sharpest = max(rest, key=lambda row: float(sharpness(selection.pictures[row : row + 1])))
    assert more[2] == sharpest, "quality lacks all and decides alone"
    worse = Scored(rows=tuple(more), rate=1.0, quality=0.0, concept=0.5)
    assert selection._best([good, worse]) == 1
    assert selection._next([good, worse])[2] == 0.5
    assert not selection._ended([good, worse])
    assert selection._ended([good, worse, worse]), "two rounds brought nothing"
    assert selection._ended([dataclasses.replace(good, rows=(0, 1, 2, 3, 4))]), "no photo is left"
    vetted = [dataclasses.replace(photo, caption="{subject}") if index == 4 else photo
              for index, photo in enumerate(photos)]  # fmt: skip
    trusting = Selection(small(clip), vetted, sd, folder=tmp_path / "work", seed=0, reporter=SilentReporter())
    assert trusting._next([])[0] == [4], "a caption is a vote"


def test_rounds_go_on_after_a_stop(sd: AbstractBackbone, pool: Path, tmp_path: Path) -> None:
    class Stopper:
        rounds = 0

        def event(self, name: str, message: str = "", **fields: object) -> None:
            self.rounds += name == "learn"

        def progress(self, task: str, step: int, total: int, **fields: object) -> None:
            if task.startswith("learn") and self.rounds == 2 and step == 1:
                raise KeyboardInterrupt

    request = {"noun": "dog", "recipe": small(tiny_clip(tmp_path / "clip"), patience=3), "base": sd, "seed": 2}
    straight = learn(pool, output=tmp_path / "a", **request)  # type: ignore[arg-type]
    rounds = straight.data.training["rounds"]
    assert [len(one["photos"]) for one in rounds] == [2, 3, 4]
    totals = [one["quality"] + one["concept"] for one in rounds]
    best = rounds[totals.index(max(totals))]
    assert set(straight.data.training["photos"]) == set(best["photos"])
    with pytest.raises(Interrupted):
        learn(pool, output=tmp_path / "b", reporter=Stopper(), **request)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="rounds of other settings"):
        learn(pool, output=tmp_path / "b", **{**request, "seed": 3})  # type: ignore[arg-type]
    resumed = learn(pool, output=tmp_path / "b", **request)  # type: ignore[arg-type]
    assert not (tmp_path / "b.training").exists()
    assert resumed.data.training["rounds"] == rounds
    for name, tensors in straight.data.tensors.items():
        assert all(torch.equal(value, resumed.data.tensors[name][key]) for key, value in tensors.items())


def test_settings_are_checked() -> None:
    for rounds, decay in ((0, 0.5), (4, 0.0)):
        with pytest.raises(ConfigError, match="at least 1 and a decay"):
            SelectConfig(rounds=rounds, decay=decay)
    with pytest.raises(ConfigError, match="prompts that say {subject}"):
        SelectConfig(probe=("a dog",))
    both = dataclasses.replace(RECIPES["gal"].build("dog", "toybox"), select=SelectConfig())
    with pytest.raises(ConfigError, match="set one to null"):
        both.validate()
