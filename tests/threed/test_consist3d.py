"""A photo turned by its depth, the second token that learns from it, and what Consist3D refuses."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pcs_ext.config_io import read_json
from pcs_ext.errors import ConfigError, InputError, UsageError
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Photo
from pcs_ext.image.subject import Artifact
from pcs_ext.threed import turned_views
from pcs_ext.threed.cameras import orbit, ring
from pcs_ext.threed.turned_views import TurnConfig, both_words, make_turned_views, shape_caption
from pcs_ext.threed.warp import inflated, read_nearness, warped
from pcs_ext.toybox.world.render import render
from pcs_ext.toybox.world.scene import Camera, Scene
from pcs_ext.toybox.world.subjects import SUBJECTS
from tests.support.small_jobs import Learned, make


def test_a_picture_turned_by_its_true_depth_is_the_true_view() -> None:
    places = [Camera(azimuth=azimuth, elevation=elevation) for azimuth, elevation in ((0.0, 15.0), (20.0, 22.0))]
    truth = render([Scene(objects=(SUBJECTS["pip"],), camera=place) for place in places], resolution=96, supersample=1)
    cameras = orbit([0.0, 20.0], [15.0, 22.0], [5.2] * 2, [32.0] * 2, (0.0, 0.0, 0.75))
    source, target = cameras[[0]], cameras[[1]]
    found, seen = warped(truth.rgb[0], truth.depth[0], truth.mask[0], source, target)
    both = seen[0, 0] & truth.mask[1]
    assert both.sum() > 0.7 * truth.mask[1].sum()
    assert (seen[0, 0] & ~truth.mask[1]).sum() < 0.03 * truth.mask[1].sum()
    assert (found[0, :, ~seen[0, 0]] == 0).all()
    error, unmoved = ((one - truth.rgb[1])[:, both].abs().mean() for one in (found[0], truth.rgb[0]))
    assert error < 0.5 * unmoved
    same, whole = warped(truth.rgb[0], truth.depth[0], truth.mask[0], source, source)
    inside = whole[0, 0]
    assert inside.sum() > 0.85 * truth.mask[0].sum()
    torch.testing.assert_close(same[0, :, inside], truth.rgb[0, :, inside], atol=0.02, rtol=0)


def test_parts_that_turn_away_are_not_seen() -> None:
    image, depth = torch.ones(3, 16, 16), torch.full((16, 16), 5.0)
    front, behind = ring(2, elevation=0.0, distance=5.0, target=(0.0, 0.0, 0.0))[[0]], ring(2, elevation=0.0)[[1]]
    _, seen = warped(image, depth, torch.ones(16, 16, dtype=torch.bool), front, behind)
    assert not seen.any()
    with pytest.raises(UsageError, match="expected depth and cover of 16 x 16"):
        warped(image, depth[:8], torch.ones(16, 16, dtype=torch.bool), front, behind)


def test_an_outline_becomes_round(tmp_path: Path) -> None:
    row, column = torch.meshgrid(torch.arange(41) - 20.0, torch.arange(41) - 20.0, indexing="ij")
    radius = (row.square() + column.square()).sqrt()
    found = inflated(radius < 15.5)
    ball = (1 - (radius / 15.5).square()).clamp_min(0).sqrt()
    assert float((found - ball).abs().max()) < 0.3
    assert float((found - ball).abs().mean()) < 0.02
    assert found[20, 20] == 1
    with pytest.raises(InputError, match="covers nothing"):
        inflated(torch.zeros(4, 4, dtype=torch.bool))
    deep = (np.linspace(0, 1, 64)[None] * np.ones((64, 1)) * 60000).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    nearness = read_nearness(tmp_path / "deep.png", (64, 64))
    assert nearness[0, 0] == 0
    assert nearness[0, -1] == 1
    Image.new("L", (40, 40), 9).save(tmp_path / "flat.png")
    with pytest.raises(InputError, match="is 9 everywhere"):
        read_nearness(tmp_path / "flat.png", (8, 8))
    with pytest.raises(ConfigError, match="a relief above 0"):
        TurnConfig(relief=0.0)


def test_depth_is_read_in_either_byte_order_and_must_be_finite(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 32, dtype=np.float32)[None].repeat(32, 0)
    levels = (ramp * 60_000).astype(">u2").tobytes()
    tags = [(256, 32), (257, 32), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 32)]
    entries = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    entries += struct.pack(">HHII", 279, 4, 1, len(levels))
    header, end = b"MM\0*" + struct.pack(">I", 8 + len(levels)), struct.pack(">I", 0)
    (tmp_path / "deep.tiff").write_bytes(header + levels + struct.pack(">H", 9) + entries + end)
    found = read_nearness(tmp_path / "deep.tiff", (32, 32))
    torch.testing.assert_close(found, torch.from_numpy(ramp), atol=1e-3, rtol=0)
    ramp[0, 0] = np.inf
    Image.fromarray(ramp).save(tmp_path / "far.tiff")
    with pytest.raises(InputError, match="holds numbers that are not finite"):
        read_nearness(tmp_path / "far.tiff", (32, 32))


@pytest.mark.parametrize("size", [(20, 40), (40, 20)])
def test_depth_is_cropped_as_its_photo_is(tmp_path: Path, size: tuple[int, int], monkeypatch: Any) -> None:
    height, width = size
    middle = torch.zeros(1, height, width)
    middle[:, height // 2 - 5 : height // 2 + 5, width // 2 - 5 : width // 2 + 5] = 1
    Image.fromarray((middle[0] * 255).byte().numpy()).save(tmp_path / "depth.png")
    photo = Photo(path=tmp_path / "photo.png", image=middle.expand(3, -1, -1), mask=middle)
    told: list[torch.Tensor] = []

    def listening(image: torch.Tensor, depth: torch.Tensor, cover: torch.Tensor, *cameras: Any) -> Any:
        told.extend([depth, cover])
        return warped(image, depth, cover, *cameras)

    monkeypatch.setattr(turned_views, "warped", listening)
    make_turned_views(tmp_path / "views", photo, tmp_path / "depth.png", 20, "a dog", TurnConfig(), (0.0, 0.0, 0.75))
    near = told[0] < TurnConfig().distance
    assert torch.equal(near, told[1])
    assert int(near.sum()) == 100


def test_both_tokens_stand_where_the_subject_goes() -> None:
    what = Concept(class_noun="dog", mode="learned", token="<rex>", with_noun=False)
    shape = Concept(class_noun="dog", mode="learned", token="<shape>", with_noun=False, article=False)
    assert shape_caption(what) == "a photo of a <rex> {subject}"
    assert shape.prompt(shape_caption(what)) == "a photo of a <rex> <shape>"
    assert both_words(what, shape, "my {subject} in snow") == "my <rex> <shape> in snow"


def test_consist3d_learns_a_second_token_and_a_field(learned: Learned, tmp_path: Path) -> None:
    made = make(learned, tmp_path, "consist3d", colors="vertex")
    assert made.mesh.volume > 0
    views = made.work / "turned_views"
    assert {path.name for path in views.iterdir()} == {
        f"0{index}{end}" for index in range(3) for end in (".png", "_mask.png", ".txt")
    }
    whole, turned = (np.array(Image.open(views / f"{name}_mask.png")) for name in ("00", "01"))
    assert (whole == 255).all()
    assert 0.05 < (turned > 0).mean() < 0.9
    word = Artifact.load(made.work / "shape_word")
    assert word.data.training["after"] == [Artifact.load(learned.word).data.content_hash]
    stored = load_file(made.work / "shape_word" / "adapter.safetensors")
    assert set(stored) == {"shape/text_encoder.weight", "shape/text_encoder.initial"}
    assert not torch.equal(stored["shape/text_encoder.weight"], stored["shape/text_encoder.initial"])
    assert read_json(made.work / "result.json")["prompt"] == "a photo of a <subject>"


def test_consist3d_says_what_it_needs(learned: Learned, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="starts from one photo, got 2"):
        make(learned, tmp_path, "consist3d", subject=learned.subject, photos=learned.photos)
    bare = tmp_path / "0.png"
    bare.write_bytes(learned.photo.read_bytes())
    with pytest.raises(InputError, match=r"put 0_mask.png beside it .* or give a depth picture"):
        make(learned, tmp_path, "consist3d", photos=bare)
    with pytest.raises(UsageError, match="takes no depth picture"):
        make(learned, tmp_path, "dreamfusion", depth=bare)
    with pytest.raises(InputError, match="expected a depth picture of 8 or 16 bits"):
        make(learned, tmp_path, "consist3d", depth=tmp_path / "nowhere.png")
    with pytest.raises(UsageError, match="learns from the photos again"):
        make(learned, tmp_path, "consist3d", photos=())
    assert not list(tmp_path.glob("*.work"))
