"""Folders in, folders out: originals untouched, kills survived, mistakes named."""

import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pcs_ext.cli import main
from pcs_ext.defense.choice import resolve_method
from pcs_ext.defense.photos import read_own_photo
from pcs_ext.defense.protect import Options, protect
from pcs_ext.defense.recipes import RECIPES
from pcs_ext.defense.report import TOYBOX_WARNING
from pcs_ext.defense.verify import verify
from pcs_ext.errors import ConfigError, InputError, Interrupted, PhotoError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.reporter import SilentReporter
from tests.support.albums import digests, picture

OPTIONS = Options(noun="dog", seed=3)


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_every_file_is_within_the_budget_and_no_original_changes(
    format: str, album: Path, tmp_path: Path, sd: AbstractBackbone
) -> None:
    before = digests(album)
    if format == "jpeg":
        (album / "c.webp").unlink()
        before = digests(album)
    options = dataclasses.replace(OPTIONS, format=format)  # type: ignore[arg-type]
    report = protect(album, output=tmp_path / "out", recipe="photoguard", base=sd, steps=3, levels=8, options=options)
    assert digests(album) == before
    suffix = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}[format]
    assert list(report.photos) == [f"{path.stem}{suffix}" for path in sorted(album.iterdir()) if path.stem in "abcde"]
    for name, entry in report.photos.items():
        original = read_own_photo(tmp_path / "out" / entry["photo"])
        written = read_own_photo(tmp_path / "out" / name)
        assert entry["budget"]["measured"]["within"] is (
            format != "jpeg" or entry["budget"]["measured"]["max_levels"] <= 8
        )
        if format != "jpeg":
            change = written.pixels[: original.pixels.shape[0]].int() - original.pixels.int()
            assert int(change.abs().max()) == entry["budget"]["measured"]["max_levels"] <= 8
        elif original.size != (1, 1):
            assert entry["encoding"]["kept"] > 0.9
            assert entry["encoding"]["quality"] >= 95
        assert (original.alpha is None) == (written.alpha is None)
        assert (tmp_path / "out" / entry["strip"]).is_file()
    assert not (tmp_path / "out" / ".protecting").exists()
    assert report.warnings == ()


def test_a_second_run_does_nothing_and_another_setting_everything(
    album: Path, tmp_path: Path, sd: AbstractBackbone
) -> None:
    out = tmp_path / "out"
    for name in ("b.png", "c.webp", "d.tiff", "e.png"):
        (album / name).unlink()
    picture(9).save(album / "x.png")

    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}

    protect(album, output=out, recipe="advdm", base=sd, steps=2, options=OPTIONS)
    first, hashes = times(), digests(out)
    protect(album, output=out, recipe="advdm", base=sd, steps=2, options=OPTIONS)
    assert times() == first
    other = dataclasses.replace(OPTIONS, quality=80)  # of jpeg alone
    protect(album, output=out, recipe="advdm", base=sd, steps=2, options=other)
    assert times() == first
    (out / "a.png").unlink()
    protect(album, output=out, recipe="advdm", base=sd, steps=2, options=OPTIONS)
    assert times()["x.png"] == first["x.png"]
    assert digests(out)["a.png"] == hashes["a.png"], "the same seed gives the same bytes"
    protect(album, output=out, recipe="advdm", base=sd, steps=2, levels=4, options=OPTIONS)
    assert all(times()[name] != time for name, time in first.items())
    (out / "x.png").write_bytes((out / "a.png").read_bytes())
    with pytest.raises(InputError, match="x.png was changed after it was protected"):
        protect(album, output=out, recipe="advdm", base=sd, steps=3, options=OPTIONS)


def test_time_and_memory_are_told_before_a_long_job_and_change_nothing(
    album: Path, tmp_path: Path, sd: AbstractBackbone
) -> None:
    class Listening(SilentReporter):
        told: list[dict[str, Any]]

        def __init__(self) -> None:
            self.told = []

        def event(self, name: str, message: str = "", **fields: Any) -> None:
            if name in ("expected", "protected"):
                self.told.append({"event": name, **fields})

    for path in sorted(album.glob("[b-e].*")):
        path.unlink()
    listening = Listening()
    began = time.monotonic()
    protect(album, output=tmp_path / "a", recipe="advdm", base=sd, steps=24, options=OPTIONS, reporter=listening)
    seconds = time.monotonic() - began
    assert [told["event"] for told in listening.told] == ["expected", "protected"]
    assert 0 < listening.told[0]["minutes"] * 60 < 20 * seconds
    assert listening.told[0]["peak_mb"] > 50
    quiet = Listening()
    protect(album, output=tmp_path / "b", recipe="advdm", base=sd, steps=24, options=OPTIONS)
    protect(album, output=tmp_path / "c", recipe="advdm", base=sd, steps=8, options=OPTIONS, reporter=quiet)
    assert [told["event"] for told in quiet.told] == ["protected"], "too short to be worth a try"
    assert digests(tmp_path / "a")["a.png"] == digests(tmp_path / "b")["a.png"]


def test_animated_pictures_are_refused_before_anything_is_written(
    album: Path, tmp_path: Path, sd: AbstractBackbone
) -> None:
    frames = [picture(20), picture(21)]
    frames[0].save(album / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    before = digests(album)
    with pytest.raises(PhotoError, match="moving.webp holds 2 frames or pages"):
        protect(album, output=tmp_path / "out", recipe="photoguard", base=sd, steps=1, options=OPTIONS)
    assert digests(album) == before
    assert not (tmp_path / "out").exists()


def test_every_path_gives_the_same_bytes_and_nothing_rewrites_them(tmp_path: Path, tiny_sd_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for index in range(2):
        picture(index).save(album / f"{index}.png")
    settings: dict[str, Any] = {
        "recipe": "advdm",
        "steps": 2,
        "options": dataclasses.replace(OPTIONS, precision="fp32"),
    }
    loaded = load_backbone(str(tiny_sd_path), device="cpu", precision="fp32")
    protect(album, output=tmp_path / "loaded", base=loaded, **settings)
    protect(sorted(album.iterdir()), output=tmp_path / "named", base=str(tiny_sd_path), **settings)
    command = ["protect", str(album), "-o", str(tmp_path / "command"), "--base", str(tiny_sd_path), "--noun", "dog"]
    command += ["--recipe", "advdm", "--steps", "2", "--seed", "3", "--device", "cpu", "--precision", "fp32"]
    main(command)
    found = [{k: v for k, v in digests(tmp_path / way).items() if k.endswith(".png")} for way in
             ("loaded", "named", "command")]  # fmt: skip
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 2
    assert verify(tmp_path / "command" / "0.png").bytes_equal
    main(["verify", str(tmp_path / "command" / "0.png")])
    main(command)
    assert {k: v for k, v in digests(tmp_path / "command").items() if k.endswith(".png")} == found[0]


def test_interrupted_runs_go_on_where_they_were(tmp_path: Path, album: Path, sd: AbstractBackbone) -> None:
    class Interrupting(SilentReporter):
        steps: list[int]

        def __init__(self, at: int) -> None:
            self.at, self.steps = at, []

        def progress(self, task: str, step: int, total: int, **fields: float) -> None:
            self.steps.append(step)
            if step == self.at:
                raise KeyboardInterrupt

    for name in ("b.png", "c.webp", "d.tiff", "e.png"):
        (album / name).unlink()
    whole = protect(album, output=tmp_path / "whole", recipe="advdm", base=sd, steps=6, options=OPTIONS)
    with pytest.raises(Interrupted, match="The same command goes on"):
        protect(
            album, output=tmp_path / "out", recipe="advdm", base=sd, steps=6, options=OPTIONS, reporter=Interrupting(3)
        )
    again = Interrupting(-1)
    report = protect(album, output=tmp_path / "out", recipe="advdm", base=sd, steps=6, options=OPTIONS, reporter=again)
    assert again.steps == [4, 5, 6]
    assert report.photos["a.png"]["output_sha256"] == whole.photos["a.png"]["output_sha256"]


def test_class_images_and_clean_photos_are_used(album: Path, tmp_path: Path, sd: AbstractBackbone) -> None:
    for name in ("b.png", "c.webp", "e.png"):
        (album / name).unlink()
    clean = tmp_path / "clean"
    clean.mkdir()
    picture(20).save(clean / "other.png")
    training = dataclasses.replace(RECIPES["aspl"].build("sd").training, class_images=2)  # type: ignore[type-var]
    method = dataclasses.replace(RECIPES["aspl"].build("sd"), rounds=2, steps=2, training=training)
    plain = protect(album, output=tmp_path / "plain", recipe=method, base=sd, options=OPTIONS)
    with_clean = protect(
        album, output=tmp_path / "with", recipe=method, base=sd, options=dataclasses.replace(OPTIONS, clean=clean)
    )
    assert plain.photos["a.png"]["output_sha256"] != with_clean.photos["a.png"]["output_sha256"]


class Counting(SilentReporter):
    """Which files were written, which steps were made; may interrupt at one."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.written, self.steps = at, [], []  # type: ignore[var-annotated]

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        if name == "protected":
            self.written.append(fields["output"])

    def progress(self, task: str, step: int, total: int, **fields: float) -> None:
        self.steps.append(step)
        if step == self.at:
            raise KeyboardInterrupt


def draw_mask(path: Path, columns: slice) -> None:
    levels = np.zeros((34, 40), dtype=np.uint8)
    levels[:, columns] = 255
    Image.fromarray(levels).save(path)


def test_a_corrected_mask_is_used(tmp_path: Path, sd: AbstractBackbone) -> None:
    album, out = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    for index, name in enumerate("ab"):
        picture(index).save(album / f"{name}.png")
        draw_mask(album / f"{name}_mask.png", slice(0, 20))
    options = dataclasses.replace(OPTIONS, region="mask")
    settings: dict[str, Any] = {"output": out, "recipe": "advdm", "base": sd, "steps": 4, "options": options}

    def run(at: int = -1) -> Counting:
        counting = Counting(at)
        with pytest.raises(Interrupted) if at > 0 else contextlib.nullcontext():
            protect(album, reporter=counting, **settings)
        return counting

    assert run().written == ["a.png", "b.png"]
    assert run().written == []
    draw_mask(album / "a_mask.png", slice(20, 40))
    assert run().written == ["a.png"]
    change = (read_own_photo(out / "a.png").pixels.int() - read_own_photo(album / "a.png").pixels.int()).abs()
    assert not change[..., :20].any()
    assert change[..., 20:].any()
    # What a checkpoint has made under one mask does not go on under another.
    draw_mask(album / "a_mask.png", slice(0, 10))
    run(at=2)
    draw_mask(album / "a_mask.png", slice(10, 20))
    assert run().steps == [1, 2, 3, 4]
    draw_mask(album / "a_mask.png", slice(0, 0))
    with pytest.raises(PhotoError, match="a_mask.png is dark all over"):
        protect(album, **settings)


def test_other_clean_photos_make_other_protected_ones(tmp_path: Path, sd: AbstractBackbone) -> None:
    album, clean = tmp_path / "album", tmp_path / "clean"
    for folder in (album, clean):
        folder.mkdir()
    picture(0).save(album / "a.png")
    picture(20).save(clean / "other.png")
    training = dataclasses.replace(RECIPES["aspl"].build("sd").training, prior_loss_weight=0.0)  # type: ignore[type-var]
    learning = dataclasses.replace(RECIPES["aspl"].build("sd"), rounds=1, steps=1, training=training)

    def written(method: Any) -> list[str]:
        counting, options = Counting(), dataclasses.replace(OPTIONS, clean=clean)
        protect(album, output=tmp_path / "out", recipe=method, base=sd, options=options, reporter=counting)
        return counting.written

    assert (written(learning), written(learning)) == (["a.png"], [])
    picture(21).save(clean / "other.png")
    assert (written(learning), written(learning)) == (["a.png"], [])
    clean.rename(tmp_path / "moved")
    clean = tmp_path / "moved"
    assert written(learning) == [], "the same photos under another name"


def test_mistakes_are_named_before_anything_is_written(album: Path, tmp_path: Path, sd: AbstractBackbone) -> None:
    out = tmp_path / "out"
    cases = [
        ({"output": album}, UsageError, "is where a.jpg lies; originals are never touched"),
        ({"recipe": "nonsense"}, UsageError, "recipe 'nonsense' is unknown; expected one of aspl"),
        ({"levels": 300.0}, ConfigError, "at most 255 levels, got 300"),
        ({"levels": 0.05}, ConfigError, "0.05 levels changes nothing.*0.05 on pictures in .* is 6.4"),
        ({"levels": 0.9, "norm": "perceptual"}, ConfigError, "0.9 levels changes nothing"),
        ({"steps": -1}, UsageError, "must be positive"),
        ({"options": dataclasses.replace(OPTIONS, region="mask")}, PhotoError, "has no a_mask.png beside it"),
        ({"options": dataclasses.replace(OPTIONS, noun=" ")}, UsageError, "noun a word or two"),
        ({"recipe": "e-aspl"}, UsageError, "works on several bases"),
        ({"encoder": album}, UsageError, "--encoder .* judges attacks, and there are none"),
        ({"options": dataclasses.replace(OPTIONS, clean=album)}, UsageError, "advdm trains no surrogate"),
        ({"options": dataclasses.replace(OPTIONS, clean=out), "recipe": "aspl"}, PhotoError, "out does not exist"),
        ({"options": dataclasses.replace(OPTIONS, faces="cascade")}, UsageError, "nobody looks for faces"),
    ]
    for changes, error, message in cases:
        with pytest.raises(error, match=message):
            protect(album, **{"output": out, "base": sd, "options": OPTIONS, "recipe": "advdm", **changes})  # type: ignore[arg-type]
    assert not list(out.glob("*.png"))
    (album / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    with pytest.raises(PhotoError, match="broken.jpg"):
        protect(album, output=out, base=sd, options=OPTIONS)
    (album / "broken.jpg").unlink()
    out.mkdir(exist_ok=True)
    (out / "a.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="exists and was not written by pcs-ext protect"):
        protect(album, output=out, recipe="advdm", base=sd, steps=1, options=OPTIONS)
    assert (out / "a.png").read_bytes() == b"mine"
    with pytest.raises(PhotoError, match="does not exist"):
        protect(tmp_path / "nowhere", output=out, base=sd)


def test_methods_come_from_json_too(tmp_path: Path) -> None:
    from pcs_ext.config_io import write_json

    method = RECIPES["mist"].build("sd")
    write_json(tmp_path / "mist.json", method)
    assert resolve_method("aspl", "sd", config=tmp_path / "mist.json") == method
    shorter = resolve_method("aspl", "sd", steps=12, levels=4)
    assert (shorter.gradient_steps, shorter.budget.levels, shorter.rule.size) == (12, 4, pytest.approx(0.4))
    round_ = resolve_method("aspl", "sd", norm="l2", levels=2)
    assert (round_.budget.norm, round_.budget.levels, round_.rule.direction) == ("l2", 2, "l2")
    assert resolve_method("aspl", "sd", norm="perceptual").rule.direction == "sign"
    (tmp_path / "bad.json").write_text('{"id": "x", "wrong": 1}')
    with pytest.raises(ConfigError, match="wrong"):
        resolve_method("aspl", "sd", config=tmp_path / "bad.json")


@pytest.mark.parametrize("norm", ["l2", "perceptual"])
def test_other_budgets_hold_in_the_file(norm: Any, album: Path, tmp_path: Path, sd: AbstractBackbone) -> None:
    out = tmp_path / "out"
    report = protect(album, output=out, recipe="advdm", base=sd, steps=2, norm=norm, levels=4, options=OPTIONS)
    for name, entry in report.photos.items():
        original, written = read_own_photo(out / entry["photo"]), read_own_photo(out / name)
        change = written.pixels[: original.pixels.shape[0]].double() - original.pixels.double()
        largest, length = float(change.abs().max()), float(change.square().mean().sqrt())
        assert length <= 4.00001 if norm == "l2" else largest <= 4
        assert length > 0.9 or original.size == (1, 1)
        found = verify(out / name)
        assert found.verdict == "intact"
        assert found.budget is not None
        assert found.budget.within


def test_the_command_line_warns_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = Path(__file__).parents[2] / "examples" / "rex" / "1.jpg"
    arguments = ["protect", str(photo), "-o", str(tmp_path / "out"), "--recipe", "photoguard", "--steps", "2"]
    main([*arguments, "--noun", "toy robot"])
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == shown.err.splitlines()[0] == TOYBOX_WARNING
    assert json.loads((tmp_path / "out" / "report.json").read_text())["warnings"] == [TOYBOX_WARNING]
    main(["verify", str(tmp_path / "out" / "1.png"), "--json"])
    assert json.loads(capsys.readouterr().out)["verdict"] == "intact"
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(photo)])
    assert stop.value.code == 3
    assert "report.json is not there" in capsys.readouterr().err
