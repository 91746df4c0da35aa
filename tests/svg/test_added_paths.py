"""New paths of a customised drawing: what lies beneath, what on top, and what is not worth a path."""

import dataclasses
from pathlib import Path as FilePath

import pytest
import torch
from torch import Tensor

from pcs_ext.svg.added_paths import with_added, without_idle
from pcs_ext.svg.vector.read import parse_svg, read_svg
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Path, Scene
from pcs_ext.svg.vector.write import patch_svg

EXAMPLES = FilePath(__file__).parents[2] / "examples" / "svg"
SIDE = 64
LEAST = 12.0
BLUE = torch.tensor([0.2, 0.3, 0.9])
GREEN = torch.tensor([0.1, 0.7, 0.2])


@pytest.fixture
def dog() -> Scene:
    return read_svg(EXAMPLES / "dog.svg").scene


def picture(scene: Scene) -> Tensor:
    return render(scene, SIDE, SIDE).float()


def on_meadow(scene: Scene) -> Tensor:
    """The drawing before a blue sky, on a green meadow."""
    ground = BLUE[:, None, None].expand(3, SIDE, SIDE).clone()
    ground[:, 44:] = GREEN[:, None, None]
    shown = render(scene, SIDE, SIDE, background=None).float()
    return shown[:3] + (1 - shown[3:]) * ground


def order(scene: Scene, own: Scene) -> tuple[list[Path], list[Path]]:
    """New paths beneath and on top; the drawing's own are where they were."""
    names = [path.id for path in own.paths]
    first = [path.id for path in scene.paths].index(names[0])
    assert [path.id for path in scene.paths[first : first + len(names)]] == names
    return list(scene.paths[:first]), list(scene.paths[first + len(names) :])


def test_a_ground_lies_beneath_and_hides_nothing(dog: Scene) -> None:
    target = on_meadow(dog)
    scene, done = with_added(dog, target, 3, LEAST)
    beneath, top = order(scene, dog)
    assert not top
    assert len(beneath) >= 2
    assert done == {beneath[0].id}
    assert beneath[0].fill is not None
    assert torch.allclose(beneath[0].fill.color.float(), BLUE, atol=1e-3)
    covered = render(dog, SIDE, SIDE, background=None)[3] > 0.999
    assert torch.allclose(picture(scene)[:, covered], picture(dog)[:, covered], atol=4e-3)
    assert (picture(scene) - target).abs().mean() < 0.3 * (picture(dog) - target).abs().mean()


def test_a_white_page_stays_open_and_a_covered_one_gets_no_ground(dog: Scene) -> None:
    scene, done = with_added(dog, picture(dog), 3, LEAST)
    assert scene.paths == dog.paths
    assert not done
    house = read_svg(EXAMPLES / "house.svg").scene
    target = picture(house).clone()
    target[:, :20] = GREEN[:, None, None]
    scene, done = with_added(house, target, 3, LEAST)
    assert not done
    assert not order(scene, house)[0]


def test_what_the_drawing_lacks_lies_on_top_and_what_it_hides_is_left_to_its_paths(dog: Scene) -> None:
    target = on_meadow(dog)
    target[:, 14:20, 29:36] = torch.tensor([1.0, 0.9, 0.0])[:, None, None]
    top = order(with_added(dog, target, 4, LEAST)[0], dog)[1]
    assert len(top) == 1
    assert top[0].fill is not None
    assert torch.allclose(top[0].fill.color.float(), torch.tensor([1.0, 0.9, 0.0]), atol=1e-3)
    gone = on_meadow(dog)
    gone[:, 14:20, 29:36] = BLUE[:, None, None]
    assert not order(with_added(dog, gone, 4, LEAST)[0], dog)[1]


def test_rings_do_not_become_discs(dog: Scene) -> None:
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    away = ((rows - 24) ** 2 + (columns - 31) ** 2).sqrt()
    target = picture(dog).clone()
    target[:, (away > 9) & (away < 11)] = GREEN[:, None]
    assert not order(with_added(dog, target, 3, LEAST)[0], dog)[1]


def test_paths_that_help_nothing_go(dog: Scene) -> None:
    target = on_meadow(dog)
    scene, _ = with_added(dog, target, 3, LEAST)
    own = {path.id for path in dog.paths}
    assert without_idle(scene, target, own).paths == scene.paths
    blob = dataclasses.replace(scene.paths[0], id="added-9")
    assert without_idle(dataclasses.replace(scene, paths=(*scene.paths, blob)), target, own).paths == scene.paths


def test_files_get_them_under_everything_that_is_drawn(dog: Scene) -> None:
    source = b"""<?xml version="1.0"?>
<s:svg xmlns:s="http://www.w3.org/2000/svg" viewBox="0 0 10 10" width="10" height="10">
<s:title>T</s:title><s:style>.a{fill:#ff0000}</s:style><!-- here -->
<s:g id="all"><s:path id="one" class="a" d="M1 1H9V9H1Z"/></s:g><s:path id="two" d="M0 0H2V2H0Z"/></s:svg>"""
    document = parse_svg(source)
    ground = dataclasses.replace(document.scene.paths[1], id="ground")
    made = parse_svg(patch_svg(document, document.scene, added=(), beneath=(ground,)))
    assert [path.id for path in made.scene.paths] == ["ground", "one", "two"]
    tags = [child.tag for child in made.tree.getroot() if isinstance(child.tag, str)]
    assert [tag.rpartition("}")[2] for tag in tags] == ["title", "style", "g", "g", "path"]
    assert made.tree.getroot()[3].get("id") == "added-beneath"
