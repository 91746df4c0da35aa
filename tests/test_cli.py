"""The command line as users meet it: help is quick, mistakes get one message and the right exit code."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcs_ext.cli import grouped, main
from pcs_ext.errors import UsageError
from tests.support.encoders import tiny_clip, tiny_dino
from tests.support.tiny import tiny_folder


def run(*arguments: str, capture: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = 0
    try:
        main(list(arguments))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    output = capture.readouterr()
    return code, output.out, output.err


def test_help_names_the_verbs_and_imports_no_torch() -> None:
    script = (
        "import sys, pcs_ext.cli\ntry: pcs_ext.cli.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    )
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
    code, out, _ = run(*arguments, "--dry-run", "True", capture=capsys)
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
    code, out, err = run(*evaluate, "--clip", str(clip), "--json", "True", capture=capsys)
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
    plan = json.loads(run(*arguments, "--dry-run", "True", capture=capsys)[1])["recipe"]
    for place in (plan, plan["phases"][0], plan["phases"][0]["fit"], plan["concept"], plan["adapters"]["denoiser"]):
        place["learning_rat"] = 1
        (tmp_path / "c.json").write_text(json.dumps(plan))
        code, _, err = run(*arguments, "--config", str(tmp_path / "c.json"), capture=capsys)
        assert code == 2
        assert "learning_rat" in err
        del place["learning_rat"]


BAD_CALLS: list[tuple[tuple[str, ...], int, str]] = [
    ((), 2, ""),
    (("frobnicate",), 2, ""),
    (("learn",), 2, ""),
    (("learn", "{photos}"), 2, "noun"),
    (("learn", "{photos}", "--noun", "dog"), 2, "output"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--step", "3"), 2, "step"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--steps", "many"), 2, "steps"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--steps", "-3"), 2, "at least 1"),
    (("learn", "{photos}", "--noun", "", "-o", "{new}"), 2, "--noun is empty"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--recipe", "magic"), 2, "expected one of dreambooth-lora"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--device", "tpu"), 2, "tpu"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--device", "mps"), 4, "use --device cpu"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{photos}"), 3, "exists already"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--config", "{new}.json"), 2, "does not exist"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--config", "{text}"), 2, "not valid JSON"),
    (("learn", "{new}", "--noun", "dog", "-o", "{new}2"), 3, "does not exist"),
    (("learn", "{text}", "--noun", "dog", "-o", "{new}"), 3, "not an image"),
    (("learn", "{empty}", "--noun", "dog", "-o", "{new}"), 3, "holds no photos"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--base", "{new}"), 3, "was not found"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--base", "{empty}"), 3, "model_index.json"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--base", "m.ckpt"), 3, "pickle"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--base", "{new}.safetensors"), 3, "is not there"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--base", "{text}.safetensors"), 3, "damaged"),
    (("image", "{new}", "a {subject}"), 3, "{new}"),
    (("image", "{empty}", "a {subject}"), 3, "config.json"),
    (("image", "{text}", "a {subject}"), 3, ""),
    (("image", "{photos}"), 2, "prompts"),
    (("export", "{new}", "-o", "x"), 3, "{new}"),
    (("export", "{empty}", "-o", "x", "--format", "gif"), 2, "gif"),
    (("tokens", "--base", "{new}"), 3, "was not found"),
    (("systems", "--status", "great"), 2, "great"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--previews", "-1"), 2, "--previews must be 0"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--precision", "fp8"), 2, "fp8"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--seed", "lucky"), 2, "seed"),
    (("learn", "{photos}/none.jpg", "--noun", "dog", "-o", "{new}"), 3, "does not exist"),
    (("learn", "{photos}", "{text}", "--noun", "dog", "-o", "{new}"), 3, "{text}"),
    (("image", "{empty}", "a {subject}", "--seeds", "one"), 2, "seeds"),
    (("export", "{text}"), 2, "output"),
    (("export", "{text}", "-o", "x"), 3, "{text}"),
    (("evaluate", "{new}", "{photos}", "-o", "{new}2"), 3, "{new}"),
    (("evaluate", "{empty}", "{photos}", "-o", "{new}"), 3, "config.json"),
    (("evaluate", "{empty}", "{photos}"), 2, "output"),
    (("evaluate", "{empty}", "{photos}", "-o", "{new}", "--prompts", "haiku"), 2, "haiku"),
    (("demo", "--subject", "nobody", "-o", "{new}"), 2, "expected one of rex"),
    (("demo", "--prompts", "0", "-o", "{new}"), 2, "1 to 20 prompts"),
    (("demo", "--seeds", "0", "-o", "{new}"), 2, "at least one"),
    (("tokens", "--count", "few"), 2, "count"),
    (("doctor", "please"), 2, "please"),
    (("recipes", "--jsn"), 2, "jsn"),
]


@pytest.mark.parametrize("index", range(len(BAD_CALLS)))
def test_mistakes_get_one_message_and_no_traceback(
    index: int, tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected, message = BAD_CALLS[index]
    (tmp_path / "empty").mkdir()
    for name in ("text", "text.safetensors"):
        (tmp_path / name).write_text("this is neither JSON nor a model nor an image, but it is long enough to be read")
    places = {name: str(tmp_path / name) for name in ("new", "text", "empty")} | {"photos": str(photos)}
    filled = [a if a == "a {subject}" else a.format(**places) for a in arguments]
    code, out, err = run(*filled, capture=capsys)
    assert code == expected, out + err
    assert "Traceback" not in out + err
    if message:
        assert message.format(**places) in " ".join((out + err).replace("│", " ").split()), out + err
    assert len(list(photos.iterdir())) == 3


def test_systems_lists_all_rows_with_a_computed_status(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("systems", "--json", "True", capture=capsys)
    rows = {row["id"]: row for row in json.loads(out)}
    assert code == 0
    assert len(rows) == 176
    assert rows["dreambooth"]["recipes"] == ["dreambooth-lora", "dreambooth"]
    assert rows["dreambooth"]["status"] in ("runs", "measured")
    assert rows["elite"]["status"] == "open"
    code, out, _ = run("systems", capture=capsys)
    assert "of 176" in out


def test_doctor_and_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(run("doctor", "--json", "True", capture=capsys)[1])
    assert report["versions"]["torch"]
    assert set(report) == {"device", "memory", "versions", "models", "optional"}
    assert "free" in run("doctor", capture=capsys)[1]
    assert "textual-inversion" in run("recipes", capture=capsys)[1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["3d", "make", "rex"], ["3d make", "rex"]),
        (["image", "swap", "a.png"], ["image swap", "a.png"]),
        (["image", "rex", "swap"], ["image", "rex", "swap"]),
        (["learn", "photos"], ["learn", "photos"]),
        ([], []),
    ],
)
def test_a_group_and_its_verb_are_one_word(given: list[str], expected: list[str]) -> None:
    assert grouped(given, ["learn", "image", "image swap", "3d make", "3d render"]) == expected


@pytest.mark.parametrize("given", [["3d"], ["3d", "--help"], ["3d", "made"]])
def test_a_group_without_its_verb_names_the_verbs(given: list[str]) -> None:
    with pytest.raises(UsageError, match="make, render"):
        grouped(given, ["3d make", "3d render"])
