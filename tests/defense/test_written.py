"""What is written, what cannot be, and what is told of it."""

import dataclasses
import html
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, TiffImagePlugin

from pcs_ext.defense.photos import read_own_photo
from pcs_ext.defense.protect import Options, protect
from pcs_ext.errors import PhotoError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.reporter import SilentReporter
from tests.support.albums import picture

OPTIONS = Options(noun="dog", seed=3)


class Steps(SilentReporter):
    """Which steps were made and what was said."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.messages: list[str] = []

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        self.messages.append(message)

    def progress(self, task: str, step: int, total: int, **fields: float) -> None:
        self.seen.append(step)


def test_what_a_file_cannot_hold_is_told_before_anything_is_computed(tmp_path: Path, sd: AbstractBackbone) -> None:
    album, out = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    picture(0).save(album / "a.png")
    settings: dict[str, Any] = {"output": out, "recipe": "photoguard", "base": sd, "steps": 1}
    for name, format, message in (
        ("b.png", "jpeg", "b.png is transparent in places"),
        (chr(0x5199) * 80 + ".png", "png", "has 244 bytes, expected at most 235; rename it"),
        (os.fsdecode(b"caf\xe9.png"), "png", "caf.*is not UTF-8, so no report can hold it; rename it"),
    ):
        image = picture(1)
        if format == "jpeg":
            image.putalpha(picture(2).convert("L"))
        image.save(album / name)
        steps = Steps()
        with pytest.raises(PhotoError, match=message):
            protect(album, options=dataclasses.replace(OPTIONS, format=format), reporter=steps, **settings)  # type: ignore[arg-type]
        assert (steps.seen, out.exists()) == ([], False)
        (album / name).unlink()


def test_a_resolution_of_nothing_and_too_much_exif_are_left_out(tmp_path: Path, sd: AbstractBackbone) -> None:
    nothing = TiffImagePlugin.IFDRational(0, 0)
    picture(0).save(tmp_path / "a.tif", tiffinfo={282: nothing, 283: nothing, 296: 2})
    exif = Image.Exif()
    for tag in range(0xC000, 0xC100):
        exif[tag] = "x" * 1000
    picture(1).save(tmp_path / "b.png", exif=exif)
    options = dataclasses.replace(OPTIONS, format="jpeg", metadata="all")
    paths = [tmp_path / "a.tif", tmp_path / "b.png"]
    report = protect(paths, output=tmp_path / "out", recipe="photoguard", base=sd, steps=1, options=options)
    assert "its EXIF is too long for JPEG and was left out" in report.photos["b.jpg"]["notes"]
    assert read_own_photo(tmp_path / "a.tif").dpi is None


def test_every_photo_names_the_job_that_made_it(tmp_path: Path, sd: AbstractBackbone) -> None:
    out = tmp_path / "out"
    for index, name in enumerate("abc"):
        picture(index).save(tmp_path / f"{name}.png")
    for name, recipe in (("a", "photoguard"), ("b", "sds"), ("c", "sds")):
        protect([tmp_path / f"{name}.png"], output=out, recipe=recipe, base=sd, steps=1, options=OPTIONS)
    content = json.loads((out / "report.json").read_text())
    made = {entry["output"]: content["jobs"][entry["settings"]]["method"]["id"] for entry in content["photos"]}
    assert made == {"a.png": "photoguard", "b.png": "sds", "c.png": "sds"}
    assert content["job"]["method"]["id"] == "sds"
    protect([tmp_path / "a.png"], output=out, recipe="sds", base=sd, steps=1, options=OPTIONS)
    assert len(json.loads((out / "report.json").read_text())["jobs"]) == 1, "no photo names the first any more"


def test_links_keep_their_names_and_their_masks(tmp_path: Path, sd: AbstractBackbone) -> None:
    store, album, out = tmp_path / "store", tmp_path / "album", tmp_path / "out"
    store.mkdir()
    album.mkdir()
    picture(0).save(store / "0a1b2c", format="PNG")
    (album / "holiday.png").symlink_to(store / "0a1b2c")
    (album / "again.png").symlink_to(store / "0a1b2c")
    Image.new("L", (40, 34), 255).save(album / "again_mask.png")
    options = dataclasses.replace(OPTIONS, region="mask")
    settings: dict[str, Any] = {"recipe": "photoguard", "base": sd, "steps": 1, "options": options}
    report = protect([album / "again.png", album / "holiday.png"], output=out, **settings)
    assert list(report.photos) == ["again.png"], "one photo under two names is protected once"
    assert (out / report.photos["again.png"]["photo"]).samefile(store / "0a1b2c")
    for output in (store, album):
        with pytest.raises(UsageError, match="originals are never touched"):
            protect([album / "again.png"], output=output, **settings)


def test_what_was_converted_or_not_found_is_told_on_the_page_and_the_console(
    tmp_path: Path, sd: AbstractBackbone
) -> None:
    out, told = tmp_path / "out", Steps()
    picture(0).convert("CMYK").save(tmp_path / "a.tiff")
    mask = Image.new("L", (40, 34))
    mask.paste(255, (0, 0, 8, 34))
    mask.save(tmp_path / "a_mask.png")
    options = dataclasses.replace(OPTIONS, format="jpeg", region="mask")
    settings: dict[str, Any] = {"output": out, "recipe": "photoguard", "base": sd, "steps": 1}
    report = protect([tmp_path / "a.tiff"], options=options, reporter=told, **settings)
    notes = report.photos["a.jpg"]["notes"]
    assert notes[-1] == "JPEG's own loss is everywhere, outside the region, too"
    assert notes[0].startswith("CMYK was converted to sRGB")
    for note in notes:
        assert any(note in message for message in told.messages)
        assert html.escape(note) in (out / "report.html").read_text()
    Image.new("RGB", (50, 40), (90, 120, 90)).save(tmp_path / "b.png")
    protect([tmp_path / "b.png"], options=dataclasses.replace(OPTIONS, region="faces"), reporter=told, **settings)
    assert any("b.png: no face was found" in message for message in told.messages)
    assert "no face was found" in (out / "report.html").read_text()
