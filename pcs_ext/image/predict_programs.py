"""Programs on predictions: change what a backbone's `predict` returns, and leave no trace."""

import functools
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.types import Conditioning

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""`AbstractBackbone.predict`, or it with programs around it."""


class PredictProgram(Protocol):
    """What stands around a denoiser: it may ask it several times, of other things."""

    def __call__(
        self, predict: Predict, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """The prediction, `b c h w`; `predict` is what stood there before. Differentiable."""
        ...


def add_prediction(backbone: AbstractBackbone, name: str, program: PredictProgram) -> None:
    """Put a program around `backbone.predict`, outside of those that are there.

    Args:
        backbone: any.
        name: by which it is removed; unique.
        program: what to put.
    """
    found = vars(backbone).get("predict")
    if not isinstance(found, _Programmed):
        found = _Programmed(backbone.predict, shadowed=found)
        vars(backbone)["predict"] = found
    assert name not in found.programs, f"a program named {name!r} is there already"
    found.programs[name] = program


def remove_prediction(backbone: AbstractBackbone, name: str) -> None:
    """Take a program out, wherever it stands; after the last, the backbone's own method is back."""
    found = vars(backbone)["predict"]
    assert isinstance(found, _Programmed), "predict was replaced behind the programs' back"
    del found.programs[name]
    if found.programs:
        return
    del vars(backbone)["predict"]
    if found.shadowed is not None:
        vars(backbone)["predict"] = found.shadowed


class _Programmed:
    """`predict` with programs around it, the first one innermost."""

    def __init__(self, original: Predict, *, shadowed: Predict | None) -> None:
        self.original, self.shadowed = original, shadowed
        self.programs: dict[str, PredictProgram] = {}

    def __call__(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        predict = self.original
        for program in self.programs.values():
            predict = functools.partial(program, predict)
        return predict(noisy_latents, timesteps, conditioning)
