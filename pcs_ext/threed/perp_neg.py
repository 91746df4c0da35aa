"""View prompts for Perp-Neg: the wanted view blended from its neighbours, the others to be repelled (arXiv 2304.04968).

The numbers of the fall-offs are those of the open implementations as recalled; they were not read again.
"""

import math

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.types import Conditioning
from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.distillation import Repelled
from pcs_ext.threed.view_prompts import DIRECTIONS, ViewPrompts, ViewWords

_FALL_OFFS = {"side-back": (1.0, 0.5, -0.606), "front-in-back": (1.0, 0.5, 0.967), "front-side": (4.0, 0.5, -2.426)}


class PerpNegPrompts:
    """A prompt in all directions, blended by azimuth, with what each view stays away from."""

    def __init__(
        self, backbone: AbstractBackbone, prompt: str, *, negative_prompt: str = "", words: ViewWords | None = None
    ) -> None:
        self.views = ViewPrompts(backbone, prompt, negative_prompt=negative_prompt, words=words)
        if not _is_plain(self.views.positive):
            raise UsageError(
                "Perp-Neg blends prompts, which needs a subject whose words mean the same to every layer; expected "
                "such a subject, or perp_neg false."
            )

    def __call__(self, cameras: Cameras) -> tuple[Conditioning, Conditioning, Repelled]:
        """Negative, positive and repelled conditioning, of as many rows as there are cameras."""
        limit = self.views.words.overhead_elevation
        rows = [
            blend(azimuth, elevation > limit)
            for azimuth, elevation in zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True)
        ]
        positive = _mixed(self.views.positive, torch.tensor([wanted for wanted, _, _ in rows]))
        others = [
            self.views.positive[[DIRECTIONS.index(repelled[index]) for _, repelled, _ in rows]] for index in range(2)
        ]
        weights = torch.tensor([amounts for _, _, amounts in rows])
        negative = self.views.negative[[0] * len(rows)]
        return negative, positive, Repelled(conditionings=tuple(others), weights=weights)


def blend(azimuth: float, overhead: bool) -> tuple[list[float], tuple[str, str], tuple[float, float]]:
    """Shares of `DIRECTIONS` in the wanted prompt, the two repelled directions and their weights (0 or more)."""
    shares = dict.fromkeys(DIRECTIONS, 0.0)
    turn = abs((azimuth + 180) % 360 - 180)
    if overhead:
        shares["overhead"] = 1.0
        return list(shares.values()), ("front", "side"), (0.0, 0.0)
    if turn < 90:
        front = 1 - turn / 90
        shares |= {"front": front, "side": 1 - front}
        amounts = (_fall_off("front-side", front), _fall_off("front-side", 1 - front))
        return list(shares.values()), ("front", "side"), amounts
    side = 2 - turn / 90
    shares |= {"side": side, "back": 1 - side}
    return list(shares.values()), ("side", "front"), (_fall_off("side-back", side), _fall_off("front-in-back", side))


def _fall_off(name: str, share: float) -> float:
    height, rate, shift = _FALL_OFFS[name]
    return max(0.0, height * math.exp(-rate * share) + shift)


def _is_plain(prompts: Conditioning) -> bool:
    """Whether prompts are states and what goes with them by row, of which there are means; of distributions the mean
    is taken in 3D anyway."""
    more = (prompts.per_layer, prompts.marks, prompts.plain, prompts.styled, prompts.shown)
    return not prompts.decoupled and all(value is None for value in more)


def _mixed(directions: Conditioning, shares: Tensor) -> Conditioning:
    """Conditioning of `b` rows from the directions' by shares `b d`."""

    def mix(values: Tensor) -> Tensor:
        return torch.tensordot(shares.to(values), values, 1)

    return Conditioning(
        states=mix(directions.states),
        pooled=None if directions.pooled is None else mix(directions.pooled),
        time_ids=None if directions.time_ids is None else directions.time_ids[[0] * len(shares)],
    )
