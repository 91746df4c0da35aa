"""Pictures into layers of paths: likeness, order, files and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pcs_ext.cli import main
from pcs_ext.config_io import write_json
from pcs_ext.errors import InputError, PhotoError, UsageError
from pcs_ext.svg.vector.components import connected
from pcs_ext.svg.vector.read import read_svg
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Scene
from pcs_ext.svg.vector.trace import trace
from pcs_ext.svg.vector.vectorize import Vectorization, vectorize
from tests.svg.conftest import reference

SHORT = Vectorization(paths=6, rounds=2, steps=25, side=48)


@pytest.fixture
def picture(scene: Scene, tmp_path: Path) -> Path:
    """Sixteen blobs as a PNG of 96 pixels."""
    levels = (render(scene, 96, 96).permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(levels).save(tmp_path / "blobs.png")
    return tmp_path / "blobs.png"


def test_more_paths_come_nearer_and_beat_the_plain_ground(scene: Scene) -> None:
    target = render(scene, 48, 48).float()
    flat = (target - target.mean((1, 2), keepdim=True)).square().mean()
    few = vectorize(target, SHORT)
    many = vectorize(target, Vectorization(paths=16, rounds=3, steps=25, side=48))
    errors = [float((render(found, 48, 48) - target).square().mean()) for found in (few, many)]
    assert len(few.paths) == 6
    assert errors[1] < errors[0] < 0.5 * float(flat)
    assert errors[1] < 0.2 * float(flat)


def test_the_command_writes_a_file_that_other_programs_draw_alike(picture: Path, tmp_path: Path) -> None:
    before = picture.read_bytes()
    output = tmp_path / "new" / "blobs.svg"
    main(["svg", "vectorize", str(picture), "-o", str(output), "--paths", "8", "--steps", "25", "--side", "48"])
    assert picture.read_bytes() == before
    assert [file.name for file in output.parent.iterdir()] == ["blobs.svg"]
    document = read_svg(output)
    assert document.scene.size == (96, 96)
    assert document.scene.paths[0].id == "ground"
    mean = (reference(output.read_bytes(), 96) - render(document.scene, 96, 96)).abs().mean() * 255
    assert mean <= 0.3


def test_runs_repeat_bit_for_bit(picture: Path, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        trace(picture, tmp_path / name, SHORT)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_bad_input_is_refused_in_words(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"ends in \.svg"):
        trace(picture, picture, SHORT)
    with pytest.raises(PhotoError, match="cannot be read"):
        trace(tmp_path / "none.png", tmp_path / "a.svg", SHORT)
    with pytest.raises(UsageError, match="expected 1 to 512"):
        trace(picture, tmp_path / "a.svg", Vectorization(paths=0))
    Image.new("RGB", (4, 40)).save(tmp_path / "thin.png")
    with pytest.raises(InputError, match="at least 8 x 8"):
        trace(tmp_path / "thin.png", tmp_path / "a.svg", SHORT)
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match="8 bits"):
        trace(tmp_path / "deep.png", tmp_path / "a.svg", SHORT)
    picture.write_bytes(picture.read_bytes()[:300])
    with pytest.raises(SystemExit, match="3"):
        main(["svg", "vectorize", str(picture), "-o", str(tmp_path / "a.svg")])
    assert "cannot be decoded" in capsys.readouterr().err
    assert not (tmp_path / "a.svg").exists()


def test_one_colour_needs_one_path() -> None:
    scene = vectorize(torch.full((3, 20, 30), 0.25), SHORT)
    assert [path.id for path in scene.paths] == ["ground"]


def test_regions_are_four_connected() -> None:
    labels = connected(torch.tensor([[1, 1, 2], [2, 1, 2], [1, 2, 2], [1, 1, 1]]))
    same = labels == labels[0, 0]
    assert same.tolist() == [[True, True, False], [False, True, False], [False] * 3, [False] * 3]
    assert labels[0, 2] == labels[2, 1] == labels[1, 2]
    assert labels[1, 0] != labels[0, 2]
    assert labels[2, 0] == labels[3, 2]
    assert len(labels.unique()) == 4


def test_the_commands_replace_no_file_that_nobody_gave_up(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.svg"
    mine.write_text("drawn by hand")
    for command in (("svg", "vectorize", str(picture)), ("svg", "make", str(tmp_path), "a {subject}")):
        with pytest.raises(SystemExit, match="3"):
            main([*command, "-o", str(mine)])
        assert "exists already; choose another --output or pass --overwrite" in capsys.readouterr().err
    assert mine.read_text() == "drawn by hand"
    few = ["--paths", "2", "--steps", "2", "--rounds", "1", "--side", "24"]
    main(["svg", "vectorize", str(picture), "-o", str(mine), "--overwrite", *few])
    assert mine.read_text() != "drawn by hand"
    settings = tmp_path / "settings.json"
    write_json(settings, Vectorization(paths=2, rounds=1, steps=2, side=24))
    told = ["svg", "vectorize", str(picture), "-o", str(tmp_path / "b.svg"), "--config", str(settings)]
    with pytest.raises(SystemExit, match="2"):
        main([*told, "--paths", "9"])
    assert "--config has all settings; leave out --paths" in capsys.readouterr().err
    main(told)
    assert (tmp_path / "b.svg").read_bytes() == mine.read_bytes()
