"""Holes in photos filled with what reference photos show, as users ask for it."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.errors import PhotoError, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.reference.files import ReferenceConfig, save_adapter
from pcs_ext.image.reference.inpaint import inpaint
from tests.support.command_line import run
from tests.support.tiny_reference import TINY, at_random, tiny_system, tiny_vision


def test_a_hole_is_filled_and_the_rest_stays(
    tiny_sd_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sd = load_backbone(str(tiny_sd_path), device="cpu", precision="fp32")
    eye = tiny_vision(tmp_path / "eye")
    adapter, encoder = tiny_system("pva", sd, eye)
    at_random(adapter, sd)
    said = ReferenceConfig(
        kind="pva", adapter=TINY["pva"], encoder=str(eye), encoder_digest=encoder.digest, base=sd.name,
        base_fingerprint=sd.fingerprint, family=sd.family, steps=1,
    )  # fmt: skip
    save_adapter(adapter, said, tmp_path / "pva", half=False)
    picture = Image.effect_noise((32, 32), 60).convert("RGB")
    picture.save(tmp_path / "me.png")
    hole = Image.new("L", (32, 32))
    hole.paste(255, (8, 8, 20, 20))
    hole.save(tmp_path / "me_mask.png")
    flags = ["--base", tiny_sd_path, "--device", "cpu", "--precision", "fp32", "--steps", "2"]
    shown = ["--reference", photos / "0.png", "--reference-adapter", tmp_path / "pva"]
    made = {}
    for name, more in (("one", []), ("off", ["--reference-scale", "0"])):
        output = tmp_path / f"{name}.png"
        code, out, err = run(
            "reference", "inpaint", tmp_path / "me.png", "the dog", "-o", output, *flags, *shown, *more, capture=capsys
        )
        assert (code, out.split()) == (0, [str(output)]), err
        with Image.open(output) as image:
            made[name] = torch.tensor(list(image.tobytes())).reshape(32, 32, 3)
            assert json.loads(image.info["pcs_ext"])["inpainted"] == "me.png"
    own = torch.tensor(list(picture.tobytes())).reshape(32, 32, 3)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[8:20, 8:20] = True
    for image in made.values():
        assert (image[~inside] - own[~inside]).abs().max() <= 1
        assert (image[inside] - own[inside]).abs().float().mean() > 5
    assert (made["one"] != made["off"]).any()
    (tmp_path / "me_mask.png").unlink()
    clear = picture.convert("RGBA")
    clear.putalpha(hole.point(lambda level: 255 - level))
    clear.save(tmp_path / "clear.png")
    known = {"adapter": str(tmp_path / "pva"), "base": sd, "steps": 2}
    filled = inpaint(tmp_path / "clear.png", "the dog", photos / "0.png", **known)  # type: ignore[arg-type]
    kept = torch.tensor(list(filled[0].image.tobytes())).reshape(32, 32, 3)
    assert (kept[~inside] - own[~inside]).abs().max() <= 1, "what is transparent is the hole"
    with pytest.raises(PhotoError, match=r"has no mask; expected me_mask.png"):
        inpaint(tmp_path / "me.png", "the dog", photos / "0.png", base=sd)
    with pytest.raises(UsageError, match="names a learned subject, and inpaint fills holes"):
        inpaint(tmp_path / "me.png", "a {subject} on the beach", photos / "0.png", base=sd)
    with pytest.raises(PhotoError, match="holds 3 photos; expected the one with the hole"):
        inpaint(photos, "the dog", photos / "0.png", base=sd)
