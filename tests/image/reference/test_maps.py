"""Condition maps: read beside photos and in commands, left out by chance, told to the denoiser."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pcs_ext.config_io import write_json
from pcs_ext.errors import CheckpointError, ConfigError, Interrupted, PhotoError, UsageError
from pcs_ext.image.data import find_photos
from pcs_ext.image.edges import canny
from pcs_ext.image.reference.learn import learn_reference
from pcs_ext.image.reference.maps import (
    Dropping,
    GivenMap,
    albums_of_maps,
    as_picture,
    check_kinds,
    check_maps,
    filled,
    maps_of,
    one_of,
    read_given,
    stacked,
)
from pcs_ext.reporter import SilentReporter
from tests.support.command_line import run
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import TINY, tiny_vision


def grey(path: Path, size: tuple[int, int], level: int) -> Path:
    """A picture of that width and height, of one level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)
    return path


def as_map(given: Any) -> GivenMap:
    """A map that is a picture."""
    assert isinstance(given, GivenMap)
    return given


def test_a_map_is_cut_to_the_shape_that_is_drawn() -> None:
    wide = torch.linspace(-1, 1, 80).expand(3, 40, 80)
    made = filled(wide, (20, 20))
    assert made.shape == (3, 20, 20)
    # The middle half of the columns, two of which are one.
    torch.testing.assert_close(made[0, 5], filled(wide[:, :, 20:60], (20, 20))[0, 5])
    assert filled(wide, (10, 20)).shape == (3, 10, 20)
    torch.testing.assert_close(filled(wide, (40, 80)), wide)


def test_kinds_lie_one_behind_the_other_and_those_not_given_are_zeros() -> None:
    normals = torch.stack([torch.full((8, 8), level) for level in (-1.0, 0.0, 1.0)])
    given: Any = {"normals": GivenMap(picture=normals), "depth": GivenMap(picture=torch.full((3, 8, 8), 0.5))}
    made = stacked(given, ("mask", "depth", "normals"), (8, 8))
    torch.testing.assert_close(made, torch.tensor([0, 0.75, 0, 0.5, 1])[:, None, None].expand(5, 8, 8))
    photo = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = stacked({"edges": GivenMap(picture=photo, photo=True)}, ("edges",), (16, 16))
    assert torch.equal(found, canny(photo[None])[0])


def test_files_lie_in_folders_named_after_kinds(photos: Path, tmp_path: Path) -> None:
    (photo,) = find_photos(photos / "0.png")
    size = photo.image.shape[2], photo.image.shape[1]
    grey(photos / "depth" / "0.png", size, 102)
    grey(photos / "0_mask.png", size, 255)
    (photo,) = find_photos(photos / "0.png")
    found = maps_of(photo, ("edges", "depth", "mask", "pose"))
    assert set(found) == {"edges", "depth", "mask"}
    assert as_map(found["edges"]).photo
    made = stacked(found, ("depth", "mask"), (32, 32))
    torch.testing.assert_close(made, torch.tensor([0.4, 1.0])[:, None, None].expand(2, 32, 32))
    grey(photos / "edges" / "0.jpg", size, 0)
    assert not as_map(maps_of(photo, ("edges",))["edges"]).photo
    check_maps([photo], ("edges", "depth", "mask"), photos)
    with pytest.raises(PhotoError, match=r"no photo in .* has a map of kind pose; expected pose/NAME.png"):
        check_maps([photo], ("pose",), photos)
    grey(photos / "depth" / "0.png", (2 * size[0], size[1]), 102)
    with pytest.raises(PhotoError, match="expected the same shape"):
        maps_of(photo, ("depth",))


def test_maps_of_an_album_are_an_album_to_draw_after_its_photos(photos: Path) -> None:
    found = find_photos([photos / "0.png", photos / "1.png"])
    for photo in found:
        grey(photos / "depth" / photo.path.name, (photo.image.shape[2], photo.image.shape[1]), 204)
    grey(photos / "normals" / "0.png", (found[0].image.shape[2], found[0].image.shape[1]), 9)
    kinds: Any = ("edges", "depth", "normals", "photo")
    edges, depth = albums_of_maps(found, kinds)
    torch.testing.assert_close(depth[0].image, torch.full_like(found[0].image, 0.6))
    assert torch.equal(edges[1].image, 2 * canny(found[1].image[None])[0].expand(3, -1, -1) - 1)
    given = maps_of(depth[0], kinds)
    assert set(given) == {"photo"}
    assert torch.equal(as_map(given["photo"]).picture, found[0].image)
    assert set(maps_of(found[0], kinds)) == {"edges", "depth", "normals"}


def test_maps_in_commands_name_kinds_that_the_adapter_reads(photos: Path) -> None:
    file = photos / "0.png"
    given = read_given([f"depth={file}", f"edges-of={file}"], ("edges", "depth"))
    assert {kind: as_map(one).photo for kind, one in given.items()} == {"depth": False, "edges": True}
    for texts, kinds, one, message in (
        ([f"depth={file}"], (), False, "reads no condition maps"),
        ([f"pose={file}"], ("edges", "depth"), False, "expected edges=FILE, depth=FILE, edges-of=PHOTO"),
        (["depth"], ("depth",), False, "expected depth=FILE"),
        ([f"edges={file}", f"edges-of={file}"], ("edges",), False, "names edges twice"),
        ([f"edges={file}", f"depth={file}"], ("edges", "depth"), True, "one map at a time, .* names edges, depth"),
    ):
        with pytest.raises(UsageError, match=message):
            read_given(texts, kinds, one=one)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"different ones of edges, .*, got depth, dept"):
        check_kinds(("depth", "dept"))


def test_maps_are_left_out_as_a_whole_each_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.ones(4000, 4, 1, 1)
    kinds: Any = ("depth", "normals")
    kept = Dropping(keep_all=0.2, drop_all=0.3, drop_each=0.5)(maps, kinds, generator)[..., 0, 0]
    assert torch.equal(kept[:, 1], kept[:, 2])
    assert torch.equal(kept[:, 2], kept[:, 3])
    # Each is there in 0.2 + 0.5 x 0.5, both in 0.2 + 0.5 x 0.25, none in 0.3 + 0.5 x 0.25.
    both, none = (kept.amin(1) == 1).float().mean(), (kept.amax(1) == 0).float().mean()
    assert kept[:, 0].mean() == pytest.approx(0.45, abs=0.03)
    assert float(both) == pytest.approx(0.325, abs=0.03)
    assert float(none) == pytest.approx(0.425, abs=0.03)
    assert torch.equal(Dropping()(maps, kinds, generator), maps)


def test_one_of_several_maps_is_a_picture() -> None:
    generator, kinds = torch.Generator().manual_seed(0), ("depth", "normals", "mask")
    maps = torch.full((600, 5, 1, 1), 0.5)
    maps[:200, 0] = 0  # no depth
    maps[0] = 0
    chosen = one_of(maps, kinds, generator)  # type: ignore[arg-type]
    groups = torch.stack([chosen[:, :1].amax(1), chosen[:, 1:4].amax(1), chosen[:, 4:].amax(1)], 1)[..., 0, 0]
    assert (groups > 0).sum(1).tolist() == [0, *[1] * 599]
    assert groups[:200, 0].max() == 0, "an empty one is not chosen"
    assert 90 < int((groups[200:, 0] > 0).sum()) < 180
    picture = as_picture(chosen, kinds)  # type: ignore[arg-type]
    assert picture.shape == (600, 3, 1, 1)
    assert picture[1:].unique().tolist() == [0.5]


class Stopping(SilentReporter):
    """Presses Ctrl-C in the second part of a training."""

    def progress(self, task: str, step: int, total: int, **values: float) -> None:
        if (task, step) == ("learn reference (global)", 1):
            raise KeyboardInterrupt


def test_a_system_is_trained_with_maps_and_draws_after_them(
    tiny_sd_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, machine = albums(tmp_path / "pairs"), ["--device", "cpu", "--precision", "fp32"]
    settings = {"adapter": TINY["uni-controlnet"], "steps": 4, "batch_size": 2, "learning_rate": 0.05}
    write_json(tmp_path / "tiny.json", settings)
    asked: dict[str, Any] = {
        "system": "uni-controlnet", "base": str(tiny_sd_path), "encoder": str(tiny_vision(tmp_path / "eye")),
        "device": "cpu", "precision": "fp32", "config": tmp_path / "tiny.json",
    }  # fmt: skip
    adapter = tmp_path / "uni"
    with pytest.raises(PhotoError, match="no photo in .* has a map of kind depth"):
        learn_reference(pairs, adapter, **asked)
    for album in pairs.iterdir():
        for number in range(3):
            grey(album / "depth" / f"{number}.png", (40, 36 + number), 40 * number)
    with pytest.raises(Interrupted):
        learn_reference(pairs, adapter, **asked, reporter=Stopping())
    changed = grey(pairs / "dog-album" / "depth" / "0.png", (40, 36), 255)
    with pytest.raises(CheckpointError, match="made by other settings"):
        learn_reference(pairs, adapter, **asked)
    grey(changed, (40, 36), 0)
    learn_reference(pairs, adapter, **asked)
    square, made = tmp_path / "square.png", {}
    drawing = Image.new("RGB", (64, 64))  # noise need not have edges
    drawing.paste((255, 255, 255), (16, 16, 48, 48))
    drawing.save(square)
    for name, given in (
        ("none", []),
        ("dark", [f"depth={grey(tmp_path / 'dark.png', (64, 40), 0)}"]),
        ("light", [f"depth={grey(tmp_path / 'light.png', (64, 40), 255)}"]),
        ("both", [f"depth={tmp_path / 'light.png'}", f"edges-of={square}"]),
    ):
        output = tmp_path / f"drawn-{name}.png"
        flags = ["--reference-map", *given] if given else []
        code, _, err = run(
            "image", "a photo of the dog", "--base", tiny_sd_path, "-o", output, *machine, "--steps", "2",
            "--reference", photos / "0.png", "--reference-adapter", adapter, *flags, capture=capsys,
        )  # fmt: skip
        assert code == 0, err
        with Image.open(output) as image:
            made[name] = image.tobytes(), json.loads(image.info["pcs_ext"])
    assert made["both"][1]["reference_maps"] == ["depth", "edges"]
    assert "reference_maps" not in made["none"][1]
    assert len({pixels for pixels, _ in made.values()}) == 4, "maps make a difference"
    command = ["image", "the dog", "--base", tiny_sd_path, "-o", tmp_path / "no.png", *machine, "--reference"]
    shown = [photos / "0.png", "--reference-adapter", adapter, "--reference-map", f"pose={photos / '0.png'}"]
    code, _, err = run(*command, *shown, capture=capsys)
    assert (code, "is no map that this adapter reads; expected edges=FILE, depth=FILE" in err) == (2, True), err
