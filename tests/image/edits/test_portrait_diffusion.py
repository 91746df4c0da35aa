"""Manner by attention: what each branch sees, exactness where nothing is asked for, masks, and the command."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.attention import attention_program
from pcs_ext.image.attention_edits import Capture, edited
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.portrait_diffusion import (
    Matched,
    PortraitDiffusionConfig,
    manner_edits,
    portrait_diffusion,
    restyle,
)
from pcs_ext.image.sample import SampleConfig
from tests.support.command_line import run

SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=4, guidance_scale=1.0)
CONTENT = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
STYLE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
HALF = torch.zeros(1, 1, 32, 32)
HALF[..., :16] = 1


def quick(**changes) -> PortraitDiffusionConfig:
    return dataclasses.replace(portrait_diffusion("toybox"), **{"sampling": SAMPLING, **changes})


@torch.no_grad()
@pytest.mark.parametrize(("timestep", "own"), [(600, False), (100, True)])
def test_what_the_branches_see(sd: AbstractBackbone, timestep: int, own: bool) -> None:
    """The finer decoder block's self-attention, written out by hand."""
    edits = manner_edits(sd, quick(), (8, 8))
    (path,) = {p for p in edits[0].paths if p.endswith("attentions.0.transformer_blocks.0.attn1")}
    assert path.startswith("up_blocks.1.")
    attention, states, seen = sd.denoiser.get_submodule(path), [], Capture()
    handle = attention.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
    with attention_program(sd, seen, [path], at="output"):
        latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
        predict = edited(sd, edits)(sd.predict)
        predict(latents, torch.full((3,), timestep), sd.encode_prompt(["a dog"] * 3))
    handle.remove()
    query, key, value = (getattr(attention, name)(states[0]) for name in ("to_q", "to_k", "to_v"))

    def mixed(row: int) -> torch.Tensor:
        q, k, v = (x.unflatten(1, (attention.heads, -1)).transpose(0, 1) for x in (query[row], key[0], value[0]))
        out = (attention.scale * q @ k.transpose(1, 2)).softmax(-1) @ v
        return attention.to_out[0](out.transpose(0, 1).flatten(1))

    style, content, target = seen.seen[path]
    torch.testing.assert_close(style, mixed(0))
    torch.testing.assert_close(content, mixed(1))
    # The capture stands outside of the last edit and sees what comes before it goes beyond.
    torch.testing.assert_close(target, mixed(2) if own else mixed(1))


def test_what_is_all_alike_stays_and_another_manner_is_seen(sd: AbstractBackbone) -> None:
    one = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2)).expand(3, -1, -1, -1)
    conditioning, predict = sd.encode_prompt(["a dog"] * 3), edited(sd, manner_edits(sd, quick(), (8, 8)))(sd.predict)
    with torch.no_grad():
        for timestep in (600, 100):
            times = torch.full((3,), timestep)
            torch.testing.assert_close(predict(one, times, conditioning), sd.predict(one, times, conditioning))
    painted = restyle(sd, CONTENT, STYLE, config=quick(), prompt="a dog")
    assert not torch.equal(painted, restyle(sd, CONTENT, STYLE.flip(-1), config=quick(), prompt="a dog"))
    off = quick(first=1.0, free=1.0)
    plain = restyle(sd, CONTENT, STYLE, config=off, prompt="a dog")
    assert torch.equal(plain, restyle(sd, CONTENT, STYLE.flip(-1), config=off, prompt="a dog"))


def test_masks_keep_inside_and_outside_apart(sd: AbstractBackbone) -> None:
    matched = Matched(HALF, HALF.flip(-1), (8, 8))
    scores = torch.zeros(3, 1, 64, 64)
    probabilities = matched("attn1", scores).softmax(-1)[1, 0]
    columns = torch.arange(64) % 8
    left, right = columns < 4, columns >= 4
    assert not probabilities[left][:, left].any(), "the content's left is inside, the style's left is not"
    assert not probabilities[right][:, right].any()
    torch.testing.assert_close(probabilities[left][:, right].sum(-1), torch.ones(32))
    assert torch.equal(matched("attn1", scores)[0], scores[0])
    masks = (HALF, HALF)
    assert not torch.equal(
        restyle(sd, CONTENT, STYLE, config=quick(), masks=masks), restyle(sd, CONTENT, STYLE, config=quick())
    )
    with pytest.raises(UsageError, match="something inside and something outside"):
        restyle(sd, CONTENT, STYLE, config=quick(), masks=(HALF, torch.ones_like(HALF)))
    with pytest.raises(UsageError, match="must have one size"):
        restyle(sd, CONTENT, STYLE[..., :16], config=quick())
    with pytest.raises(ConfigError, match="without guidance"):
        quick(sampling=dataclasses.replace(SAMPLING, guidance_scale=2.0))
    with pytest.raises(ConfigError, match="out of range"):
        quick(first=0.8)


def test_the_command(tiny_sd_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, size in (("photo", (60, 44)), ("painting", (40, 40))):
        noise = np.random.default_rng(len(name)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    photo, painting, output = (str(tmp_path / name) for name in ("photo.png", "painting.png", "out.png"))
    original = Path(photo).read_bytes()
    command = ("image", "restyle", photo, painting, "-o", output, "--base", str(tiny_sd_path), "--steps", "2")
    code, printed, err = run(*command, "--prompt", "a dog", capture=capsys)
    assert (code, printed.strip()) == (0, output), err
    with Image.open(output) as made:
        assert made.size == (60, 44)
    assert Path(photo).read_bytes() == original
    for wrong, message in (
        ((), "exists already"),
        (("--overwrite", "--output", painting), "is the picture itself"),
        (("--overwrite", "--prompt", " "), "--prompt is empty"),
    ):
        code, _, err = run(*command, *wrong, capture=capsys)
        assert (code, message in err) == (2, True), err
