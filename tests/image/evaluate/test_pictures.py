"""Files become squares of the asked size, without moving what is already right."""

import pytest
import torch
from PIL import Image

from pcs_ext.errors import PhotoError, UsageError
from pcs_ext.image.evaluate import square_images
from pcs_ext.image.evaluate.generation import make_images
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import SilentReporter


def test_the_middle_square_is_taken_and_resized(tmp_path):
    wide = Image.new("RGB", (144, 48), "black")
    wide.paste("white", (48, 0, 96, 48))
    wide.save(tmp_path / "wide.png")
    Image.effect_noise((32, 32), 50).convert("RGB").save(tmp_path / "small.png")
    images = square_images([tmp_path / "wide.png", tmp_path / "small.png"], 32)
    assert images.shape == (2, 3, 32, 32)
    assert torch.allclose(images[0], torch.ones(3, 32, 32))
    stored = torch.tensor(list(Image.open(tmp_path / "small.png").convert("L").tobytes())).reshape(32, 32)
    assert torch.allclose(images[1][0], stored / 127.5 - 1, atol=1e-6)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PhotoError, match="nothing.png"):
        square_images([tmp_path / "nothing.png"], 32)


def test_pictures_that_were_not_made_here_are_neither_replaced_nor_measured(tmp_path):
    def paint(prompts, seeds):
        return [GeneratedImage(Image.new("RGB", (4, 4)), text, {}) for text in prompts for _ in seeds]

    def made(folder, facts):
        return make_images(folder, ["a", "b"], (3, -1), paint, facts=facts, task="t", reporter=SilentReporter())

    mine = {name: name.encode() for name in ("2024-05-01.png", "07-trip.png", "notes.txt")}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    assert [path.name for path in made(tmp_path, {"base": 1}).paths] == [
        "00-3.png",
        "00--1.png",
        "01-3.png",
        "01--1.png",
    ]
    (tmp_path / "00-9.png").write_bytes(b"of seeds before")
    made(tmp_path, {"base": 2})
    assert not (tmp_path / "00-9.png").exists()
    assert {name: (tmp_path / name).read_bytes() for name in mine} == mine
    (tmp_path / "made_from.json").unlink()
    with pytest.raises(UsageError, match="that were not made here; choose another --output"):
        made(tmp_path, {"base": 2})
