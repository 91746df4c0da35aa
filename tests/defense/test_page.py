"""The page of an evaluation: self-contained, honest, and about the very files that lie beside it."""

import dataclasses
import html.parser
import json
import re
import shutil
from collections.abc import Iterator
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
from pcs_ext.image.backbones.load import load_backbone
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


@dataclasses.dataclass(frozen=True)
class Job:
    """A protected and attacked album."""

    album: Path
    out: Path
    settings: dict[str, Any]
    encoder: Path
    report: Report

    @property
    def found(self) -> dict[str, Any]:
        """What is in `evaluation.json`."""
        return json.loads((self.out / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_sd_path: Path) -> Iterator[Job]:
    """Made once; a test may not change what lies in it, but for the last one."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "album").mkdir()
    for index in range(2):
        levels = np.random.default_rng(index).integers(0, 256, (40, 48 + 8 * index, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / "album" / f"<{index}>.png")
    base = load_backbone(str(tiny_sd_path), device="cpu", precision="fp32")
    settings = {"output": folder / "out", "recipe": "advdm", "base": base, "steps": 2, "options": OPTIONS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCS_EXT_CACHE", str(folder / "cache"))
        patch.setattr(evaluation, "_NATURAL_PICTURES", 4)
        for preset, sampling in SAMPLING.items():
            patch.setitem(SAMPLING, preset, dataclasses.replace(sampling, num_inference_steps=3))
        encoder = tiny_dino(folder / "dino")
        report = protect(folder / "album", **settings, attack=PLAN, encoder=encoder)
        yield Job(folder / "album", folder / "out", settings, encoder, report)


def test_the_page_shows_what_was_measured_and_asks_for_nothing(job: Job) -> None:
    source = (job.out / "report.html").read_text()
    page = Page(source)
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    assert not re.search(r"url\(|@import|<script|https?://", source)
    # Strips of two photos, the base's two pictures, five conditions of two pictures.
    assert page.images == 2 + 2 + 5 * 2
    assert len(STATEMENTS) == 7
    assert all(statement in page.text for statement in STATEMENTS)
    for entry in job.found["summary"]:
        assert f"{entry['arms']['protected']['likeness']:.3f}" in page.text
    for entry in json.loads((job.out / "report.json").read_text())["photos"]:
        assert f"{entry['visibility']['psnr_db']:.1f} dB" in page.text
        assert f"{entry['visibility']['ciede2000']:.2f}" in page.text
    assert "<0>.png" in page.text
    assert "JPEG 75" in page.text
    assert "demonstration" not in page.text
    assert set(job.found["distances"]) == {"<0>.png", "<1>.png"}
    assert min(job.found["distances"].values()) > 0


def written(job: Job, found: dict[str, Any], place: Path, *warnings: str) -> str:
    report = dataclasses.replace(job.report, warnings=warnings)
    return Page(write_page(report, found, place).read_text()).text


def test_the_page_claims_no_more_than_was_measured(job: Job, tmp_path: Path) -> None:
    def told(drop: float, low: float, high: float, noise: float) -> str:
        changed = job.found
        arms = changed["summary"][0]["arms"]
        arms["protected"]["drop"] = {"value": drop, "interval": [low, high]}
        arms["noise"]["drop"]["value"] = noise
        return written(job, changed, tmp_path / "page.html")

    assert "no effect on likeness could be told from chance" in told(0.01, -0.02, 0.03, 0.0)
    assert "less like the subject after protected photos, by more than after random noise" in told(0.2, 0.1, 0.3, 0.05)
    assert "less like the subject after protected photos, but random noise may do as much" in told(0.2, 0.1, 0.3, 0.15)
    assert "are more like the subject after protected photos" in told(-0.2, -0.3, -0.1, 0.0)
    text = written(job, job.found, tmp_path / "page.html", TOYBOX_WARNING)
    # The title in the head is no line of the page.
    assert text.removeprefix("advdm: what attackers learned").strip().startswith(TOYBOX_WARNING)
    assert "protects nothing" in TOYBOX_WARNING


def test_the_page_names_the_bases_of_attackers(job: Job, tmp_path: Path) -> None:
    assert "No newer model was tested, and none of another family." in written(job, job.found, tmp_path / "page.html")
    found = job.found
    found["plan"]["attackers"] = [{**found["plan"]["attackers"][0], "base": base} for base in ("", "other/model-xl")]
    text = written(job, found, tmp_path / "page.html")
    assert "Attackers also started from other/model-xl; no other model was tested." in text
    assert f"Attackers started from {found['base']}, other/model-xl on cpu" in text
    assert "No newer model" not in text


def test_what_cannot_be_attacked_is_refused_before_anything_is_computed(job: Job, tmp_path: Path) -> None:
    settings = {**job.settings, "output": tmp_path / "out"}
    with pytest.raises(UsageError, match="give --encoder"):
        protect(job.album, **settings, attack=PLAN)
    small = tmp_path / "small.png"
    Image.new("RGB", (20, 40)).save(small)
    with pytest.raises(PhotoError, match="small.png is 20 x 40 pixels; expected at least 32"):
        protect([small], **settings, attack=PLAN, encoder=job.encoder)
    assert not (tmp_path / "out").exists()


def test_strips_that_were_deleted_are_left_out(tmp_path: Path, album: Path, tiny_sd_path: Path) -> None:
    base = load_backbone(str(tiny_sd_path), device="cpu", precision="fp32")
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, name in ((first, "a.jpg"), (second, "b.png")):
        folder.mkdir()
        (album / name).rename(folder / name)
    settings: dict[str, Any] = {"output": tmp_path / "out", "recipe": "photoguard", "base": base, "steps": 1}
    protect(first, **settings, options=OPTIONS)
    shutil.rmtree(tmp_path / "out" / "differences")
    (second / "b.png").rename(first / "b.png")
    protect(first, **settings, options=OPTIONS)
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert page.images == 1
    assert "a.png" in page.text


def test_a_page_about_other_files_is_taken_away(job: Job) -> None:
    source = (job.out / "report.html").read_text()
    protect(job.album, **job.settings)
    assert (job.out / "report.html").read_text() == source, "nothing changed: the page is still true"
    protect(job.album, **{**job.settings, "steps": 3})
    assert not (job.out / "evaluation.json").exists()
    page = Page((job.out / "report.html").read_text())
    assert "No effect was measured" in page.text
    assert "What it is worth is not known" in page.text
    assert all(statement in page.text for statement in STATEMENTS)
    assert page.images == 2, "difference strips"
    assert "likeness" not in page.text
    assert "perceptual distance" not in page.text
