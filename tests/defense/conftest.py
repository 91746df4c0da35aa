"""The embedded base, loaded once, and small photos of a toy."""

from pathlib import Path

import pytest
from PIL import Image

from pcs_ext.defense.photos import OwnPhoto, read_own_photo
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def toybox() -> AbstractBackbone:
    """The embedded base in float32 on the CPU. Adapters must have left it again."""
    return load_backbone("toybox", device="cpu", precision="fp32")


@pytest.fixture
def toys(tmp_path: Path) -> list[OwnPhoto]:
    """Two photos of one toy at toybox's own size, where a view is the photo itself."""
    found = []
    for index in (1, 2):
        with Image.open(EXAMPLES / "rex" / f"{index}.jpg") as image:
            image.convert("RGB").resize((64, 64)).save(tmp_path / f"toy{index}.png")
        found.append(read_own_photo(tmp_path / f"toy{index}.png"))
    return found
