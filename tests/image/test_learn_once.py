"""What was learned once is taken from disk, but never where anything that decides it differs."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import photo_paths
from pcs_ext.image.learn_once import learn_once, learn_seconds
from pcs_ext.reporter import SilentReporter


class Heard(SilentReporter):
    """Remembers the names of events."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        """Note the name."""
        self.names.append(name)


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 3}, {"noun": "cat"}, {"recipe": "custom-diffusion"}])
def test_equal_wishes_are_learned_once(
    change: dict[str, Any], photos: Path, sd: AbstractBackbone, tmp_path: Path
) -> None:
    shots = photo_paths(photos)
    wish: dict[str, Any] = {"noun": "dog", "recipe": "textual-inversion", "steps": 2, "seed": 0}
    wish |= {"base": sd, "output": tmp_path / "subject"}
    first = learn_once(shots, **wish, reporter=SilentReporter())
    seconds, heard = learn_seconds(wish["output"]), Heard()
    again = learn_once(shots, **wish, reporter=heard)
    assert heard.names == ["kept"]
    assert again.data.content_hash == first.data.content_hash
    assert learn_seconds(wish["output"]) == seconds > 0
    other = learn_once(shots, **{**wish, **change, "reporter": heard})
    assert heard.names.count("kept") == 1
    assert other.data.content_hash != first.data.content_hash


def test_another_caption_or_mask_is_learned_anew(photos: Path, sd: AbstractBackbone, tmp_path: Path) -> None:
    shots = photo_paths(photos)
    wish: dict[str, Any] = {"noun": "dog", "recipe": "textual-inversion", "steps": 1, "base": sd}

    def kept() -> bool:
        heard = Heard()
        learn_once(shots, **wish, output=tmp_path / "subject", reporter=heard)
        return "kept" in heard.names

    assert [kept(), kept()] == [False, True]
    shots[0].with_suffix(".txt").write_text("a dog asleep", encoding="utf-8")
    assert [kept(), kept()] == [False, True]
    with Image.open(shots[0]) as image:
        Image.new("L", image.size, 255).save(shots[0].with_name(f"{shots[0].stem}_mask.png"))
    assert [kept(), kept()] == [False, True]


def test_other_photos_are_learned_anew(photos: Path, sd: AbstractBackbone, tmp_path: Path) -> None:
    shots, heard = photo_paths(photos), Heard()
    wish: dict[str, Any] = {"noun": "dog", "recipe": "textual-inversion", "steps": 2, "reporter": heard}
    wish |= {"base": sd, "output": tmp_path / "subject"}
    learn_once(shots, **wish)
    learn_once(shots[:-1], **wish)
    assert "kept" not in heard.names
