"""Activations computed again in the backward pass: the same subject in less memory, or one message."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES
from tests.support.command_line import run

OTHER_WAYS = ["dreambooth-lora", "neti", "disenbooth", "svdiff"]
"""Layers with stand-ins, words that depend on layer and timestep, what is seen in photos, whole weights."""


@pytest.mark.parametrize("name", OTHER_WAYS)
def test_it_is_the_same_subject(
    name: str, sd: AbstractUnetBackbone, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES[name].build("dog", "toybox").with_steps(2)
    block, calls = sd.denoiser.up_blocks[-1].resnets[-1], [0]
    forward = block.forward

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        calls[0] += torch.is_grad_enabled()
        return forward(*arguments, **options)

    monkeypatch.setattr(block, "forward", counted)
    made, counts = [], []
    for again in (False, True):
        calls[0] = 0
        how: Any = {"noun": "dog", "recipe": recipe, "base": sd, "seed": 3, "checkpoint_activations": again}
        made.append(learn(photos, output=tmp_path / str(again), **how).data)
        counts.append(calls[0])
    plain, same = made
    assert counts[1] == 2 * counts[0] > 0, "every block once more"
    assert same.training["losses"] == pytest.approx(plain.training["losses"], rel=1e-5)
    for adapter in plain.tensors:
        for key, tensor in plain.tensors_of(adapter).items():
            torch.testing.assert_close(same.tensors_of(adapter)[key], tensor, atol=1e-5, rtol=1e-3)
    assert not sd.denoiser.is_gradient_checkpointing


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("break-a-scene", "attention"),
        ("core", "context"),
        ("pair-customization", "pair"),
        ("adi", "invariance"),
        ("dreambooth-plus-plus", "packed photos"),
    ],
)
def test_what_cannot_be_repeated_is_named_before_anything_is_loaded(name: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{name} reaches into the denoiser while it learns \({what}\)"):
        learn(tmp_path, noun="dog", output=tmp_path / "rex", recipe=name, base="no", checkpoint_activations=True)


def test_the_command_line_asks_for_it(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ("learn", photos, "--noun", "dog", "-o", tmp_path / "rex", "--recipe", "clic", "--checkpoint-activations")
    code, _, err = run(*call, capture=capsys)
    assert (code, "leave out --checkpoint-activations" in err) == (2, True), err
