"""Captions and poses drawn from the grammar: what stands in for a large set of people in pictures."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.runtime import generator_for, seed_for
from pcs_ext.threed.avatar.pose_words import ARMS, HEAD, LEGS, RELAXED, TRUNK, WHERE, WHO, Phrase, Turns
from pcs_ext.threed.avatar.rotations import angle_between, from_angles
from pcs_ext.threed.avatar.skeleton import NAMES

_SHARES = (0.85, 0.35, 0.75, 0.3)
"""How often captions speak of legs, trunk, arms and head."""
_TOLERANCE = 20.0
"""Degrees beyond a phrase's own width at which a joint still counts as doing what it says, and at most
a third of the turn it is to make."""
_DRAWS = 200
"""Captions that are drawn for one that is kept, before a set is given up."""
_LEAST = 15.0
"""Degrees from the relaxed pose below which a phrase says nothing of a joint that could be judged."""


@config
class PoseSetConfig:
    """A set of captions; poses are drawn anew whenever one is asked for."""

    captions: int = 1500
    """Different draws of words."""
    held_out: int = 5
    """One in so many pairs of leg and arm phrases is never seen in training; 0: none."""
    seed: int = 0
    """Of the words."""

    def __post_init__(self) -> None:
        if self.captions < 1 or self.held_out < 0:
            raise ConfigError(f"expected captions and held_out of 0 or more, got {self.captions}, {self.held_out}.")


@dataclasses.dataclass(frozen=True)
class Described:
    """A caption and the phrases in it."""

    caption: str
    phrases: tuple[Phrase, ...]
    """In the order in which later ones have the last word on a joint: legs, trunk, arms, head."""

    def angles(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Middle and half width of the angles, `j 3`, of one of the poses it may mean."""
        turns = dict(RELAXED)
        for phrase in self.phrases:
            turns |= phrase.poses[_pick(len(phrase.poses), generator)]
        found = [turns.get(name, ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))) for name in NAMES]
        return torch.tensor([middle for middle, _ in found]).float(), torch.tensor([wide for _, wide in found]).float()


def pose_captions(settings: PoseSetConfig, *, held_out: bool = False) -> list[Described]:
    """The set's captions; or as many of pairs that training never sees.

    Raises:
        ConfigError: held-out captions of a set that holds none out.
    """
    if held_out and not settings.held_out:
        raise ConfigError("nothing is held out of this pose set; set held_out to 2 or more.")
    generator = generator_for(settings.seed, "captions", int(held_out))
    found: list[Described] = []
    for _ in range(_DRAWS * settings.captions):
        drawn = _draw(generator)
        if _is_held_out(drawn, settings.held_out) == held_out:
            found.append(drawn)
        if len(found) == settings.captions:
            return found
    raise ConfigError(
        f"one in {settings.held_out} pairs of phrases leaves too few {'held-out' if held_out else 'learned'} captions; "
        "set held_out to a number from 2 to 20."
    )


def draw_poses(described: Sequence[Described], generator: torch.Generator) -> Tensor:
    """A pose for each caption: rotations `b j 3 3` of every joint against its parent."""
    middles, widths = zip(*(one.angles(generator) for one in described), strict=True)
    middle, width = torch.stack(middles), torch.stack(widths)
    return from_angles(middle + width * (torch.rand(middle.shape, generator=generator) * 2 - 1))


def fulfilled(described: Sequence[Described], turns: Tensor) -> Tensor:
    """Which poses `b j 3 3` do what their captions say, `b` bool: every joint that is spoken of is where it may be.

    Within 20 degrees, or a third of the turn, of what the phrase allows; joints that it leaves near the relaxed pose
    are not judged.
    """
    return torch.tensor([_does(one, turns[index]) for index, one in enumerate(described)])


def _does(one: Described, turns: Tensor) -> bool:
    spoken: set[str] = set()
    for phrase in reversed(one.phrases):
        left = [{name: value for name, value in pose.items() if name not in spoken} for pose in phrase.poses]
        if not any(_fits(pose, turns) for pose in left):
            return False
        spoken |= {name for pose in phrase.poses for name in pose}
    return True


def _fits(pose: Turns, turns: Tensor) -> bool:
    for name, (middle, wide) in pose.items():
        meant = from_angles(torch.tensor(middle).float())
        calm = from_angles(torch.tensor(RELAXED.get(name, ((0.0, 0.0, 0.0), wide))[0]).float())
        turn = float(angle_between(meant, calm))
        if turn < _LEAST:
            continue
        if float(angle_between(meant, turns[NAMES.index(name)])) > max(wide) + min(_TOLERANCE, turn / 3):
            return False
    return True


def _pick(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _draw(generator: torch.Generator) -> Described:
    chances = torch.rand(4, generator=generator).tolist()
    kinds = [
        kind for kind, chance, share in zip((LEGS, TRUNK, ARMS, HEAD), chances, _SHARES, strict=True) if chance < share
    ]
    phrases = [kind[_pick(len(kind), generator)] for kind in kinds or [LEGS]]
    texts = [phrase.texts[_pick(len(phrase.texts), generator)] for phrase in phrases]
    if torch.rand((), generator=generator) < 0.3:
        texts = [texts[index] for index in torch.randperm(len(texts), generator=generator).tolist()]
    joined = texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " and " + texts[-1]
    start = ("", "a photo of ", "a full body photo of ")[_pick(3, generator)]
    end = f" {WHERE[_pick(len(WHERE), generator)]}" if torch.rand((), generator=generator) < 0.4 else ""
    return Described(f"{start}{WHO[_pick(len(WHO), generator)]} {joined}{end}", tuple(phrases))


def _is_held_out(drawn: Described, one_in: int) -> bool:
    legs, arms = ([p for p in drawn.phrases if p in kind] for kind in (LEGS, ARMS))
    if not one_in or not legs or not arms:
        return False
    return seed_for("held out", legs[0].texts[0], arms[0].texts[0]) % one_in == 0
