"""DVAR on curves whose answer is known, and inside `fit`."""

import math
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.early_stopping import DvarConfig, DvarStop, should_stop
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.types import LossTerms
from tests.image.test_fit import Problem


def fires_at(curve: list[float], config: DvarConfig) -> int | None:
    """How many evaluations it takes until the rule fires."""
    return next((count for count in range(1, len(curve) + 1) if should_stop(curve[:count], config)), None)


@pytest.mark.parametrize(("constant", "expected"), [(50, 250), (100, 290), (200, 342), (400, 396)])
def test_smooth_decay_fires_where_it_was_computed_to(constant: float, expected: int) -> None:
    curve = [math.exp(-step / constant) for step in range(500)]
    assert fires_at(curve, DvarConfig()) == expected


def test_by_hand() -> None:
    # All: mean 1, squares (3, 1, 1, 1) -> var 1.5. Last two: var 0.
    config = DvarConfig(window=2, threshold=0.15)
    assert not should_stop([1 + 3**0.5, 0.0], config)
    assert not should_stop([4.0, 0.0, 4.0, 0.0], config)
    assert should_stop([4.0, 0.0, 0.0, 0.0], config)


def test_the_threshold_is_strict_and_scale_does_not_matter() -> None:
    # var(last 2) = 1, var(all 4) = (9 + 1 + 1 + 9) / 4 ... around the mean 0 -> 5: the ratio is exactly 0.2.
    curve = [3.0, -3.0, 1.0, -1.0]
    assert not should_stop(curve, DvarConfig(window=2, threshold=0.2))
    assert should_stop(curve, DvarConfig(window=2, threshold=0.2001))
    assert should_stop([1e6 * value for value in curve], DvarConfig(window=2, threshold=0.2001))


@pytest.mark.parametrize("curve", [[1.0] * 400, [float(step) for step in range(2000)], [math.nan] * 400])
def test_never_fires_on_flat_rising_or_broken_curves(curve: list[float]) -> None:
    # A straight line: the window's share of the variance is (200 / n)^2, below 0.15 only after 516 evaluations.
    found = fires_at(curve, DvarConfig())
    assert found == (517 if curve[1] == 1.0 and curve[0] == 0.0 else None)


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match="window >= 2"):
        DvarConfig(window=1)
    with pytest.raises(ConfigError, match="threshold in"):
        DvarConfig(threshold=1.5)


class Noisy(Problem):
    """Also draws from torch's global generator, as dropout does."""

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        terms = super().__call__(step, micro_step, generator)
        return LossTerms({**terms.terms, "dropped": 1e-2 * torch.dropout(self.model.weight, 0.5, True).sum()})


CONFIG = DvarConfig(window=20, threshold=0.15)
LONG = FitConfig(steps=600, checkpoint_every_seconds=None)


def test_evaluations_depend_on_the_weights_alone() -> None:
    problem = Noisy()
    stop = DvarStop(CONFIG, problem, seed=3)
    state = next(iter(fit(problem, problem.groups, LONG)))
    before = torch.get_rng_state()
    for _ in range(3):
        stop(state)
    assert len(set(stop.history)) == 1
    assert torch.equal(before, torch.get_rng_state())
    assert problem.model.weight.grad is not None  # an evaluation leaves gradients alone


def test_an_evaluation_has_as_many_batches_as_a_step() -> None:
    asked: list[int] = []

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        asked.append(micro_step)
        return LossTerms({"drawn": torch.rand((), generator=generator)})

    stop = DvarStop(CONFIG, loss, micro_steps=4)
    problem = Noisy()
    state = next(iter(fit(problem, problem.groups, LONG)))
    stop(state)
    stop(state)
    assert asked == [0, 1, 2, 3] * 2
    assert len(set(stop.history)) == 1
    whole, single = stop.history[0], DvarStop(CONFIG, loss)
    single(state)
    assert single.history[0] != whole


@pytest.mark.parametrize("cut", [7, 30])
def test_an_interrupted_run_stops_at_the_same_step(tmp_path: Path, cut: int) -> None:
    straight = Noisy()
    expected = list(fit(straight, straight.groups, LONG, stop=DvarStop(CONFIG, straight)))
    assert 20 < expected[-1].step < 600
    folder, first = CheckpointFolder(tmp_path), Noisy()
    for state in fit(first, first.groups, LONG, checkpoints=folder, stop=DvarStop(CONFIG, first)):
        if state.step == cut:
            break
    second, stop = Noisy(), None
    stop = DvarStop(CONFIG, second)
    rest = list(fit(second, second.groups, LONG, checkpoints=folder, stop=stop))
    assert rest[-1].step == expected[-1].step
    assert len(stop.history) == expected[-1].step
    assert torch.equal(straight.model.weight, second.model.weight)
    # Once fired, the run is over: going on from its last checkpoint does nothing.
    third = Noisy()
    assert list(fit(third, third.groups, LONG, checkpoints=folder, stop=DvarStop(CONFIG, third))) == []
    assert torch.equal(straight.model.weight, third.model.weight)


def test_every(tmp_path: Path) -> None:
    problem = Problem()
    stop = DvarStop(DvarConfig(window=20, every=5), problem)
    list(fit(problem, problem.groups, FitConfig(steps=23), stop=stop))
    assert len(stop.history) == 4
