"""Learning in rounds beside generated pictures (GAL, Zhang et al. 2024, arXiv 2403.14987)."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.concept import SUBJECT


@config
class ActiveConfig:
    """What is generated after each round, and how much of it is learned in the next."""

    rounds: int = 4
    """Rounds of learning, each from the base on; the released code's."""
    directions: tuple[str, ...]
    """Prompts, called anchor directions, with `{subject}`; one that was taken is not asked again."""
    images: int = 10
    """Pictures per direction; the released code's."""
    take: int = 3
    """Directions that are taken after a round, a picture of each; the released code's."""
    openness: float = 0.005
    """Times the mean uncertainty of all directions: the weight of what was taken; the released code's."""
    encoder: str = "toybox"
    """CLIP that compares: `toybox`, a transformers folder or a hub id."""

    def __post_init__(self) -> None:
        if min(self.rounds, self.images, self.take) < 1 or self.openness <= 0:
            raise ConfigError(
                f"active learning takes rounds, images and take of at least 1 and a positive openness; got "
                f"{self.rounds}, {self.images}, {self.take} and {self.openness}."
            )
        wrong = [direction for direction in self.directions if SUBJECT not in direction]
        if not self.directions or wrong or len(set(self.directions)) < len(self.directions):
            raise ConfigError(f"directions are different prompts that say {SUBJECT}; got {list(self.directions)}.")


@dataclasses.dataclass(frozen=True)
class Taken:
    """One direction that was taken."""

    direction: str
    image: int
    """Which of its pictures."""
    weight: float
    """What it counts in the loss where a photo counts 1."""


def take(
    directions: Sequence[str], pictures: Tensor, asked: Tensor, known: Tensor, settings: ActiveConfig
) -> list[Taken]:
    """The directions a learned subject is least sure of, the least sure first; none where too few are unsure at all.

    A picture overfits where it looks no more like what was asked than like a caption of the photos. Of a direction
    whose pictures do so at a rate p, the uncertainty is the entropy of p; of its pictures the one is taken that looks
    most like what was asked. The weight is openness times the mean entropy.

    Args:
        directions: `n` prompts.
        pictures: of each, features `n k d`, unit length.
        asked: features `n d` of the directions with the class noun.
        known: features `m d` of the photos' captions with the class noun.
        settings: how many, and the weight.
    """
    likeness = torch.einsum("nkd,nd->nk", pictures, asked)
    overfit = likeness <= torch.einsum("nkd,md->nkm", pictures, known).amax(-1)
    unsure = [entropy(rate) for rate in overfit.float().mean(1).tolist()]
    if sum(one > 0 for one in unsure) < settings.take:
        return []
    weight = settings.openness * sum(unsure) / len(unsure)
    order = sorted(range(len(directions)), key=lambda index: -unsure[index])[: settings.take]
    return [Taken(directions[index], int(likeness[index].argmax()), weight) for index in order]


def entropy(rate: float) -> float:
    """Of a coin that falls so at this rate, in nats."""
    return 0.0 if rate in (0.0, 1.0) else -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
