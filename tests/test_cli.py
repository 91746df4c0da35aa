"""The command line as users meet it: help is quick, mistakes get one message and the right exit code."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.command_line import run
from tests.support.encoders import tiny_clip, tiny_dino
from tests.support.tiny import tiny_folder


def test_help_names_the_verbs_and_imports_no_torch() -> None:
    script = "import sys, pcs_ext.cli\npcs_ext.cli.main(['--help'])\nprint('torch' in sys.modules)"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
    for verb in (
        "learn",
        "image",
        "evaluate",
        "export",
        "systems",
        "doctor",
        "tokens",
        "recipes",
        "merge",
        "demo",
        "protect",
        "verify",
    ):
        assert verb in done.stdout
    assert time.monotonic() - started < 5.0


def test_learn_image_and_export_end_to_end(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = str(tiny_folder(tmp_path / "base"))
    rex = str(tmp_path / "rex")
    recipe = tmp_path / "recipe.json"
    arguments = ("learn", str(photos), "--noun", "dog", "-o", rex, "--base", base, "--steps", "2")
    code, out, _ = run(*arguments, "--dry-run", capture=capsys)
    assert code == 0
    plan = json.loads(out)
    assert len(plan["photos"]) == 3
    plan["recipe"]["class_images"] = 2
    plan["recipe"]["sampling"]["num_inference_steps"] = 2
    recipe.write_text(json.dumps(plan["recipe"]))
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    code, out, err = run(*arguments, "--config", str(recipe), capture=capsys)
    assert (code, out.strip()) == (0, rex), err
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before
    code, out, err = run(
        "image", rex, "a photo of {subject}", "-o", str(tmp_path / "out"), "--seeds", "1", "2", "--steps", "2",
        capture=capsys,
    )  # fmt: skip
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000.png", "00001.png"]
    clip, dino = tiny_clip(tmp_path / "clip"), tiny_dino(tmp_path / "dino")
    evaluate = ("evaluate", rex, str(photos), "-o", str(tmp_path / "measured"), "--seeds", "1")
    code, _, err = run(*evaluate, capture=capsys)
    assert (code, "needs encoders: give --clip and --dino" in err) == (2, True), err
    code, out, err = run(*evaluate, "--clip", str(clip), "--dino", str(dino), capture=capsys)
    assert code == 0, err
    assert "| dreambooth-lora |" in out
    assert "| class-word |" in out
    assert {path.name for path in (tmp_path / "measured" / "reports").iterdir()} == {"rex.json", "class-word.json"}
    images = {path: path.stat().st_mtime_ns for path in (tmp_path / "measured" / "images").rglob("*.png")}
    assert len(images) == 2 * 25
    code, out, err = run(*evaluate, "--clip", str(clip), "--json", capture=capsys)
    assert code == 0, err
    assert set(json.loads(out)["subject"]["figures"]) >= {"clip-i", "clip-t"}
    assert images == {path: path.stat().st_mtime_ns for path in images}, "images were made again"
    lora = str(tmp_path / "rex.safetensors")
    code, out, err = run("export", rex, "-o", lora, "--format", "kohya", capture=capsys)
    assert (code, out.strip()) == (0, lora), err
    code, _, err = run("export", rex, "-o", lora, "--format", "kohya", capture=capsys)
    assert code == 2
    assert "exists already" in err


def test_a_config_with_a_misspelt_key_is_refused_wherever_it_is(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("learn", str(photos), "--noun", "dog", "-o", str(tmp_path / "rex"))
    plan = json.loads(run(*arguments, "--dry-run", capture=capsys)[1])["recipe"]
    for place in (plan, plan["phases"][0], plan["phases"][0]["fit"], plan["concept"], plan["adapters"]["denoiser"]):
        place["learning_rat"] = 1
        (tmp_path / "c.json").write_text(json.dumps(plan))
        code, _, err = run(*arguments, "--config", str(tmp_path / "c.json"), capture=capsys)
        assert code == 2
        assert "learning_rat" in err
        del place["learning_rat"]


def test_systems_lists_all_rows_with_a_computed_status(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("systems", "--json", capture=capsys)
    rows = {row["id"]: row for row in json.loads(out)}
    assert code == 0
    assert len(rows) == 176
    assert rows["dreambooth"]["recipes"] == ["dreambooth-lora", "dreambooth"]
    assert rows["dreambooth"]["status"] in ("runs", "measured")
    assert rows["elite"]["status"] in ("runs", "measured")
    assert {row["reason"] for row in rows.values() if row["status"] == "open"} == {"no recipe yet"}
    code, out, _ = run("systems", capture=capsys)
    assert "176 in all" in out
    assert len(out.splitlines()) == 176 + 4


def test_doctor_and_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(run("doctor", "--json", capture=capsys)[1])
    assert report["versions"]["torch"]
    assert set(report) == {"device", "memory", "disk", "versions", "models", "extras", "missing"}
    assert report["models"]["toybox"].startswith("bundled: base ")
    assert "GiB free" in run("doctor", capture=capsys)[1]
    assert "textual-inversion" in run("recipes", capture=capsys)[1]


def test_systems_shows_one_by_id_and_several_by_words(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("systems", "dvar", capture=capsys)
    assert (code, out.count("status")) == (0, 1)
    assert "variance becomes small" in " ".join(out.split())
    assert run("systems", "dreambooth3d", "videobooth", capture=capsys)[1].count("status") == 2
    assert run("systems", "STITCH", capture=capsys)[1].startswith("StitchDiffusion")
    code, _, err = run("systems", "nosuch", capture=capsys)
    assert (code, "none of the 176 systems has nosuch" in err) == (2, True)
