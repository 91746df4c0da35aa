"""Subjects tied to regions: how often maps are shown, whose photos a phase sees, and pictures by box or file."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pcs_ext.errors import ConfigError, Interrupted, PhotoError, UsageError
from pcs_ext.image import steered_cli
from pcs_ext.image.adapters import GuideConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import parse_box
from pcs_ext.image.guided import GuideShare, guided
from pcs_ext.image.guided_pictures import box_regions, draw_guided, read_region, region_maps, united
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES, Recipe
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.subject import Artifact
from pcs_ext.image.training import stack
from pcs_ext.image.types import Batch


def test_maps_are_shown_to_a_growing_share_of_rows() -> None:
    share = GuideShare(begin=0.25, end=0.75)
    assert [share.at(step, 5) for step in range(5)] == [0.25, 0.375, 0.5, 0.625, 0.75]
    assert GuideShare(begin=0.4, end=0.9).at(0, 1) == 0.4
    with pytest.raises(ConfigError, match="lie in"):
        GuideShare(end=1.5)
    masks = torch.ones(4000, 2, 1, 1)
    batch = Batch(images=torch.zeros(4000, 3, 1, 1), captions=("",) * 4000, part_masks=masks)
    shown = guided(batch, 0.3, torch.Generator().manual_seed(0)).guides
    assert shown is not None
    assert torch.equal(shown[:, 0], shown[:, 1]), "a row is shown its whole map or none of it"
    assert abs(float(shown.mean()) - 0.3) < 0.03
    prior = Batch(images=torch.zeros(3, 3, 1, 1), captions=("",) * 3)
    joined = stack(guided(batch, 1.0, torch.Generator()), prior).guides
    assert joined is not None
    assert joined[-3:].sum() == 0, "class images have no map"
    assert joined[:-3].all()


def two_subjects(folder: Path) -> Path:
    """Two photos of each of two subjects, with both numbered masks."""
    folder.mkdir()
    for index in range(4):
        Image.effect_noise((40, 40), 60).convert("RGB").save(folder / f"{index}.png")
        for number in (1, 2):
            mask = Image.new("L", (40, 40))
            if number == 1 + index % 2:
                mask.paste(255, (4, 4, 30, 36))
            mask.save(folder / f"{index}_mask{number}.png")
    return folder


def small(steps: int = 8, weight: float = 1e4) -> Recipe:
    recipe = RECIPES["matsuda"].build("dog, cat", "toybox")
    sampling = SampleConfig(num_inference_steps=2, guidance_scale=2.0)
    phases = tuple(
        dataclasses.replace(
            phase,
            batch_size=2,
            objective=dataclasses.replace(
                phase.objective,
                consolidation_weight=weight if phase.objective.consolidation_weight else 0.0,
                consolidation_samples=2,
            ),
        )
        for phase in recipe.phases
    )
    return dataclasses.replace(recipe, class_images=2, sampling=sampling, phases=phases).with_steps(steps)


class Stopper:
    """Ctrl-C in the middle of the second phase."""

    def event(self, name: str, message: str = "", **fields: object) -> None:
        pass

    def progress(self, task: str, step: int, total: int, **fields: object) -> None:
        if task == "learn subject_2" and step == 2:
            raise KeyboardInterrupt


def test_two_subjects_are_learned_one_after_another(sd: AbstractBackbone, tmp_path: Path) -> None:
    photos = two_subjects(tmp_path / "photos")
    request: dict[str, Any] = {"noun": "dog, cat", "base": sd, "seed": 5}
    whole = learn(photos, output=tmp_path / "a", recipe=small(), **request)
    with pytest.raises(Interrupted):
        learn(photos, output=tmp_path / "b", recipe=small(), reporter=Stopper(), **request)
    resumed = learn(photos, output=tmp_path / "b", recipe=small(), **request)
    for name, tensors in whole.data.tensors.items():
        for key, value in tensors.items():
            assert torch.equal(value, resumed.data.tensors[name][key]), f"{name}.{key}"

    def moved(artifact: Artifact, to: Artifact) -> float:
        pairs = ((t, to.data.tensors["denoiser"][k]) for k, t in artifact.data.tensors["denoiser"].items())
        return sum(float((a - b).square().sum()) for a, b in pairs)

    first = dataclasses.replace(small(), phases=small().phases[:1])
    begun = learn(photos, output=tmp_path / "c", recipe=first, **request)
    for key, value in begun.data.tensors["word_1"].items():
        assert torch.equal(value, whole.data.tensors["word_1"][key]), "the second phase leaves the first word alone"
    held, free = (
        learn(photos, output=tmp_path / f"w{weight:g}", recipe=small(weight=weight), **request)
        for weight in (1e12, 0.0)
    )
    assert moved(held, begun) < moved(free, begun), "what mattered to the first subject stays near"


def test_pictures_by_box_and_by_file(sd: AbstractBackbone, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos = two_subjects(tmp_path / "photos")
    both = learn(photos, noun="dog, cat", output=tmp_path / "both", recipe=small(4), base=sd, seed=5)
    with torch.no_grad():
        for key, value in both.data.tensors["guide"].items():
            value += 0.2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(key)))
    left = united(box_regions([parse_box("dog: 0 0 0.5 1"), parse_box("cat: 0.5 0 1 1")]))
    right = united(box_regions([parse_box("dog: 0.5 0 1 1"), parse_box("cat: 0 0 0.5 1")]))
    halves = box_regions([parse_box("dog: 0 0 0.5 1"), parse_box("dog: 0.5 0 1 1"), parse_box("cat: 0 0 1 0.5")])
    assert (united(halves)["dog"] == 1).all(), "two boxes of one subject are one region"
    prompts = ["a photo of {subject}"]
    plain = both.generate(prompts, seeds=[1], base=sd)[0].image.tobytes()
    made = [draw_guided(both, prompts, where, seeds=[1], base=sd)[0] for where in (left, right)]
    assert len({plain, *(image.image.tobytes() for image in made)}) == 3
    assert made[0].facts["regions"] == ["cat", "dog"]
    bare = [
        both.generate(prompts, seeds=[1], base=sd, scale=0.0)[0],
        draw_guided(both, prompts, left, seeds=[1], base=sd, scale=0.0)[0],
    ]
    assert bare[0].image.tobytes() == bare[1].image.tobytes(), "strength 0 is the base"
    white = tmp_path / "left.png"
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save(white)
    name, region = read_region(f"dog={white}")
    assert name == "dog"
    torch.testing.assert_close(region, left["dog"])
    steered_cli.guide(tmp_path / "both", ("a photo of {subject}",), box=("cat: 0.5 0 1 1",), region=(f"dog={white}",),
                      pictures=dataclasses.replace(steered_cli.PICTURES, output=tmp_path / "x.png"))  # fmt: skip
    assert "x.png" in capsys.readouterr().out
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (32, 32)


def test_mistakes_are_named(sd: AbstractBackbone, tmp_path: Path) -> None:
    guide = GuideConfig(regions=("<dog>", "<cat>"))
    with pytest.raises(UsageError, match="regions are of fish; expected some of dog, cat"):
        region_maps(guide, {"fish": torch.ones(4, 4)})
    with pytest.raises(UsageError, match="regions are of nobody"):
        region_maps(guide, {})
    one = region_maps(GuideConfig(regions=("<subject>",)), {"subject": torch.ones(2, 2)})
    assert one.tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]
    with pytest.raises(UsageError, match="expected NAME=FILE"):
        read_region("dog")
    Image.new("L", (40, 40)).save(tmp_path / "black.png")
    with pytest.raises(PhotoError, match="is black; expected white where dog shall be"):
        read_region(f"dog={tmp_path / 'black.png'}")
    recipe = RECIPES["matsuda"].build("dog", "toybox")
    numbered = dataclasses.replace(recipe, phases=(dataclasses.replace(recipe.phases[0], part=1),))
    with pytest.raises(ConfigError, match="learns subject 1, counted from 0; there are 0"):
        numbered.validate()
    photos = two_subjects(tmp_path / "photos")
    for index in (1, 3):
        (photos / f"{index}.png").unlink()
    with pytest.raises(PhotoError, match="no photo shows <cat>"):
        learn(photos, noun="dog, cat", output=tmp_path / "both", recipe=small(2), base=sd)
    plain = RECIPES["textual-inversion"].build("dog", "toybox").with_steps(1)
    rex = learn(photos, noun="dog", output=tmp_path / "rex", recipe=plain, base=sd)
    with pytest.raises(UsageError, match="learned by textual-inversion, which has no regions"):
        draw_guided(rex, ["a photo of {subject}"], {"subject": torch.ones(2, 2)}, seeds=[0], base=sd)
