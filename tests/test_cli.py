"""The command line as users meet it: help is quick, mistakes get one message and the right exit code."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from pcs_ext.command_options import MACHINE
from pcs_ext.commands import _Motion
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


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "pcs_ext", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"pcs-ext {importlib.metadata.version('pcs_ext')}\n"


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
        "--negative-prompt", "cat", capture=capsys,
    )  # fmt: skip
    assert code == 0, err
    with Image.open(tmp_path / "out" / "00001.png") as image:
        facts = json.loads(image.info["pcs_ext"])
    assert (facts["seed"], facts["negative_prompt"], facts["base"]) == (2, "cat", "base"), "what reproduces it"
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
    code, _, err = run(*evaluate, "1", "--clip", str(clip), capture=capsys)
    assert (code, "all different, got 1 1" in err) == (2, True), err
    images = {path: path.stat().st_mtime_ns for path in (tmp_path / "measured" / "images").rglob("*.png")}
    assert len(images) == 2 * 25
    code, out, err = run(*evaluate, "--clip", str(clip), "--json", capture=capsys)
    assert code == 0, err
    assert set(json.loads(out)["subject"]["figures"]) >= {"clip-i", "clip-t"}
    assert images == {path: path.stat().st_mtime_ns for path in images}, "images were made again"
    shutil.copytree(rex, tmp_path / "class-word")
    code, _, err = run("evaluate", tmp_path / "class-word", *evaluate[2:], "--clip", str(clip), capture=capsys)
    assert (code, "cannot be told from the baseline" in err) == (2, True), err
    lora = str(tmp_path / "rex.safetensors")
    code, out, err = run("export", rex, "-o", lora, "--format", "kohya", capture=capsys)
    assert (code, out.strip()) == (0, lora), err
    code, _, err = run("export", rex, "-o", "", capture=capsys)
    assert (code, "expected the name of a file" in err) == (2, True), err
    whole = {path: path.read_bytes() for path in Path(base).rglob("*") if path.is_file()}
    code, _, err = run("export", rex, "-o", base, "--format", "diffusers-model", "--overwrite", capture=capsys)
    assert (code, "is the base itself, which is never changed" in err) == (2, True), err
    assert {path: path.read_bytes() for path in whole} == whole
    for prompt, expected, told in (("red dog " * 60 + "{subject}", 2, "its subject stands behind these"),
                                   ("{subject} " + "red dog " * 60, 0, "tokens, of which")):  # fmt: skip
        few = ("--seeds", "1", "--steps", "1", "-o", str(tmp_path / "long"))
        code, _, err = run("image", rex, prompt, *few, capture=capsys)
        assert (code, told in err) == (expected, True), err
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


def test_a_config_with_a_number_that_is_none_is_refused(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("learn", str(photos), "--noun", "dog", "-o", str(tmp_path / "rex"))
    plan = json.loads(run(*arguments, "--dry-run", capture=capsys)[1])["recipe"]
    rates = plan["phases"][0]["learning_rates"]
    for name in rates:
        wrong = {**plan, "phases": [{**plan["phases"][0], "learning_rates": {**rates, name: float("nan")}}]}
        (tmp_path / "c.json").write_text(json.dumps(wrong))
        code, _, err = run(*arguments, "--config", str(tmp_path / "c.json"), capture=capsys)
        assert (code, "finite number" in err) == (2, True), err


def test_systems_lists_all_rows_with_a_computed_status(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("systems", "--json", capture=capsys)
    rows = {row["id"]: row for row in json.loads(out)}
    assert code == 0
    assert len(rows) == 176
    assert rows["dreambooth"]["recipes"] == ["dreambooth-lora", "dreambooth"]
    assert rows["dreambooth"]["status"] in ("runs", "measured")
    assert rows["elite"]["status"] in ("runs", "measured")
    assert {row["status"] for row in rows.values()} <= {"runs", "measured"}
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
    both = run("systems", "dreambooth", "textual", capture=capsys)[1]
    assert "  dreambooth\n" in both
    assert "  textual-inversion\n" in both
    code, _, err = run("systems", "dreambooth", "--status", "open", capture=capsys)
    assert (code, "dreambooth is measured" in err) == (2, True), err
    assert run("systems", "dreambooth", "--status", "open", "--json", capture=capsys)[:2] == (0, "[]\n")


def test_output_reaches_terminals_that_know_few_letters() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pcs_ext", "systems"],
        capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2026" in done.stdout


def test_what_dry_run_prints_is_taken_back_whole(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    arguments = ("learn", photos, "--noun", "dog", "-o", tmp_path / "rex")
    plan.write_text(run(*arguments, "--steps", "7", "--dry-run", capture=capsys)[1])
    code, out, err = run(*arguments, "--config", plan, "--dry-run", capture=capsys)
    assert (code, json.loads(out)) == (0, json.loads(plan.read_text())), err
    code, _, err = run(*arguments, "--config", plan, "--base", "other/model", "--dry-run", capture=capsys)
    assert (code, "printed for --base toybox, and this is other/model" in err) == (2, True), err
    cat = [*arguments[:3], "cat", *arguments[4:]]
    code, _, err = run(*cat, "--config", plan, "--dry-run", capture=capsys)
    assert (code, "is about a dog, and --noun cat about a cat" in err) == (2, True), err
    code, _, err = run(*cat, "--config", plan, capture=capsys)
    assert code == 2
    assert not (tmp_path / "rex").exists()


def test_learn_tells_what_it_passes_over(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny_folder(tmp_path / "base")
    (photos / "VID 1.MOV").write_bytes(b"x")
    (photos / "again.png").write_bytes((photos / "0.png").read_bytes())
    arguments = ("learn", photos, "--noun", "dog", "-o", tmp_path / "rex", "--recipe", "textual-inversion")
    code, out, err = run(*arguments, "--base", base, "--steps", "1", capture=capsys)
    assert (code, out.splitlines()) == (0, [str(tmp_path / "rex")]), err
    assert f"{photos}: videos are not read: VID 1.MOV" in err
    assert "0.png, again.png show the same picture, which counts twice" in err
    code, out, err = run("export", tmp_path / "rex", "-o", tmp_path / "words", "--format", "textual-inversion",
                         capture=capsys)  # fmt: skip
    assert (code, out.strip()) == (0, str(tmp_path / "words" / "subject.safetensors"))
    assert "prompts write <subject> in diffusers, embedding:NAME in ComfyUI" in err


def test_evaluate_asks_prompts_of_a_file(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny_folder(tmp_path / "base")
    learn = ("learn", photos, "--noun", "dog", "-o", tmp_path / "rex", "--recipe", "textual-inversion", "--steps", "1")
    assert run(*learn, "--base", base, capture=capsys)[0] == 0
    asked = tmp_path / "prompts.txt"
    evaluate = ("evaluate", tmp_path / "rex", photos, "-o", tmp_path / "m", "--dino", tiny_dino(tmp_path / "dino"))
    for text, message in (
        (None, "neither one of toybox, object, live nor a text file"),
        ("# nothing", "must hold a prompt with {subject} on every line, there is none"),
        ("{subject}\na dog\n", "got 'a dog'"),
    ):
        if text is not None:
            asked.write_text(text)
        code, _, err = run(*evaluate, "--prompts", asked, capture=capsys)
        assert (code, message in err) == (2, True), err
    asked.write_text("# two of mine\n{subject} on a sledge\n\n  a photo of {subject}  \n")
    code, out, err = run(*evaluate, "--prompts", asked, "--seeds", "5", "--json", capture=capsys)
    assert code == 0, err
    assert json.loads(out)["subject"]["prompts"] == ["{subject} on a sledge", "a photo of {subject}"]


def test_animate_commands_pass_on_all_that_they_share() -> None:
    asked = {"motion_module": Path("m"), "controlnet": Path("c"), "seed": 3, "previews": 2, "frames": 5, "side": 32}
    made = _Motion(preset="fast", overwrite=True, **asked).options(MACHINE, method="animate124", base="toybox")  # type: ignore[arg-type]
    told = {**asked, "effort": "fast", "overwrite": True, "method": "animate124", "base": "toybox", "device": "auto"}
    assert {name: getattr(made, name) for name in told} == told
