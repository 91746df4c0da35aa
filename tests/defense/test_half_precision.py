"""Gradients in fp16: small ones do not vanish, large ones do not overflow, and what is lost all the same is told."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from pcs_ext.defense.canvas import Canvas
from pcs_ext.defense.engine import Protection
from pcs_ext.defense.following import follow
from pcs_ext.defense.method import Defense
from pcs_ext.defense.objectives import DenoisingGain, Sample
from pcs_ext.defense.surrogate import Surrogate
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.reporter import SilentReporter
from tests.defense.test_engine import PROMPT, SEED, frozen, noise_photos


@pytest.fixture(scope="module")
def half(tiny_sd_path: Path) -> AbstractBackbone:
    return load_backbone(str(tiny_sd_path), device="cpu", precision="fp16")


def weighing(weight: float) -> Defense:
    """As small or large as gains are on larger models."""

    def gain(sample: Sample) -> Tensor:
        return weight * DenoisingGain()(sample)

    return frozen(objective=gain)


def slope(backbone: AbstractBackbone, weight: float) -> tuple[Tensor, float]:
    method = weighing(weight)
    canvases = [Canvas(photo, method.budget) for photo in noise_photos(1)]
    ascent = Protection(canvases, [Surrogate(backbone, [PROMPT])], method, seed=SEED).ascents[0]
    return ascent.gradient(canvases, 0)[0][0], ascent.zeros


@pytest.mark.parametrize("weight", [1.0, 1e-4, 1e6])
def test_directions_are_those_of_float32(weight: float, half: AbstractBackbone, sd: AbstractBackbone) -> None:
    (found, zeros), (expected, _) = slope(half, weight), slope(sd, weight)
    assert found.isfinite().all()
    assert zeros < 0.01
    assert (found.sign() == expected.sign()).float().mean() > 0.99
    assert found.norm() / expected.norm() == pytest.approx(1, abs=0.02)


def test_gradients_that_vanish_are_told_once(half: AbstractBackbone, sd: AbstractBackbone, tmp_path: Path) -> None:
    class Listening(SilentReporter):
        told: list[str]

        def event(self, name: str, message: str = "", **fields: Any) -> None:
            self.told.append(message)

    def told(backbone: AbstractBackbone, weight: float) -> list[str]:
        listening, method = Listening(), dataclasses.replace(weighing(weight), steps=3)
        listening.told = []
        canvases = [Canvas(photo, method.budget) for photo in noise_photos(1)]
        protection = Protection(canvases, [Surrogate(backbone, [PROMPT])], method, seed=SEED)
        follow(protection, CheckpointFolder(tmp_path), listening, "try")
        return listening.told

    (message,) = told(half, 1e-10)
    assert "vanish in fp16" in message
    assert "--precision fp32" in message
    assert told(half, 1.0) == told(sd, 1e-10) == []
