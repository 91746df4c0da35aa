"""Masks estimated in turns with words: parted by hand, when, where they go, and runs that are killed."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ConfigError, Interrupted
from pcs_ext.image.adapters import build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import Augmentation, SubjectDataset, find_photos
from pcs_ext.image.learn import learn
from pcs_ext.image.mask_estimate import EstimateConfig, EstimatedMasks, parted
from pcs_ext.image.recipes import RECIPES, Recipe
from pcs_ext.image.sample import SampleConfig


def quick(steps: int = 6) -> Recipe:
    recipe = RECIPES["em-style"].build("dog, cat", "toybox")
    sampling = SampleConfig(num_inference_steps=2, guidance_scale=2.0)
    return dataclasses.replace(recipe, sampling=sampling).with_steps(steps)


def test_cells_go_to_the_word_that_looks_there_most() -> None:
    looks = torch.zeros(2, 2, 4)
    looks[0, :, :2], looks[1, :, 2:] = torch.tensor([3.0, 1.0]), torch.tensor([0.2, 0.9])
    masks = parted(looks)
    # Each in its own range, cut where its two kinds of cells part.
    assert masks[0].tolist() == [[1, 0, 0, 0]] * 2
    assert masks[1].tolist() == [[0, 0, 0, 1]] * 2
    assert parted(torch.ones(2, 2, 2)).eq(1).all(), "where nothing stands out nothing is known"
    several = parted(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert several.sum(0).max() == 1


def test_rounds_are_evenly_spread() -> None:
    config = EstimateConfig(rounds=3)
    assert [done for done in range(10) if config.is_due(done, 9)] == [0, 3, 6]
    assert not any(EstimateConfig(rounds=1).is_due(done, 9) for done in range(1, 10))
    with pytest.raises(ConfigError, match="1 or more rounds, got 0"):
        EstimateConfig(rounds=0)


def test_masks_follow_the_words(sd: AbstractBackbone, photos: Path) -> None:
    recipe = quick()
    adapters = {name: build_adapter(name, config) for name, config in recipe.adapters.items()}
    data = SubjectDataset(
        find_photos(photos), recipe.concept, resolution=32, augmentation=Augmentation(flip=True), estimated=True
    )
    with injected(sd, *adapters.values()):
        estimate = EstimatedMasks(EstimateConfig(rounds=2), sd, data, steps=4)
        first = estimate.state_dict()
        assert [tuple(masks.shape) for masks in first.values()] == [(2, 32, 32)] * 3
        assert all(masks.sum(0).max() == 1 or masks.eq(1).all() for masks in first.values())
        for parameter in adapters["word_1"].parameters()["embedding"]:
            parameter.data = 3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        estimate(1)
        assert all(torch.equal(masks, first[key]) for key, masks in estimate.state_dict().items()), "not yet due"
        estimate(2)
        second = estimate.state_dict()
        assert not all(torch.equal(masks, first[key]) for key, masks in second.items())
        batch = data.batch(12, torch.Generator().manual_seed(0))
        estimate.load_state_dict(first)
        before = data.batch(12, torch.Generator().manual_seed(0))
    assert batch.part_masks is not None
    assert before.part_masks is not None
    assert not torch.equal(batch.part_masks, before.part_masks)
    assert torch.equal(batch.images, before.images)
    for caption, masks in zip(batch.captions, batch.part_masks, strict=True):
        for part, mask in zip(recipe.concept.parts, masks, strict=True):
            assert part not in caption or mask.any(), "a caption names what the masks have"


def test_photos_need_no_masks_and_a_killed_run_goes_on(sd: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    request = {"noun": "dog, cat", "recipe": quick(), "base": sd, "seed": 2}
    straight = learn(photos, output=tmp_path / "a", **request)  # type: ignore[arg-type]
    assert len(straight.generate(["a <dog> and a <cat>"], seeds=[0], base=sd)) == 1

    class Stopper:
        def event(self, name: str, message: str = "", **fields: object) -> None:
            pass

        def progress(self, task: str, step: int, total: int, **fields: object) -> None:
            if task == "learn turns" and step == 4:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        learn(photos, output=tmp_path / "b", reporter=Stopper(), **request)  # type: ignore[arg-type]
    resumed = learn(photos, output=tmp_path / "b", **request)  # type: ignore[arg-type]
    for name, tensors in straight.data.tensors.items():
        assert all(torch.equal(value, resumed.data.tensors[name][key]) for key, value in tensors.items())
