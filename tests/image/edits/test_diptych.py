"""A subject drawn beside its photo: what attention is multiplied, what stays known, and the command."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.errors import ConfigError
from pcs_ext.image.attention import attention_program, self_attention_paths
from pcs_ext.image.attention_edits import Capture, edited
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.blended import PutBack
from pcs_ext.image.edits.diptych import (
    DiptychConfig,
    LookLeft,
    diptych,
    draw_beside,
    framed,
    looking_left,
    on_white,
    squared,
)
from pcs_ext.image.sample import SampleConfig, SampleHooks, initial_noise, sample
from tests.support.command_line import run

SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=3, guidance_scale=2.0)
PHOTO = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def quick(**changes) -> DiptychConfig:
    return dataclasses.replace(diptych("toybox"), **{"sampling": SAMPLING, **changes})


def drawn(sd: AbstractBackbone, photo: torch.Tensor = PHOTO, **changes) -> torch.Tensor:
    return draw_beside(sd, photo, "a dog in the snow", noun="dog", seeds=(1,), config=quick(**changes))


def test_only_what_the_right_pays_to_the_left_is_multiplied() -> None:
    """Two rows of four cells: columns 2 and 3 are the right panel."""
    probabilities = torch.full((1, 1, 8, 8), 1 / 8)
    out = LookLeft(4, 1.3)("attn1", probabilities)[0, 0]
    right = torch.tensor([False, False, True, True] * 2)
    expected = torch.full((8, 8), 1 / 8)
    for query in (2, 3, 6, 7):
        for key in (0, 1, 4, 5):
            expected[query, key] = 1.3 / 8
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(out[right].sum(-1), torch.full((4,), 1.15), msg="nothing is divided again")
    torch.testing.assert_close(out[~right].sum(-1), torch.ones(4))


@torch.no_grad()
def test_every_self_attention_looks_left_through_the_whole_sampling(sd: AbstractBackbone) -> None:
    """Canvas latents of 8 x 16; the output of each layer against the one written out by hand."""
    edits = looking_left(sd, (8, 16), 3.0)
    assert {edit.paths[0] for edit in edits} == set(self_attention_paths(sd))
    assert all(edit.is_active(share) for edit in edits for share in (0.0, 0.5, 0.999))
    (edit,) = (edit for edit in edits if edit.paths[0].startswith("up_blocks.1.attentions.0"))
    (path,) = edit.paths
    attention, states, seen = sd.denoiser.get_submodule(path), [], Capture()
    handle = attention.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
    latents = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(2))
    with attention_program(sd, seen, [path], at="output"):
        edited(sd, edits)(sd.predict)(latents, torch.tensor([600]), sd.encode_prompt(["a dog"]))
    handle.remove()
    q, k, v = (
        getattr(attention, name)(states[0])[0].unflatten(1, (attention.heads, -1)).transpose(0, 1)
        for name in ("to_q", "to_k", "to_v")
    )
    probabilities = (attention.scale * q @ k.transpose(1, 2)).softmax(-1)
    columns = {128: 16, 32: 8}[probabilities.shape[-1]]
    right = torch.arange(probabilities.shape[-1]) % columns >= columns // 2
    for head in probabilities:
        head[right.nonzero(), (~right).nonzero().T] *= 3.0
    by_hand = attention.to_out[0]((probabilities @ v).transpose(0, 1).flatten(1))
    torch.testing.assert_close(seen.seen[path][0], by_hand)


@torch.no_grad()
def test_the_left_panel_stays_the_photo_and_is_noised_as_the_rest(sd: AbstractBackbone) -> None:
    canvas = dataclasses.replace(SAMPLING, height=32, width=64)
    known = sd.encode_images(torch.cat([PHOTO, PHOTO], -1))
    free = (torch.arange(16) >= 8).float().expand(1, 1, 1, -1)
    put_back, states = PutBack(sd, known, free, canvas), []

    def on_step(step: int, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        states.append(put_back.on_step(step, timestep, latents))
        return states[-1]

    sample(sd, ["a dog"], seeds=[4], config=canvas, hooks=SampleHooks(started=put_back.started, on_step=on_step))
    assert torch.equal(states[-1][..., :8], known[..., :8])
    noise = initial_noise(sd, [4], canvas)
    # trailing DDIM of 3 steps visits 999, 666, 333: after the first step all is at the level of 666
    expected = sd.schedule.add_noise(known, noise, torch.tensor([666]))[..., :8]
    torch.testing.assert_close(states[0][..., :8], expected, atol=1e-5, rtol=1e-4)
    assert not torch.equal(states[-1][..., 8:], known[..., 8:])


def test_the_photo_and_the_factor_count_and_one_is_the_bases_own_attention(sd: AbstractBackbone) -> None:
    plain = drawn(sd, attention=1.0)
    assert looking_left(sd, (8, 16), 1.0) == []
    assert plain.shape == (1, 3, 32, 32)
    assert not torch.equal(plain, drawn(sd, attention=3.0))
    assert not torch.equal(plain, drawn(sd, PHOTO.flip(-1), attention=1.0))
    words = drawn(sd, template="two pictures of one {noun}, the right one {prompt}")
    assert not torch.equal(words, drawn(sd))
    assert diptych("sd").template.replace("{noun}", "dog").startswith("A diptych with two side-by-side images of same")
    assert diptych("sd").attention == 1.3


def test_frames_and_white_grounds() -> None:
    frame = framed(PHOTO, (32, 32), 1 / 16)
    assert frame.shape == PHOTO.shape
    assert (frame[..., :2, :] == 1).all()
    assert (frame[..., -2:] == 1).all()
    assert not (frame[..., 2:-2, 2:-2] == 1).all()
    assert torch.equal(framed(PHOTO, (32, 32), 0.0), PHOTO)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :10] = 1
    white = on_white(PHOTO, mask)
    assert torch.equal(white[..., :10], PHOTO[..., :10])
    assert (white[..., 10:] == 1).all()
    tall = squared(PHOTO[..., :20])
    assert tall.shape == (1, 3, 32, 32)
    assert torch.equal(tall[..., 6:26], PHOTO[..., :20])
    assert (tall[..., :6] == 1).all()
    with pytest.raises(ConfigError, match="does not say {prompt}"):
        quick(template="a diptych")
    with pytest.raises(ConfigError, match="out of range"):
        quick(margin=0.5)


def test_the_command(tiny_sd_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, output = photos / "0.png", tmp_path / "out"
    with Image.open(photo) as image:
        mask = Image.new("L", image.size)
    mask.paste(255, (4, 4, 30, 30))
    mask.save(photos / "0_mask.png")
    original = photo.read_bytes()
    flags = ("--base", str(tiny_sd_path), "--steps", "2", "--device", "cpu", "--precision", "fp32")
    command = ("image", "diptych", str(photo), "a photo of {subject} in the snow", "--noun", "dog", *flags)
    code, printed, err = run(*command, "-o", str(output), "--seeds", "1", "2", capture=capsys)
    assert (code, len(printed.split())) == (0, 2), err
    for path in printed.split():
        with Image.open(path) as made:
            assert made.size == (32, 32)
    assert photo.read_bytes() == original
    for wrong, message in (
        (("--noun", " "), "takes a noun"),
        (("--attention", "3"), "Unrecognized"),
        (("--guidance-scale", "-1"), "must be 0 or more"),
    ):
        code, _, err = run(*command, "-o", str(output), *wrong, capture=capsys)
        assert (code, message.lower() in err.lower()) == (2, True), err
    code, _, err = run("image", "diptych", str(photos), *command[3:], "-o", str(output), capture=capsys)
    assert (code, "holds 3 photos; expected one picture" in err) == (3, True), err
    mask.paste(0, (0, 0, *mask.size))
    mask.save(photos / "0_mask.png")
    code, _, err = run(*command, "-o", str(output), capture=capsys)
    assert (code, "marks nothing" in err) == (3, True), err
