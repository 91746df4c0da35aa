"""Files become squares of the asked size, without moving what is already right."""

import pytest
import torch
from PIL import Image

from pcs_ext.errors import PhotoError
from pcs_ext.image.evaluate import square_images


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
