"""What became of protected photos: of one file, of a folder, of originals that were moved."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pcs_ext.defense.protect import Options, protect
from pcs_ext.defense.verify import verify
from pcs_ext.errors import InputError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.reporter import SilentReporter
from tests.support.albums import digests
from tests.support.command_line import run

OPTIONS = Options(noun="dog", seed=3)


class Heard(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        self.messages.append(message)


def test_verify_tells_what_became_of_a_file(tmp_path: Path, sd: AbstractBackbone) -> None:
    album, out = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    # A smooth photo: noise would not survive any recompression itself.
    y, x = np.mgrid[0:96, 0:128]
    smooth = np.stack([60 + x, 200 - y, 100 + (x + y) // 3], -1).astype(np.uint8)
    Image.fromarray(smooth).save(album / "a.png")
    Image.fromarray(smooth[::-1].copy()).save(album / "b.png")
    protect(album, output=out, recipe="photoguard", base=sd, steps=8, levels=8, options=OPTIONS)
    assert (verify(out / "a.png").verdict, verify(out / "a.png").bytes_equal) == ("intact", True)
    with Image.open(out / "a.png") as image:
        image.save(tmp_path / "again.webp", lossless=True)
        image.save(tmp_path / "sent.jpg", quality=30)
        image.resize((64, 48)).save(tmp_path / "small.png")
        image.crop((0, 0, 90, 90)).save(tmp_path / "cut.png")
    same = verify(tmp_path / "again.webp", report=out)
    assert (same.verdict, same.bytes_equal, same.output.name) == ("intact", False, "a.png")
    sent, small = verify(tmp_path / "sent.jpg", report=out), verify(tmp_path / "small.png", report=out / "report.json")
    assert sent.verdict in ("weakened", "lost")
    assert sent.kept < 0.8
    assert small.kept < 0.8
    assert small.budget is None
    lost = verify(album / "a.png", report=out)
    assert (lost.verdict, round(lost.kept, 6)) == ("lost", 0)
    with pytest.raises(InputError, match="is of no photo in|cropped or turned"):
        verify(tmp_path / "cut.png", report=out)
    with pytest.raises(InputError, match="give --report"):
        verify(tmp_path / "sent.jpg")
    (album / "a.png").rename(tmp_path / "moved.png")
    with pytest.raises(InputError, match="is not there any more; give its place with --original"):
        verify(tmp_path / "again.webp", report=out)
    assert verify(tmp_path / "again.webp", report=out, original=tmp_path / "moved.png").verdict == "intact"
    gone = verify(out / "a.png")
    assert (gone.verdict, gone.bytes_equal, gone.budget) == ("intact", True, None), "its bytes need no original"
    with pytest.raises(InputError, match="its bytes changed"):
        verify(out / "a.png", original=album / "b.png")


def test_verify_tells_what_became_of_a_folder(
    album: Path, tmp_path: Path, sd: AbstractBackbone, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for name in ("d.tiff", "e.png"):
        (album / name).unlink()
    (album / "clip.mov").write_bytes(b"no photo")
    told = Heard()
    protect(album, output=out, recipe="photoguard", base=sd, steps=4, levels=8, options=OPTIONS, reporter=told)
    assert f"{album}: videos are not read: clip.mov" in told.messages
    assert run("verify", out, capture=capsys)[:2] == (0, "3 intact\n")
    shared = tmp_path / "shared"
    shared.mkdir()
    with Image.open(album / "a.jpg") as original:
        original.save(shared / "a.png")
    (shared / "c.png").write_bytes((out / "c.png").read_bytes())
    code, shown, _ = run("verify", shared, "--report", out, capture=capsys)
    assert (code, shown.splitlines()[-1]) == (6, "1 lost, 1 intact")
    assert shown.startswith(f"lost: 0% of the perturbation of a.png is in {shared / 'a.png'}\n")
    Image.new("RGB", (200, 40), "red").save(out / "foreign.png")
    (out / "b.png").unlink()
    code, shown, _ = run("verify", out, capture=capsys)
    assert code == 6
    assert shown.splitlines()[0] == f"missing: {out / 'b.png'}"
    assert shown.splitlines()[1].startswith(f"not compared: {out / 'foreign.png'} is of no photo in")
    assert shown.splitlines()[2] == "2 intact, 1 missing, 1 not compared"
    found = json.loads(run("verify", out, "--json", capture=capsys)[1])
    assert [one["verdict"] for one in found["photos"]] == ["intact", "intact"]
    assert (list(found["not_compared"]), found["missing"]) == ([str(out / "foreign.png")], [str(out / "b.png")])
    (out / "a.png").write_bytes((shared / "a.png").read_bytes())
    code, shown, err = run("verify", out / "a.png", out / "c.png", capture=capsys)
    assert (code, shown.splitlines()[-1]) == (3, "1 intact, 1 not compared"), err
    assert "was changed after it was protected" in shown
    code, _, err = run("verify", out / "a.png", out / "c.png", "--original", album / "a.jpg", capture=capsys)
    assert (code, "give the originals' folder" in err) == (2, True)


def test_a_photo_in_which_nothing_was_changed_is_not_called_protected(
    tmp_path: Path, sd: AbstractBackbone, capsys: pytest.CaptureFixture[str]
) -> None:
    album, out, told = tmp_path / "album", tmp_path / "out", Heard()
    album.mkdir()
    Image.new("RGB", (40, 40), (120, 130, 140)).save(album / "flat.png")
    settings: dict[str, Any] = {"recipe": "photoguard", "norm": "perceptual", "levels": 2, "steps": 2}
    report = protect(album, output=out, base=sd, options=OPTIONS, reporter=told, **settings)
    entry = report.photos["flat.png"]
    assert (entry["changed"], entry["encoding"]["kept"]) == (False, 0.0)
    assert any("flat.png is not protected: nothing was changed in it" in message for message in told.messages)
    assert "1 not changed at all" in (out / "report.html").read_text()
    for argument in (out, out / "flat.png"):
        code, shown, _ = run("verify", argument, capture=capsys)
        assert (code, shown.startswith("unprotected: nothing was changed in flat.png")) == (6, True)
    (album / "flat.png").unlink()
    assert verify(out / "flat.png").verdict == "unprotected"


def test_originals_in_a_renamed_folder_are_found_again(album: Path, tmp_path: Path, sd: AbstractBackbone) -> None:
    out, renamed = tmp_path / "out", tmp_path / "renamed"
    for name in ("b.png", "c.webp", "d.tiff", "e.png"):
        (album / name).unlink()
    protect(album, output=out, recipe="photoguard", base=sd, steps=2, options=OPTIONS)
    written = digests(out)
    album.rename(renamed)
    with Image.open(out / "a.png") as image:
        image.save(tmp_path / "copy.webp", lossless=True)
    assert verify(tmp_path / "copy.webp", report=out, original=renamed).verdict == "intact"
    protect(renamed, output=out, recipe="photoguard", base=sd, steps=2, options=OPTIONS)
    assert {name for name, digest in digests(out).items() if written[name] != digest} == {"report.json"}
    assert verify(tmp_path / "copy.webp", report=out).original.resolve() == (renamed / "a.jpg").resolve()
