"""Which photos of many are learned from, and how much (COTI, Yang et al. 2023, arXiv 2304.05265)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.concept import SUBJECT

_FLOOR = 0.1
"""Of a photo's weight in the loss: what was chosen counts."""


@config
class SelectConfig:
    """Rounds in which the photos that are learned from become more.

    That photos come from a large pool in active-learning cycles, that two scorers (of quality and of the concept) weigh
    them, that scores weigh the loss, and that the schedule follows the scores is the paper's; the forms are ours.
    """

    rounds: int = 4
    """At most; each goes on from the best one before it."""
    first: int = 5
    """Photos of the first round; those with a caption of their own beside them, where there are any, instead."""
    add: int = 5
    """Photos more in every further round."""
    quality: Literal["clip", "sharpness"] = "clip"
    """clip: how much nearer a picture is to "a good photo" than to "a bad photo" (CLIP-IQA, arXiv 2207.12396).
    sharpness: the logarithm of the variance of its Laplacian."""
    probe: tuple[str, ...] = ("a photo of {subject}",)
    """What is generated after a round, to be scored."""
    images: int = 4
    """Of each prompt."""
    decay: float = 0.5
    """Times the learning rates after a round that scored no better than the best one, in (0, 1]."""
    patience: int = 2
    """Rounds in a row without a better score after which learning ends."""
    encoder: str = "toybox"
    """CLIP that scores: `toybox`, a transformers folder or a hub id."""

    def __post_init__(self) -> None:
        if min(self.rounds, self.first, self.add, self.images, self.patience) < 1 or not 0 < self.decay <= 1:
            raise ConfigError(
                "a selection takes rounds, first, add, images and patience of at least 1 and a decay in (0, 1]; got "
                f"{self.rounds}, {self.first}, {self.add}, {self.images}, {self.patience} and {self.decay}."
            )
        if not self.probe or not all(SUBJECT in prompt for prompt in self.probe):
            raise ConfigError(f"a probe is prompts that say {SUBJECT}; got {list(self.probe)}.")


def ranks(values: Tensor) -> Tensor:
    """Of `n` numbers: 0 for the least, 1 for the greatest, evenly between; equal ones share. 1 where there is one."""
    if len(values) == 1:
        return torch.ones_like(values)
    below = (values[None] < values[:, None]).sum(1) + ((values[None] == values[:, None]).sum(1) - 1) / 2
    return below.to(values.dtype) / (len(values) - 1)


def standing(made: Tensor, pool: Tensor) -> float:
    """Mean share of the pool's numbers that lie below each of `made`, in [0, 1]; equal ones count half."""
    below = (pool[None] < made[:, None]).float() + 0.5 * (pool[None] == made[:, None]).float()
    return float(below.mean())


def balance(quality: float, concept: float) -> float:
    """The weight of quality against concept: what the learned word lacks counts more; one half where it lacks nothing.

    Args:
        quality, concept: standings of what was generated, in [0, 1].
    """
    lacks = 2 - quality - concept
    return 0.5 if lacks <= 0 else (1 - quality) / lacks


def scores(quality: Tensor, concept: Tensor, weight: float) -> Tensor:
    """`n` in [0, 1]: ranks of both, the first weighing `weight` and the second the rest."""
    return weight * ranks(quality) + (1 - weight) * ranks(concept)


def chosen(points: Tensor, before: Sequence[int], count: int) -> list[int]:
    """Who was chosen before and the best `count` others, in that order; earlier ones first where points are equal."""
    rest = [row for row in range(len(points)) if row not in set(before)]
    return [*before, *sorted(rest, key=lambda row: (-float(points[row]), row))[:count]]


def loss_weights(points: Tensor) -> list[float]:
    """What each of the chosen counts in the loss: its points over their mean, none below a tenth."""
    return (points / points.mean().clamp_min(1e-6)).clamp_min(_FLOOR).tolist()


def sharpness(images: Tensor) -> Tensor:
    """`b`: log of the variance of the Laplacian of gray pictures, from images `b 3 h w` in [-1, 1]."""
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None].to(images)
    return F.conv2d(images.mean(1, keepdim=True), kernel).flatten(1).var(1).clamp_min(1e-8).log()
