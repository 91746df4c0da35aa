"""`pcs-ext image ... --reference` as users type it."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pcs_ext.config_io import file_sha256
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.reference import REFERENCES
from tests.support.command_line import run
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import published, tiny_vision

PROMPT = "a photo of the red toy"


@pytest.fixture
def flags(tiny_sd_path: Path, tmp_path: Path) -> list[str]:
    """Base and adapter, and sampling that takes no time."""
    adapter = published(tmp_path / "adapter", load_backbone(str(tiny_sd_path), device="cpu", precision="fp32"))
    return [
        "--reference-adapter", str(adapter), "--steps", "2", "--device", "cpu", "--precision", "fp32",
    ]  # fmt: skip


def read(path: Path) -> tuple[bytes, dict]:
    with Image.open(path) as image:
        return image.tobytes(), json.loads(image.info["pcs_ext"])


def test_a_photo_beside_a_prompt_without_learning(
    flags: list[str], tiny_sd_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    originals = {path: path.read_bytes() for path in photos.iterdir()}
    made = {}
    for name, given in (
        ("one", [photos / "0.png"]),
        ("two", [photos / "0.png", photos / "1.png"]),
        ("off", [photos / "0.png", "--reference-scale", "0"]),
    ):
        output = tmp_path / f"{name}.png"
        code, out, err = run(
            "image", PROMPT, "--base", tiny_sd_path, "-o", output, *flags, "--reference", *given, capture=capsys
        )
        assert (code, out.split()) == (0, [str(output)]), err
        made[name] = read(output)
    assert len({pixels for pixels, _ in made.values()}) == 3, "one photo, two and none must differ"
    assert made["two"][1] | {"references": 2, "reference_scale": 1.0, "seed": 0} == made["two"][1]
    digest = file_sha256(Path(flags[1]))[:8]
    assert made["two"][1]["reference_adapter"] == f"{Path(flags[1]).name} ({digest})"
    assert str(tmp_path) not in json.dumps(made["two"][1]), "a picture tells where on this machine a base lies"
    assert {path: path.read_bytes() for path in photos.iterdir()} == originals


def test_an_empty_prompt_leaves_all_to_the_photos(
    flags: list[str], tiny_sd_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("image", "", "--base", tiny_sd_path, "-o", tmp_path / "one.png", *flags, "--reference", photos / "0.png")
    code, out, err = run(*command, capture=capsys)
    assert (code, out.split()) == (0, [str(tmp_path / "one.png")]), err
    with Image.open(tmp_path / "one.png") as image:
        assert image.info["prompt"] == ""


def test_with_a_learned_subject(
    flags: list[str], tiny_sd_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = RECIPES["textual-inversion"].build("dog", "toybox").with_steps(1)
    learn(
        photos,
        noun="dog",
        output=tmp_path / "rex",
        recipe=recipe,
        base=str(tiny_sd_path),
        device="cpu",
        precision="fp32",
    )
    command = ["image", tmp_path / "rex", "a photo of {subject}", "--seeds", "1", "2", "-o", tmp_path / "out", *flags]
    code, out, err = run(*command, "--reference", photos / "2.png", capture=capsys)
    assert code == 0, err
    paths = [Path(line) for line in out.split()]
    assert [path.name for path in paths] == ["00000.png", "00001.png"]
    facts = read(paths[0])[1]
    assert facts["references"] == 1
    assert facts["artifact"]


def test_mistakes_get_one_message(
    flags: list[str], tiny_sd_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    shown, base, one = ["--reference", photos / "0.png"], ["--base", tiny_sd_path], ["-o", tmp_path / "one.png"]
    (tmp_path / "there.png").write_bytes(b"kept")
    cases = [
        (["image", PROMPT, *base, *shown], 3, "needs a reference adapter"),
        (["image", "a photo of {subject}", *base, *shown, *flags], 2, "names a learned subject, but none was given"),
        (["image", PROMPT, *base, "--reference", tmp_path / "cut.jpg", *flags], 3, "cut.jpg"),
        (["image", PROMPT, *base, "--reference", tmp_path / "no.jpg", *flags], 3, "no.jpg does not exist"),
        (["image", PROMPT, *base, *shown, *flags, "--reference-scale", "-1"], 2, "must be 0 or more"),
        (["image", PROMPT, *base, *shown, *flags, "--scale", "0.5"], 2, "that of photos is --reference-scale"),
        (["image", PROMPT, *base, *shown, *flags, "--reference-box", "0,0,1,1"], 2, "cannot be told where things"),
        (["image", PROMPT, PROMPT, *base, *shown, *flags, *one], 2, "is one image, and 2 prompts"),
        (["image", PROMPT, *base, *shown, *flags, "-o", tmp_path / "there.png"], 2, "exists already"),
        (["image", PROMPT, photos, *base, *shown, *flags], 2, "one learned subject or none"),
        (["reference", "learn", photos, "-o", tmp_path / "x"], 3, "has no subfolders"),
    ]
    for command, expected, message in cases:
        code, _, err = run(*command, capture=capsys)
        assert code == expected, err
        assert message in err
    assert (tmp_path / "there.png").read_bytes() == b"kept"
    assert not (tmp_path / "one.png").exists()


def test_a_system_is_trained_and_shows_several_photos(
    tiny_sd_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run("reference", "systems", capture=capsys)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(REFERENCES)
    code, out, _ = run("reference", "systems", "--config", "photomaker", capture=capsys)
    settings = json.loads(out) | {"steps": 2, "batch_size": 2, "photos": 2}
    settings["adapter"]["rank"] = 2
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    machine = ["--device", "cpu", "--precision", "fp32"]
    adapter, pairs = tmp_path / "maker", albums(tmp_path / "pairs")
    code, out, err = run(
        "reference", "learn", pairs, "-o", adapter, "--system", "photomaker", "--base", tiny_sd_path, *machine,
        "--encoder", tiny_vision(tmp_path / "eye"), "--config", tmp_path / "settings.json", capture=capsys,
    )  # fmt: skip
    assert (code, out.split()) == (0, [str(adapter)]), err
    made = {}
    for name, given in (("one", ["0.png"]), ("two", ["0.png", "1.png"])):
        command = ["image", "a photo of the dog", "--base", tiny_sd_path, "-o", tmp_path / f"{name}.png", *machine]
        shown = ["--reference", *[photos / file for file in given], "--reference-adapter", adapter, "--steps", "3"]
        code, _, err = run(*command, *shown, "--reference-noun", "dog", capture=capsys)
        assert code == 0, err
        made[name] = read(tmp_path / f"{name}.png")[0]
    assert made["one"] != made["two"]
    asked = ["image", "a photo of the dog", "--base", tiny_sd_path, "-o", tmp_path / "no.png", *machine, *shown]
    code, _, err = run(*asked, capture=capsys)
    assert (code, "must know which word" in err) == (2, True), err
