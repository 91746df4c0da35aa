"""How subjects and masks reach into the sampling of one clip."""

from collections.abc import Callable, Sequence

from torch import Tensor

from pcs_ext.image.adapters import AbstractAdapter
from pcs_ext.image.sample import Predict, SampleHooks
from pcs_ext.image.types import Conditioning

Wrapper = Callable[[Predict], Predict]
"""Receives a denoiser, returns what is called instead."""


class Strength:
    """A subject that can be taken away and put back while a clip is sampled.

    Args:
        adapters: of the subject, in a backbone.
        scale: its strength when it is there.
    """

    def __init__(self, adapters: Sequence[AbstractAdapter], scale: float) -> None:
        self.adapters, self.scale, self.there = tuple(adapters), scale, True

    def set(self, there: bool) -> None:
        """Put it in or take it away."""
        self.there = there
        for adapter in self.adapters:
            adapter.set_scale(self.scale if there else 0.0)

    def without(self, call: Callable[[], Tensor]) -> Tensor:
        """What a function returns while it is away; then it is as it was."""
        before = self.there
        self.set(False)
        try:
            return call()
        finally:
            self.set(before)


def windowed(strength: Strength, total: int, window: float) -> Wrapper:
    """A subject that is there only at timesteps below `window * total` (PersonalVideo's isolated adapter)."""

    def wrap(inner: Predict) -> Predict:
        def predict(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            strength.set(bool(timesteps.flatten()[0] < window * total))
            return inner(latents, timesteps, conditioning)

        return predict

    return wrap


def hooks_of(
    wrappers: Sequence[Wrapper], on_step: Callable[[int, Tensor, Tensor], Tensor] | None = None
) -> SampleHooks:
    """Hooks in which the first wrapper is the outermost; none where there is nothing to do."""
    if not wrappers:
        return SampleHooks(on_step=on_step)

    def predict(inner: Predict) -> Predict:
        for wrap in reversed(wrappers):
            inner = wrap(inner)
        return inner

    return SampleHooks(predict=predict, on_step=on_step)
