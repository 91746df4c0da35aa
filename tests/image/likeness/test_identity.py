"""Who is seen in a prediction: what is cut out, which rows count, and both losses by hand."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.likeness.config import IdentityConfig
from pcs_ext.image.likeness.identity import IdentityTerm, told_apart
from pcs_ext.image.likeness.recogniser import Recogniser, cut_out
from pcs_ext.image.terms.base import Noised, Step
from pcs_ext.image.types import Batch
from tests.support.encoders import tiny_dino

PRIOR = torch.tensor([False, False, True])


def step_of(sd: AbstractBackbone, **batch) -> Step:
    """Three pictures, the last of the class; the first has little noise, the second much."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 32, 32, generator=generator) * 2 - 1
    shape = (3, 4, 8, 8)
    return Step(
        backbone=sd,
        batch=Batch(images=images, captions=("a",) * 3, is_prior=PRIOR, **batch),
        conditioning=sd.encode_prompt(["a dog"] * 3),
        adapters={},
        maps=None,
        generator=generator,
        noised=Noised(
            latents=torch.randn(shape, generator=generator),
            timesteps=torch.tensor([100, 900, 100]),
            target=torch.zeros(shape),
        ),
        prediction=torch.randn(shape, generator=generator).requires_grad_(),
    )


def test_both_losses_by_hand_and_what_has_much_noise_is_passed_over(sd: AbstractBackbone, tmp_path: Path) -> None:
    eye = str(tiny_dino(tmp_path / "eye"))
    step = step_of(sd)
    recogniser = Recogniser(eye, sd.device)
    asked, prediction = step.asked(), step.prediction
    assert prediction is not None
    with torch.no_grad():
        abar = sd.schedule.alphas_cumprod[100]
        clean = (asked.latents[:1] - (1 - abar).sqrt() * prediction[:1]) / abar.sqrt()
        made = recogniser(sd.decode_latents(clean))
        own, other = recogniser(step.batch.images[:1]), recogniser(step.batch.images[2:])
    like, unlike = float((made * own).sum()), float((made * other).sum())
    apart = -math.log(math.exp(like / 0.5) / (math.exp(like / 0.5) + math.exp(unlike / 0.5)))
    for weight, contrast in ((0.1, 0.0), (0.0, 2.0), (0.1, 2.0)):
        term = IdentityTerm(IdentityConfig(encoder=eye, weight=weight, contrast=contrast), sd.device)
        assert float(term(step).detach()) == pytest.approx(weight * (1 - like) + contrast * apart, abs=1e-5)
    term(step).backward()
    assert prediction.grad is not None
    assert prediction.grad[0].abs().sum() > 0
    assert not prediction.grad[1:].any(), "much noise, and a class image"
    noisy = dataclasses.replace(asked, timesteps=torch.tensor([900, 900, 100]))
    assert not term(dataclasses.replace(step, noised=noisy))
    everything = IdentityTerm(IdentityConfig(encoder=eye, below=1.0), sd.device)
    assert everything(dataclasses.replace(step, noised=noisy)).detach() > 0


def test_only_the_face_is_seen_and_photos_are_read_once(sd: AbstractBackbone, tmp_path: Path) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    masks = torch.zeros(2, 1, 32, 32)
    masks[0, :, 8:24, 4:20] = 1
    cut = cut_out(images, masks)
    expected = F.interpolate(images[:1, :, 8:24, 4:20], size=(32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(cut[:1], expected)
    assert torch.equal(cut[1], images[1]), "an empty mask leaves the picture"
    recogniser = Recogniser(str(tiny_dino(tmp_path / "eye")), sd.device)
    first = recogniser.photos(images, masks, ["0/0", "1/0"])
    torch.testing.assert_close(first, recogniser(cut))
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(2))
    assert torch.equal(recogniser.photos(torch.zeros_like(images), masks, ["0/0", "1/0"]), first)


def test_told_apart_is_the_share_of_the_right_one() -> None:
    made = torch.tensor([[1.0, 0.0]])
    own, others = torch.tensor([[0.6, 0.8]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    weights = [math.exp(x / 0.5) for x in (0.6, 0.0, -1.0)]
    assert float(told_apart(made, own, others, 0.5)) == pytest.approx(-math.log(weights[0] / sum(weights)))
    with pytest.raises(ConfigError, match="one of them above 0"):
        IdentityConfig(encoder="toybox", weight=0.0)
    with pytest.raises(ConfigError, match="share of the noise schedule"):
        IdentityConfig(encoder="toybox", below=0.0)
