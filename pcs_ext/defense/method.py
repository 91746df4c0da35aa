"""A protection method as a value: threat, objective, timing, views, transforms and step rule together."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.defense.budget import Budget, Norm
from pcs_ext.defense.canvas import Views
from pcs_ext.defense.objectives import Objective
from pcs_ext.defense.surrogate import Training
from pcs_ext.defense.timing import Timing
from pcs_ext.defense.transforms import Transform
from pcs_ext.errors import ConfigError
from pcs_ext.image.recipes import Preset


@config
class StepRule:
    """How far one step goes."""

    size: float
    """Of the first step, in levels: of each sample (sign) or as root mean square (l2)."""
    last: float | None = None
    """Of the last step; sizes fall in a straight line. None: constant."""
    direction: Literal["sign", "l2"] = "sign"
    """The gradient's sign (Madry et al. 2018, arXiv 1706.06083), or the gradient scaled to a fixed length."""

    def __post_init__(self) -> None:
        if self.size <= 0 or (self.last is not None and self.last <= 0):
            raise ConfigError(f"step sizes must be positive, got {self.size} and {self.last}.")

    def at(self, step: int, steps: int) -> float:
        """Size of step `step` of `steps` (0 is the first)."""
        if self.last is None:
            return self.size
        return self.size + (self.last - self.size) * step / max(steps - 1, 1)


@config
class Defense:
    """Everything that decides what a protected photo looks like, but the photo, the base and the seed."""

    id: str
    """Key in `RECIPES`."""
    budget: Budget
    """Largest change."""
    rule: StepRule
    """Of the ascent."""
    rounds: int = 1
    """Times that surrogates train and photos move."""
    steps: int = 100
    """Gradient steps per round."""
    start: Literal["zero", "random"] = "zero"
    """Where the perturbation begins; random is uniform within the budget."""
    objective: Objective
    """What is raised."""
    timing: Timing = Timing()
    """Noise levels."""
    training: Training | None = None
    """How surrogates learn; None: they are frozen."""
    views: Views = Views()
    """Squares of the photo that are optimised."""
    transforms: tuple[Transform, ...] = ()
    """Applied to the views at random."""
    prompts: tuple[str, ...] = ("a photo of {subject}",)
    """Of the attack, one drawn per photo and step; training takes the first."""
    token: str = "sks"
    """Rare word before the noun in the prompts; empty: the plain noun."""
    ensemble: bool = False
    """Needs several bases: each moves its own copy in a round, and the copies are averaged."""
    group: int = 4
    """Photos that share surrogates when there are many: the papers' sets have 4."""
    quirks: tuple[str, ...] = ()
    """What a `compat` recipe does only because the released script does."""

    def __post_init__(self) -> None:
        if min(self.rounds, self.steps, self.group) < 1 or not self.prompts:
            raise ConfigError("rounds, steps and group must be at least 1, and there must be a prompt.")

    @property
    def gradient_steps(self) -> int:
        """Of the whole run."""
        return self.rounds * self.steps

    def with_steps(self, steps: int) -> "Defense":
        """About `steps` gradient steps in all: fewer rounds first, then shorter ones. Training before the first round
        shrinks in proportion, down to a step for each state of a pool; that of a round goes with its round."""
        training = self.training
        if training is not None and training.first_steps:
            first = round(training.first_steps * steps / self.gradient_steps)
            training = dataclasses.replace(training, first_steps=max(1, training.pool - 1, first))
        if self.rounds == 1:
            return dataclasses.replace(self, steps=steps, training=training)
        rounds = max(1, round(steps / self.steps))
        if training is not None and training.pool > 1:  # every state of the pool keeps its turns
            turn = max(1, round(training.turn * rounds / self.rounds))
            training = dataclasses.replace(training, turn=turn)
        return dataclasses.replace(self, rounds=rounds, steps=min(self.steps, steps), training=training)

    def with_norm(self, norm: Norm) -> "Defense":
        """A budget of another kind, as many levels of it; the steps of an L2 one follow the gradient's length."""
        direction = "l2" if norm == "l2" else self.rule.direction
        return dataclasses.replace(
            self,
            budget=dataclasses.replace(self.budget, norm=norm),
            rule=dataclasses.replace(self.rule, direction=direction),
        )

    def with_levels(self, levels: float) -> "Defense":
        """Another budget, the step in proportion."""
        share = levels / self.budget.levels
        last = None if self.rule.last is None else self.rule.last * share
        rule = dataclasses.replace(self.rule, size=self.rule.size * share, last=last)
        return dataclasses.replace(self, budget=dataclasses.replace(self.budget, levels=levels), rule=rule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DefenseEntry:
    """What `RECIPES` holds: enough to list a method without building it."""

    id: str
    summary: str
    """One line for lists."""
    paper: str
    """Where it is described (arXiv id)."""
    system: str | None
    """Row of the survey it implements: an id of `systems.json`; None: a later method, for comparison."""
    build: Callable[[Preset], Defense]
    """Hyperparameters of the paper for `sd` and `sdxl`, small ones for `toybox`."""
