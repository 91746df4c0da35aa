"""A garment on a person: the warp by hand, what is painted and what stays, and the command."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.errors import ConfigError, InputError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.try_on import TryOnConfig, fitted, panel, put_on, try_on
from pcs_ext.image.sample import SampleConfig
from tests.support.command_line import run

SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=4, guidance_scale=2.0)
PERSON = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
GARMENT = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
ALL = torch.ones(1, 1, 24, 40)
REGION = torch.zeros(1, 1, 32, 32)
REGION[..., 8:24, 4:20] = 1


def quick(**changes) -> TryOnConfig:
    return dataclasses.replace(try_on("toybox"), **{"sampling": SAMPLING, **changes})


def worn(sd: AbstractBackbone, garment: torch.Tensor = GARMENT, **changes) -> torch.Tensor:
    return put_on(sd, PERSON, REGION, garment, ALL, "a dog in red", seed=1, config=quick(**changes))


def test_rows_are_stretched_from_end_to_end() -> None:
    """A garment whose colour is its place, across from -1 to 1, over a triangle."""
    ramp = torch.linspace(-1, 1, 40).expand(1, 3, 24, 40)
    triangle = torch.zeros(1, 1, 20, 20)
    for row in range(20):
        triangle[..., row, 10 - (row + 2) // 2 : 10 + (row + 2) // 2] = 1
    out = fitted(ramp, ALL, triangle)[0, 0]
    for row in range(20):
        width = (row + 2) // 2 * 2
        inside = out[row, 10 - width // 2 : 10 + width // 2]
        shares = (torch.arange(width) + 0.5) / width * 40 - 0.5
        torch.testing.assert_close(inside, shares.clamp(0, 39) / 39 * 2 - 1, atol=1e-4, rtol=1e-4)
    assert (out[triangle[0, 0] == 0] == 1).all(), "white outside"
    same = fitted(PERSON, torch.ones(1, 1, 32, 32), torch.ones(1, 1, 32, 32))
    torch.testing.assert_close(same, PERSON, atol=1e-5, rtol=1e-5)
    down = torch.linspace(-1, 1, 24).view(1, 1, 24, 1).expand(1, 3, 24, 40)
    part = torch.zeros(1, 1, 24, 40)
    part[..., 6:18, 10:30] = 1
    tall = fitted(down, part, REGION)[0, 0, 8:24, 10]
    expected = (6 + ((torch.arange(16) + 0.5) / 16 * 12 - 0.5).clamp(0, 11)) / 23 * 2 - 1
    torch.testing.assert_close(tall, expected, atol=1e-4, rtol=1e-4)
    gap = ALL.clone()
    gap[..., 24:30] = 0
    body = fitted(ramp, gap, REGION)[0, 0, 8:24, 4:20]
    shares = ((torch.arange(16) + 0.5) / 16 * 24 - 0.5) / 39 * 2 - 1
    torch.testing.assert_close(body, shares.expand(16, 16), atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="where the garment goes marks nothing"):
        fitted(GARMENT, ALL, torch.zeros_like(REGION))


def test_only_the_region_is_painted_and_the_garment_is_looked_at(sd: AbstractBackbone) -> None:
    made = worn(sd)
    assert made.shape == PERSON.shape
    assert not torch.equal(made, worn(sd, GARMENT.flip(-1)))
    assert not torch.equal(made, worn(sd, attention=4.0))
    # At the lowest level one step is taken, and what comes out is the warp, as far as the autoencoder keeps it.
    still = worn(sd, strength=0.001, attention=1.0)
    dressed = torch.where(REGION > 0.5, fitted(GARMENT, ALL, REGION), PERSON)
    with torch.no_grad():
        kept = sd.decode_latents(sd.encode_images(torch.cat([panel(PERSON, (32, 32)), dressed], -1)))[..., 32:]
    assert (still - kept.clamp(-1, 1)).abs().mean() < (made - kept.clamp(-1, 1)).abs().mean()
    wide = panel(PERSON, (32, 48))
    assert torch.equal(wide[..., 8:40], PERSON.clamp(-1, 1))
    assert (wide[..., :8] == 1).all()
    for wrong in ({"strength": 0.0}, {"attention": -1.0}):
        with pytest.raises(ConfigError, match="out of range"):
            quick(**wrong)


def test_the_command(tiny_sd_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    person, garment = tmp_path / "me.png", tmp_path / "shirt.png"
    for path, size in ((person, (44, 60)), (garment, (40, 36))):
        Image.effect_noise(size, 60).convert("RGB").save(path)
        mask = Image.new("L", size)
        mask.paste(255, (8, 8, 30, 20))
        mask.save(path.with_name(f"{path.stem}_mask.png"))
    flags = ("--base", str(tiny_sd_path), "--steps", "3", "--device", "cpu", "--precision", "fp32")
    command = ("image", "try-on", str(person), str(garment), "a red dog", *flags, "-o", str(tmp_path / "out.png"))
    code, printed, err = run(*command, capture=capsys)
    assert (code, printed.split()) == (0, [str(tmp_path / "out.png")]), err
    with Image.open(tmp_path / "out.png") as made, Image.open(person) as original:
        assert made.size == original.size
        outside = Image.new("L", made.size, 255)
        outside.paste(0, (8, 8, 30, 20))
        own, other = (torch.tensor(list(x.convert("RGB").tobytes())).view(60, 44, 3) for x in (original, made))
    away = torch.tensor(list(outside.tobytes())).view(60, 44) == 255
    assert torch.equal(own[away], other[away])
    assert not torch.equal(own[~away], other[~away])
    code, _, err = run(*command, capture=capsys)
    assert (code, "exists already" in err) == (2, True), err
    own = tmp_path / "shirt_mask.png"
    code, _, err = run(*command[:-1], own, "--garment-mask", own, "--overwrite", capture=capsys)
    assert (code, "originals are never touched" in err) == (2, True), err
    own.unlink()
    code, _, err = run(*command, "--overwrite", capture=capsys)
    assert (code, "has no mask of the garment" in err) == (3, True), err
    code, _, err = run(*command[:4], " ", *command[5:], "--overwrite", capture=capsys)
    assert (code, "the prompt is empty" in err) == (2, True), err
