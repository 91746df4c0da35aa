"""What users get wrong: one message, the right exit code, no traceback, and nothing of theirs changed."""

from pathlib import Path

import pytest
import torch

from tests.support.command_line import run

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
    (("image", "a dog", "--reference", "{photos}", "--guidance-scale", "-2"), 2, "must be 0 or more, got -2"),
    (("image", "{empty}", "a {subject}", "--reference-noun", "dog"), 2, "--reference PHOTO"),
    (("image", "layout", "a dog", "--box", "dog: 0 0 1 1", "-o", "{new}.png", "--seeds", "1", "2"), 2, "is one image"),
    (("image", "style", "a dog", "a cat", "-o", "{new}.png"), 2, "is one image"),
    (("image", "restyle", "{photos}", "{photos}/0.png", "-o", "{new}.png"), 3, "holds 3 photos; expected one picture"),
    (("image", "restyle", "{photos}/0.png", "{photos}", "-o", "{new}.png"), 3, "holds 3 photos; expected one picture"),
    (
        (
            "image",
            "insert",
            "{photos}/0.png",
            "{photos}",
            "a",
            "--box",
            "0 0 1 1",
            "--scene-prompt",
            "b",
            "-o",
            "{new}.png",
        ),
        3,
        "holds 3 photos; expected one picture",
    ),
    (("image", "{empty}", "a {subject}", "--scale", "nan"), 2, "--scale must be a finite number, got nan"),
    (("image", "{empty}", "a {subject}", "--seeds", "1", "9" * 30), 2, "--seeds must fit into 64 bits"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--seed", "9" * 30), 2, "--seed must fit into 64 bits"),
    (("learn", "{photos}", "--noun", "{{dog}}", "-o", "{new}"), 2, "has braces"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{new}", "--jsonl", "{photos}/0.png"), 3, "else than events"),
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
    (("systems", "--json", "True"), 2, "True"),
    (("recipes", "--json=True"), 2, "True"),
    (("tokens", "--count", "0"), 2, "at least 1"),
    (("help", "frobnicate"), 2, "no command"),
    (("lern", "{photos}"), 2, "Did you mean learn?"),
    (("train", "{photos}"), 2, "Did you mean learn?"),
    (("vectorise", "{text}"), 2, "Did you mean svg vectorize?"),
    (("svg",), 2, "svg customize"),
    (("svg", "make_it"), 2, "Did you mean svg make?"),
    (("svg", "--dry-run"), 2, "It has customize, make, vectorize"),
    (("learn", "--noun", "dog", "-o", "{new}"), 3, "no photos were given"),
    (("learn", "{photos}", "--noun", "dog", "-o", "{text}/rex"), 3, "{text} is a file, expected a folder"),
    (("svg", "customize", "{svg}", "a red {subject}", "--noun", "dog"), 2, "output"),
    (("svg", "customize", "{svg}", "a red {subject}", "--noun", "dog", "-o", "{new}"), 2, "ends in .svg"),
    (("svg", "customize", "{svg}", "a red {subject}", "--noun", "dog", "-o", "{svg}"), 2, "other than the exemplar's"),
    (("svg", "customize", "{svg}", "a red {subject}", "--noun", "", "-o", "{new}.svg"), 2, "--noun is empty"),
    (("svg", "customize", "{svg}", "a red dog", "--noun", "dog", "-o", "{new}.svg"), 2, "{subject}"),
    (("svg", "customize", "{new}.svg", "a {subject}", "--noun", "dog", "-o", "{new}2.svg"), 3, "{new}.svg"),
    (("svg", "customize", "{text}.svg", "a {subject}", "--noun", "dog", "-o", "{new}.svg"), 3, "{text}.svg"),
    (("svg", "customize", "{empty}.svg", "a {subject}", "--noun", "dog", "-o", "{new}.svg"), 3, "{empty}.svg"),
    (("svg", "customize", "{svg}", "a {subject}", "--noun", "dog", "-o", "{new}.svg", "--recipe", "magic"), 2, "magic"),
    (
        ("svg", "customize", "{svg}", "a {subject}", "--noun", "dog", "-o", "{new}.svg", "--steps", "-1"),
        2,
        "at least 1",
    ),
    (("svg", "customize", "{svg}", "a {subject}", "--noun", "dog", "-o", "{new}.svg", "--candidates", "0"), 2, "0"),
    (("svg", "customize", "{svg}", "a {subject}", "--noun", "dog", "-o", "{new}.svg", "--config", "{text}"), 2, "JSON"),
    (("svg", "make", "{new}", "a {subject}", "-o", "{new}.svg"), 3, "does not exist"),
    (("svg", "make", "{empty}", "a {subject}", "-o", "{new}.svg"), 3, "config.json"),
    (("svg", "vectorize", "{new}", "-o", "{new}.svg"), 3, "{new}"),
    (("svg", "vectorize", "{text}", "-o", "{new}.svg"), 3, "not an image"),
    (("svg", "vectorize", "{photos}", "-o", "{new}.svg"), 3, "{photos}"),
    (("svg", "vectorize", "{photos}/0.png", "-o", "{photos}/0.png"), 2, "ends in .svg"),
    (("svg", "vectorize", "{photos}/0.png", "-o", "{new}.svg", "--paths", "0"), 2, "1 to 512"),
    (("svg", "vectorize", "{photos}/0.png", "-o", "{new}.svg", "--segments", "99"), 2, "3 to 32"),
    (("3d", "animate", "{empty}", "{new}", "{subject} jumps", "-o", "{new}.glb"), 2, "ends in webp, gif, mp4, png"),
    (("3d", "animate", "{empty}", "{new}", "{subject} jumps", "-o", "{new}.mp4"), 3, "is no 3D job's folder"),
    (("3d", "animate", "{empty}", "{new}", "{subject}", "-o", "{new}.mp4", "--frames", "0"), 2, "at least 1 frame"),
    (("3d", "export", "{empty}", "-o", "{new}.glb", "--splats"), 2, "ends in ply"),
    (("3d", "views", "{empty}", "{subject}", "-o", "{new}.gif"), 2, "ends in png"),
    (("3d", "views", "{empty}", "{subject}", "-o", "{new}.png"), 3, "config.json"),
    (("3d", "export", "{empty}", "-o", "{new}.usdz"), 3, "is no 3D job's folder"),
    (("panorama", "make", "a beach", "-o", "{new}.gif"), 2, "expected one of .jpg"),
    (("panorama", "make", "a {subject}", "-o", "{new}.jpg"), 2, "but none was given"),
    (("panorama", "make", "a beach", "-o", "{new}.jpg", "--seeds"), 2, "one or more seeds"),
    (("panorama", "make", "a beach", "-o", "{new}.jpg", "--seeds", "1", "1"), 2, "all different"),
    (("panorama", "make", "a beach", "-o", "{new}.jpg", "--subject", "{empty}"), 3, "config.json"),
    (("panorama", "make", "a beach", "-o", "{new}.jpg", "--base", "{empty}"), 3, "model_index.json"),
    (("panorama", "make", "a beach", "-o", "{new}.jpg", "--method", "magic"), 2, "magic"),
    (("panorama", "make", "a beach", "-o", "{new}.jpg", "--base", "{base}", "--height", "7"), 2, "height 7"),
    (("panorama", "make", "a beach", "-o", "{new}.jpg", "--base", "{base}", "--height", "-64"), 2, "height -64"),
    (("panorama", "make", "a beach", "-o", "{new}.jpg", "--base", "{base}", "--steps", "-1"), 2, "at least 1"),
    (("panorama", "view", "{new}.jpg"), 3, "{new}.jpg"),
    (("panorama", "view", "{photos}/0.png"), 3, "twice as wide as high"),
    (("continual", "add", "{new}", "{photos}", "--noun", "dog"), 2, "name"),
    (("continual", "add", "{new}", "{photos}", "--noun", "dog", "--name", "Rex 1"), 2, "small letters"),
    (("continual", "add", "{new}", "{empty}", "--noun", "dog", "--name", "rex"), 3, "holds no photos"),
    (("continual", "add", "{photos}", "{photos}", "--noun", "dog", "--name", "rex"), 2, "a folder of its own"),
    (("continual", "add", "{text}", "{photos}", "--noun", "dog", "--name", "rex", "--base", "{base}"), 3, "{text}"),
    (
        ("continual", "add", "{new}", "{photos}", "--noun", "dog", "--name", "rex", "--base", "{empty}"),
        3,
        "model_index",
    ),
    (("continual", "image", "{new}", "a {subject}"), 3, "holds no subjects"),
    (("continual", "image", "{new}", "a {rex}", "a {pip}", "-o", "{new}.png"), 2, "is one image"),
    (("continual", "report", "{empty}"), 3, "holds no subjects"),
    (("censor", "{new}", "-o", "{new}2", "--triggers", "beach"), 3, "does not exist"),
    (("censor", "{empty}", "-o", "{new}", "--triggers", "beach"), 3, "config.json"),
    (("censor", "{empty}", "-o", "{photos}", "--triggers", "beach"), 2, "never overwrites"),
    (("censor", "{empty}", "-o", "{new}", "--recipe", "magic"), 2, "magic"),
    (("censor", "{empty}", "-o", "{new}", "--recipe", "censor-text", "--picture", "{text}"), 2, "leads to a caption"),
    (("protect", "{photos}", "-o", "{photos}"), 2, "originals are never touched"),
    (("protect", "{new}", "-o", "{new}2"), 3, "does not exist"),
    (("protect", "{empty}", "-o", "{new}"), 3, "holds no photos"),
    (("protect", "{text}", "-o", "{new}"), 3, "not an image"),
    (("protect", "{photos}", "-o", "{new}", "--recipe", "magic"), 2, "expected one of aspl"),
    (("protect", "{photos}", "-o", "{new}", "--levels", "300"), 2, "at most 255 levels"),
    (("protect", "{photos}", "-o", "{new}", "--steps", "-1"), 2, "must be positive"),
    (("protect", "{photos}", "-o", "{new}", "--format", "bmp"), 2, "bmp"),
    (("protect", "{photos}", "-o", "{new}", "--base", "{empty}"), 3, "model_index.json"),
    (("protect", "{photos}", "-o", "{new}", "--attack", "hard"), 2, "expected one of quick"),
    (("protect", "{photos}", "-o", "{new}", "--region", "mask"), 3, "_mask.png"),
    (("protect", "{photos}", "-o", "{new}", "--config", "{text}"), 2, "not valid JSON"),
    (("verify", "{new}"), 3, "does not exist"),
    (("verify", "{photos}/0.png"), 3, "report.json"),
    (("verify", "{photos}/0.png", "--report", "{text}"), 2, "not valid JSON"),
]
TEXT = "this is neither JSON nor a model nor an image, but it is long enough to be read"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">{}</svg>'


@pytest.mark.parametrize("index", range(len(BAD_CALLS)))
def test_mistakes_get_one_message_and_no_traceback(
    index: int, tmp_path: Path, photos: Path, tiny_sd_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected, message = BAD_CALLS[index]
    (tmp_path / "empty").mkdir()
    for name in ("text", "text.safetensors", "text.svg"):
        (tmp_path / name).write_text(TEXT)
    (tmp_path / "svg").write_text(SVG.format('<path id="ear" d="M1 1L9 1L9 9Z" fill="#f00"/>'))
    (tmp_path / "empty.svg").write_text(SVG.format(""))
    places = {name: str(tmp_path / name) for name in ("new", "text", "empty", "svg")}
    places |= {"photos": str(photos), "base": str(tiny_sd_path)}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, out, err = run(*(_filled(argument, places) for argument in arguments), capture=capsys)
    assert code == expected, out + err
    assert "Traceback" not in out + err
    assert _filled(message, places) in " ".join((out + err).replace("│", " ").split()), out + err
    assert {path: path.read_bytes() for path in before} == before
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(before), "something was left behind"


def _filled(text: str, places: dict[str, str]) -> str:
    for name, path in places.items():
        text = text.replace(f"{{{name}}}", path)
    return text


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (OSError(28, "No space left on device"), 4),
        (PermissionError(13, "Permission denied", "/somewhere"), 3),
        (KeyboardInterrupt(), 5),
        (UnicodeEncodeError("utf-8", "a photo of a d\udcff", 14, 15, "surrogates not allowed"), 2),
        (MemoryError(), 4),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to\nbacktrace"), 4),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."), 4),
    ],
)
def test_what_the_system_refuses_is_told_in_words(
    problem: BaseException, expected: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(json: bool = False) -> None:
        raise problem

    monkeypatch.setattr("pcs_ext.commands.doctor", refuse)
    code, _, err = run("doctor", capture=capsys)
    assert code == expected
    assert err.startswith("pcs-ext: ")
    assert err.count("\n") == 1
