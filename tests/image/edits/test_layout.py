"""Layout guidance: the energy by hand, its fall, exactness when it is off, and boxes as users write them."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import Box, parse_box, read_boxes
from pcs_ext.image.edits.cast import open_cast
from pcs_ext.image.edits.layout import (
    LayoutConfig,
    LayoutGuide,
    WindowedMaps,
    energy_paths,
    layout_control,
    layout_energy,
    layout_hooks,
    window_of,
)
from pcs_ext.image.edits.layout_pictures import draw_layouts
from pcs_ext.image.edits.one_by_one import one_by_one
from pcs_ext.image.learn import learn
from pcs_ext.image.ledger import Ledger
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.recipes.c_lora import c_lora
from pcs_ext.image.sample import SampleConfig, sample

SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=4, guidance_scale=2.0)
PROMPT = "a red dog and a blue cat"
BOXES = [parse_box("red dog: 0 0 0.5 1"), parse_box("cat: 0.5 0 1 1")]


def quick(**changes) -> LayoutConfig:
    return dataclasses.replace(layout_control("sd"), sampling=SAMPLING, last=0.5, **changes)


def pictures(backbone: AbstractBackbone, *, seeds: list[int], config: LayoutConfig) -> torch.Tensor:
    hooks = layout_hooks(backbone, PROMPT, BOXES, config)
    return one_by_one(backbone, PROMPT, hooks, seeds=seeds, sampling=config.sampling)


def test_the_energy_by_hand() -> None:
    maps = torch.zeros(1, 2, 16, 5)  # two heads, 4 x 4 cells
    columns = torch.arange(16) % 4
    maps[..., 1] = (columns < 2).float()  # all of it in the left half
    maps[..., 2] = (columns >= 2).float()  # none of it
    maps[..., 3] = 1.0  # half of it
    box = Box(phrase="x", left=0.0, top=0.0, right=0.5, bottom=1.0)
    for tokens, expected in (([1], 0.0), ([2], 1.0), ([3], 0.25), ([1, 2], 0.5)):
        assert layout_energy(maps, [box], [tokens], (4, 4)) == pytest.approx(expected)
    assert layout_energy(maps, [box, box], [[1], [2]], (4, 4)) == pytest.approx(0.5)
    narrow = dataclasses.replace(box, right=0.125)  # half of the first column: an eighth of the uniform map
    assert layout_energy(maps, [narrow], [[3]], (8, 8)) == pytest.approx((1 - 1 / 8) ** 2)


def test_the_energy_falls_while_latents_move(sd: AbstractBackbone) -> None:
    sd.denoiser.get_submodule(energy_paths(sd, 1)[-1]).to_q.weight.mul_(6)  # random weights hardly look anywhere
    config = quick(scale=20.0, iterations=8, threshold=0.0)
    conditioning = sd.encode_prompt([PROMPT])
    guide = LayoutGuide(sd, conditioning, BOXES, [(2, 3), (6,)], config)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        moved = guide(0, torch.tensor(999), latents)
    assert len(guide.energies) == 8
    assert all(after < before for before, after in itertools.pairwise(guide.energies))
    assert not torch.equal(moved, latents)
    with torch.no_grad():
        assert torch.equal(guide(3, torch.tensor(249), latents), latents), "past its share of the steps"
    assert not any(parameter.requires_grad for parameter in sd.denoiser.parameters())


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_without_moves_it_is_plain_sampling(family: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(family)
    plain = sample(backbone, [PROMPT], seeds=[3], config=SAMPLING)
    off = pictures(backbone, seeds=[3], config=quick(iterations=0))
    satisfied = pictures(backbone, seeds=[3], config=quick(scale=0.0))
    moved = pictures(backbone, seeds=[3], config=quick(scale=30.0))
    assert torch.equal(off, plain.detach())
    assert torch.equal(satisfied, plain.detach())
    assert not torch.equal(moved, plain)
    both = pictures(backbone, seeds=[5, 3], config=quick(scale=30.0))
    assert torch.equal(both[1:], moved), "a picture depends on its own seed alone"


def test_attention_is_moved_into_the_window_by_hand() -> None:
    maps = torch.rand(2, 2, 16, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    left = Box(phrase="x", left=0.0, top=0.0, right=0.5, bottom=1.0)
    moved = WindowedMaps([left], [[1, 2]], (4, 4), 0.75, row=1)("path", maps)
    window = window_of(left, 4, 4).flatten()
    for token in (1, 2):
        expected = 0.25 * maps[1, :, :, token] + 0.75 * window * maps[1, :, :, token].sum(1, keepdim=True)
        torch.testing.assert_close(moved[1, :, :, token], expected)
    assert torch.equal(moved[1, ..., [0, 3]], maps[1, ..., [0, 3]]), "other words keep their attention"
    assert torch.equal(moved[0], maps[0]), "what is unconditional has no layout"
    torch.testing.assert_close(moved.sum(2), maps.sum(2))


def test_a_window_is_a_bell_over_its_box() -> None:
    box = Box(phrase="x", left=0.25, top=0.25, right=0.5, bottom=0.75)
    window = window_of(box, 32, 64)
    assert window.sum() == pytest.approx(1.0, abs=1e-5)
    assert divmod(int(window.argmax()), 64) in [(row, column) for row in (15, 16) for column in (23, 24)]
    inside = box.coverage(32, 64) > 0
    assert float(window[inside].sum()) == pytest.approx(0.9545**2, abs=0.02)  # two deviations, in both directions
    small = window_of(Box(phrase="x", left=0.01, top=0.01, right=0.02, bottom=0.02), 4, 4)
    assert small.isfinite().all()
    assert small[0, 0] > 0.7


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_forward_guidance_lasts_for_its_share(family: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(family)
    plain = pictures(backbone, seeds=[3], config=quick(iterations=0))
    over = pictures(backbone, seeds=[3], config=quick(iterations=0, forward=1.0, forward_last=0.0))
    assert torch.equal(over, plain)
    moved = [pictures(backbone, seeds=[3], config=quick(iterations=0, forward=share)) for share in (0.5, 1.0)]
    assert not torch.equal(moved[0], plain)
    assert not torch.equal(moved[0], moved[1])
    both = pictures(backbone, seeds=[5, 3], config=quick(iterations=0, forward=1.0))
    assert torch.equal(both[1:], moved[1]), "a picture depends on its own seed alone"
    with pytest.raises(ConfigError, match=r"forward 1.5 .* expected shares in \[0, 1\]"):
        quick(forward=1.5)


def test_the_middle_and_the_first_decoder_block_are_looked_at(sd: AbstractBackbone) -> None:
    assert {path.split(".")[0] for path in energy_paths(sd, 1)} == {"mid_block", "up_blocks"}
    assert {path.split(".")[1] for path in energy_paths(sd, 1)} == {"attentions", "0"}
    assert len(energy_paths(sd, 0)) == 1
    assert len(energy_paths(sd, 2)) > len(energy_paths(sd, 1))


def test_boxes_are_read_as_written(tmp_path: Path) -> None:
    assert parse_box("the red robot: 0.1, 0.2 0.5  0.9") == Box(
        phrase="the red robot", left=0.1, top=0.2, right=0.5, bottom=0.9
    )
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"robot": [0.1, 0.2, 0.5, 0.9], "cat": [0, 0, 1, 1]}))
    assert [box.phrase for box in read_boxes(path)] == ["robot", "cat"]
    coverage = Box(phrase="x", left=0.25, top=0.0, right=0.75, bottom=0.625).coverage(4, 2)
    assert coverage.tolist() == [[0.5, 0.5], [0.5, 0.5], [0.25, 0.25], [0, 0]]
    for text in ("robot 0 0 1 1", "robot: 0 0 1", "robot: a b c d", ": 0 0 1 1", "robot: 0.5 0 0.5 1", "x: 0 0 1 1.5"):
        with pytest.raises(UsageError, match='as in "robot: 0.1 0.2 0.5 0.9"'):
            parse_box(text)
    for data in ([1, 2], {"robot": [1, 2]}, {"robot": [0, 0, True, 1]}, {"robot": "0 0 1 1"}):
        path.write_text(json.dumps(data))
        with pytest.raises(UsageError, match="expected"):
            read_boxes(path)


def test_learned_subjects_stand_in_boxes(sd: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    recipe = RECIPES["textual-inversion"].build("dog", "toybox").with_steps(1)
    learn(photos, noun="dog", output=tmp_path / "rex", recipe=recipe, base=sd)
    cast, boxes = open_cast([tmp_path / "rex"]), [parse_box("{subject}: 0 0 0.5 1")]
    made = draw_layouts(cast, ["{subject} in the snow"], boxes, seeds=[0], config=quick(), base=sd)
    assert made[0].prompt == "{subject} in the snow"
    assert made[0].facts["boxes"][0]["phrase"] == "{subject}"
    book = Ledger(tmp_path / "toys")
    tiny = dataclasses.replace(c_lora("dog", "toybox", token="<rex>"), sampling=SAMPLING).with_steps(1)
    book.add(photos, name="rex", noun="dog", base=sd, recipe=tiny)
    many = open_cast([tmp_path / "toys"])
    boxes = [parse_box("{rex}: 0 0 0.5 1"), parse_box("cat: 0.5 0 1 1")]
    assert len(draw_layouts(many, ["{rex} and a cat"], boxes, seeds=[0, 1], config=quick(), base=sd)) == 2
    with pytest.raises(UsageError, match="add --subject FOLDER"):
        draw_layouts(open_cast(), ["{subject}"], boxes, seeds=[0], config=quick(), base=sd)
    with pytest.raises(UsageError, match="brings its own base"):
        open_cast([tmp_path / "rex"], "toybox")
    wrong = [parse_box("horse: 0 0 1 1")]
    with pytest.raises(UsageError, match="'horse' does not stand in the prompt"):
        draw_layouts(cast, ["a dog"], wrong, seeds=[0], config=quick(), base=sd)
    with pytest.raises(UsageError, match="got none"):
        draw_layouts(cast, ["a dog"], [], seeds=[0], config=quick(), base=sd)
    twice = [parse_box("dog: 0 0 1 1")] * 2
    with pytest.raises(UsageError, match="boxes of different phrases, got dog, dog"):
        draw_layouts(cast, ["a dog"], twice, seeds=[0], config=quick(), base=sd)
