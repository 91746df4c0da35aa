"""The page of an evaluation: self-contained, honest, and about the very files that lie beside it."""

import copy
import dataclasses
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pcs_ext.defense import evaluation
from pcs_ext.defense.attack import Attacker
from pcs_ext.defense.evaluation import Plan
from pcs_ext.defense.laundering import JpegFile
from pcs_ext.defense.page import write_page
from pcs_ext.defense.protect import Options, protect
from pcs_ext.defense.report import STATEMENTS, TOYBOX_WARNING, Report
from pcs_ext.errors import PhotoError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.recipes.presets import SAMPLING
from tests.support.encoders import tiny_dino

PLAN = Plan(
    attackers=(Attacker(recipe="textual-inversion", share=1 / 3000),), launderings=(JpegFile(quality=75),), pictures=2
)
OPTIONS = Options(noun="dog", seed=3)


class Page(html.parser.HTMLParser):
    """Text, tags that ask for something, and whether tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.sources: list[str] = []
        self.images = 0
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)
        facts = dict(attrs)
        if tag == "img":
            self.images += 1
            assert facts.get("alt")
        self.sources += [value or "" for key, value in attrs if key in ("src", "href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"] and data.strip():
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        """All that can be read."""
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(autouse=True)
def quick_painting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_NATURAL_PICTURES", 4)
    for preset, settings in SAMPLING.items():
        monkeypatch.setitem(SAMPLING, preset, dataclasses.replace(settings, num_inference_steps=3))


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for index in range(2):
        levels = np.random.default_rng(index).integers(0, 256, (40, 48 + 8 * index, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"<{index}>.png")
    return folder


def test_protect_attacks_and_writes_the_page(album: Path, tmp_path: Path, sd: AbstractBackbone) -> None:
    out, encoder = tmp_path / "out", tiny_dino(tmp_path / "dino")
    settings: dict[str, Any] = {"output": out, "recipe": "advdm", "base": sd, "steps": 2, "options": OPTIONS}
    with pytest.raises(UsageError, match="give --encoder"):
        protect(album, **settings, attack=PLAN)
    Image.new("RGB", (20, 40)).save(album / "small.png")
    with pytest.raises(PhotoError, match="small.png is 20 x 40 pixels; expected at least 32"):
        protect(album, **settings, attack=PLAN, encoder=encoder)
    (album / "small.png").unlink()
    assert not out.exists(), "refused before anything is computed"
    protect(album, **settings, attack=PLAN, encoder=encoder)
    source = (out / "report.html").read_text()
    page = Page(source)
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    assert not re.search(r"url\(|@import|<script|https?://", source)
    # Strips of two photos, the base's two pictures, five conditions of two pictures.
    assert page.images == 2 + 2 + 5 * 2
    assert len(STATEMENTS) == 7
    assert all(statement in page.text for statement in STATEMENTS)
    found = json.loads((out / "evaluation.json").read_text())
    for entry in found["summary"]:
        assert f"{entry['arms']['protected']['likeness']:.3f}" in page.text
    for entry in json.loads((out / "report.json").read_text())["photos"]:
        assert f"{entry['visibility']['psnr_db']:.1f} dB" in page.text
        assert f"{entry['visibility']['ciede2000']:.2f}" in page.text
    assert "<0>.png" in page.text
    assert "JPEG 75" in page.text
    assert "demonstration" not in page.text
    assert set(found["distances"]) == {"<0>.png", "<1>.png"}
    assert min(found["distances"].values()) > 0

    protect(album, **settings)
    assert (out / "report.html").read_text() == source, "nothing changed: the page is still true"
    protect(album, **{**settings, "steps": 3})
    assert not (out / "report.html").exists()
    assert not (out / "evaluation.json").exists(), "it was about other files"


def written(report: Report, found: dict[str, Any], place: Path) -> Page:
    return Page(write_page(report, found, place).read_text())


def test_the_page_claims_no_more_than_was_measured(album: Path, tmp_path: Path, sd: AbstractBackbone) -> None:
    out, encoder = tmp_path / "out", tiny_dino(tmp_path / "dino")
    report = protect(album, output=out, recipe="advdm", base=sd, steps=1, options=OPTIONS, attack=PLAN, encoder=encoder)
    found = json.loads((out / "evaluation.json").read_text())

    def told(drop: float, low: float, high: float, noise: float) -> str:
        changed = copy.deepcopy(found)
        arms = changed["summary"][0]["arms"]
        arms["protected"]["drop"] = {"value": drop, "interval": [low, high]}
        arms["noise"]["drop"]["value"] = noise
        return written(report, changed, tmp_path / "page.html").text

    assert "no effect could be told from chance" in told(0.01, -0.02, 0.03, 0.0)
    assert "worse from the protected photos, and by more than random noise" in told(0.2, 0.1, 0.3, 0.05)
    assert "worse from the protected photos, but random noise may do as much" in told(0.2, 0.1, 0.3, 0.15)
    assert "learned the subject better from the protected photos" in told(-0.2, -0.3, -0.1, 0.0)
    warned = dataclasses.replace(report, warnings=(TOYBOX_WARNING,))
    text = written(warned, found, tmp_path / "page.html").text
    # The title in the head is no line of the page.
    assert text.removeprefix("advdm: what attackers learned").strip().startswith(TOYBOX_WARNING)
    assert "protects nothing" in TOYBOX_WARNING
