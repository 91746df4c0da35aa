"""The edits' commands as users type them: files appear where asked, originals stay, mistakes get one message."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pcs_ext.cli import main
from pcs_ext.config_io import to_jsonable
from pcs_ext.errors import ConfigError
from pcs_ext.image.edits import EDITS
from pcs_ext.image.edits.settings import resolve_edit
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES
from tests.support.encoders import tiny_clip


def run(*arguments: str, capture: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = 0
    try:
        main(list(arguments))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    output = capture.readouterr()
    return code, output.out, output.err


def read(path: Path) -> tuple[np.ndarray, dict[Any, Any]]:
    with Image.open(path) as image:
        return np.array(image), dict(image.info)


@pytest.fixture
def rex(tiny_sd_path: Path, photos: Path, tmp_path: Path) -> str:
    recipe = RECIPES["textual-inversion"].build("dog", "toybox").with_steps(1)
    learn(photos, noun="dog", output=tmp_path / "rex", recipe=recipe, base=str(tiny_sd_path), device="cpu")
    return str(tmp_path / "rex")


@pytest.fixture
def street(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(128, 60, (44, 60, 1)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noise.repeat(3, axis=2)).save(tmp_path / "street.png")
    mask = np.zeros((44, 60), dtype=np.uint8)
    mask[10:34, 20:40] = 255
    Image.fromarray(mask).save(tmp_path / "given.png")
    return tmp_path / "street.png"


def test_swap(rex: str, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original, output = street.read_bytes(), tmp_path / "out" / "new.png"
    command = ("image", "swap", str(street), rex, "--noun", "cat", "-o", str(output), "--steps", "2")
    # Whether attention of a random model finds a cat hangs on its last bits.
    command = (*command, "--precision", "fp32")
    code, out, err = run(*command, "--mask", str(tmp_path / "given.png"), capture=capsys)
    assert (code, out.split()) == (0, [str(output)]), err
    (before, _), (after, info), (mask, _) = (read(path) for path in (street, output, tmp_path / "given.png"))
    mask = mask > 0
    assert (before[~mask] == after[~mask]).all()
    assert (before[mask] != after[mask]).any()
    assert json.loads(info["pcs_ext"])["edit"] == "swapanything"
    code, out, err = run(*command, "--method", "photoswap", "--overwrite", capture=capsys)
    assert (code, (tmp_path / "out" / "new_mask.png").is_file()) == (0, True), err
    assert street.read_bytes() == original
    (tmp_path / "mine_mask.png").write_bytes((tmp_path / "given.png").read_bytes())
    for wrong, message, expected in (
        ((), "exists already", 2),
        (("--output", str(tmp_path / "mine.png")), "mine_mask.png exists already", 2),
        (("--overwrite", "--output", str(street)), "originals are never touched", 2),
        (("--output", str(tmp_path / "x.jpg")), "ends in .png", 2),
        (("--output", str(tmp_path / "x.png"), "--mask", str(tmp_path / "none.png")), "none.png", 3),
        (("--output", str(tmp_path / "x.png"), "--prompt", "a cat"), "where the subject goes", 2),
    ):
        code, _, err = run(*command, *wrong, capture=capsys)
        assert (code, message in err) == (expected, True), err


def test_layout_insert_and_follow(
    rex: str, street: Path, tiny_sd_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"{subject}": [0, 0, 0.5, 1]}))
    made, small = str(tmp_path / "made"), ("--seeds", "0", "--steps", "2")
    code, out, err = run(
        "image", "layout", "{subject} and a cat", "--subject", rex, "--boxes", str(boxes), "--box", "cat: 0.5 0 1 1",
        "-o", made, *small, capture=capsys,
    )  # fmt: skip
    assert (code, out.strip()) == (0, str(Path(made) / "00000.png")), err
    base = str(tiny_sd_path)
    code, _, err = run("image", "layout", "a cat", "--box", "dog: 0 0 1 1", "--base", base, "-o", made, capture=capsys)
    assert (code, "'dog' does not stand in the prompt" in err) == (2, True), err
    code, _, err = run("image", "layout", "a cat", "--base", base, "-o", made, capture=capsys)
    assert (code, "needs boxes of different phrases, got none" in err) == (2, True), err
    place = ("--box", "0.2 0.2 0.8 0.9", "--scene-prompt", "a photo of the beach", "--base", base, "--steps", "2")
    insert = ("image", "insert", str(street), str(street), "a red dog on the beach", *place)
    code, _, err = run(*insert, "-o", str(tmp_path / "a.png"), capture=capsys)
    assert (code, "has no mask" in err) == (3, True), err
    code, out, err = run(*insert, "-o", str(tmp_path / "a.png"), "--mask", str(tmp_path / "given.png"), capture=capsys)
    assert (code, read(tmp_path / "a.png")[0].shape) == (0, (44, 60, 3)), err
    code, out, err = run(
        "image", "follow", str(street), "a photo of {subject}", "--subject", rex, "--noun", "cat", "--class-noun",
        "dog", "-o", made, *small, capture=capsys,
    )  # fmt: skip
    assert (code, out.strip()) == (0, str(Path(made) / "00001.png")), err


def test_a_subject_in_its_box_and_pictures_led_to_a_reference(
    rex: str, street: Path, tiny_sd_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, small = tmp_path / "made", ("--seeds", "0", "--steps", "2")
    boxed = ("image", "layout", "a photo of {subject} on grass", "--method", "pacgen", "-o", str(made), *small)
    code, out, err = run(*boxed, "--subject", rex, "--box", "{subject}: 0.5 0 1 1", capture=capsys)
    assert (code, out.strip()) == (0, str(made / "00000.png")), err
    facts = json.loads(read(made / "00000.png")[1]["pcs_ext"])
    assert (facts["edit"], facts["boxes"][0]["left"]) == ("pacgen", 0.5)
    for wrong in (("--subject", rex, "--box", "grass: 0.5 0 1 1"), ("--box", "photo: 0 0 1 1")):
        code, _, err = run(*boxed, *wrong, capture=capsys)
        expected = "fills the box of one learned subject" if "--subject" in wrong else "names a learned subject"
        assert (code, expected in err) == (2, True), err
    led = ("image", "style", "a cat", "--method", "sag", "--base", str(tiny_sd_path), "-o", str(made), *small)
    code, _, err = run(*led, "--reference", str(street), capture=capsys)
    assert (code, "sag looks at photos with openai/clip-vit-base-patch32" in err) == (3, True), err
    settings = {**to_jsonable(EDITS["sag"].build("sd")), "encoder": str(tiny_clip(tmp_path / "clip")), "layer": 1}
    config = tmp_path / "sag.json"
    config.write_text(json.dumps(settings))
    code, out, err = run(*led, "--reference", str(street), "--config", str(config), capture=capsys)
    assert (code, out.strip()) == (0, str(made / "00001.png")), err
    for wrong in ((), ("--reference", str(street), "--reference-prompt", "a street")):
        code, _, err = run(*led, "--config", str(config), *wrong, capture=capsys)
        assert (code, "sag leads pictures to a --reference" in err) == (2, True), err


@pytest.mark.parametrize("method", ["photoswap", "swapanything", "portrait-diffusion", "tigic", "try-on"])
def test_what_is_as_large_as_the_picture_takes_no_size_from_a_config(method: str, tmp_path: Path) -> None:
    settings = to_jsonable(EDITS[method].build("toybox"))
    settings["sampling"]["width"] = 128
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    kind = type(EDITS[method].build("toybox"))
    with pytest.raises(ConfigError, match=r"as large as the picture that is edited; leave height .* out"):
        resolve_edit(method, kind, "toybox", tmp_path / "settings.json")
