"""The embedded base, loaded once, and small photos of a toy."""

from pathlib import Path

import pytest
from PIL import Image

from pcs_ext.defense.photos import OwnPhoto, read_own_photo
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from tests.support.albums import picture

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


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Photos of several formats and shapes, and things that are no photos."""
    folder = tmp_path / "album"
    folder.mkdir()
    picture(0).save(folder / "a.jpg", quality=90)
    picture(1, 30, 50).convert("L").save(folder / "b.png")
    alpha = picture(2)
    alpha.putalpha(picture(3).convert("L"))
    alpha.save(folder / "c.webp", lossless=True)
    picture(4).convert("CMYK").save(folder / "d.tiff")
    picture(5, 1, 1).save(folder / "e.png")
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("not a photo")
    return folder
