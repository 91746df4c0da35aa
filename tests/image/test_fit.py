"""The optimisation loop: exact accumulation, exact resume, guards."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pcs_ext.errors import CheckpointError, DivergedError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import Fit, FitConfig, fit, lr_factor
from pcs_ext.image.types import LossTerms, ParameterGroup


class Problem:
    """Least squares with its own random batches."""

    def __init__(self, batch: int = 4) -> None:
        self.model = nn.Linear(5, 3)
        with torch.no_grad():
            self.model.weight.fill_(0.1)
            self.model.bias.zero_()
        self.batch = batch

    @property
    def groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup(name="w", parameters=(self.model.weight,), learning_rate=1e-2, weight_decay=0.1),
            ParameterGroup(name="b", parameters=(self.model.bias,), learning_rate=1e-3),
        ]

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        x = torch.randn(self.batch, 5, generator=generator)
        error = self.model(x) - x[:, :3]
        return LossTerms({"error": error.square().mean(), "size": 1e-3 * self.model.weight.square().sum()})


CONFIG = FitConfig(steps=12, gradient_accumulation=2, lr_schedule="cosine", warmup_steps=3, ema_decay=0.9)


def run(problem: Problem, config: FitConfig = CONFIG, **options) -> list:
    return list(fit(problem, problem.groups, config, **options))


def state_of(problem: Problem, captured: list[Fit]) -> list[torch.Tensor]:
    return [problem.model.weight.data, problem.model.bias.data, *captured[0].average.averages]


def test_the_loss_falls_and_terms_are_reported() -> None:
    states = run(Problem(), FitConfig(steps=200))
    assert states[-1].losses["error"] < 0.2 * states[0].losses["error"]
    assert states[0].losses["total"] == pytest.approx(states[0].losses["error"] + states[0].losses["size"])
    assert [state.step for state in states] == list(range(1, 201))


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_resume_is_exact(tmp_path: Path, cut: int) -> None:
    straight, captured = Problem(), []
    run(straight, on_start=captured.append)
    folder = CheckpointFolder(tmp_path / "c", config_hash="a")
    first = Problem()
    for state in fit(first, first.groups, CONFIG, checkpoints=folder):
        if state.step == cut:
            break
    second, resumed = Problem(), []
    rest = run(second, checkpoints=folder, on_start=resumed.append)
    assert rest[0].step == cut + 1
    for a, b in zip(state_of(straight, captured), state_of(second, resumed), strict=True):
        assert torch.equal(a, b)


def test_accumulation_averages_gradients() -> None:
    class Fixed(Problem):
        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            x = torch.arange(20.0).reshape(4, 5) / 10
            rows = x if whole else x[2 * micro_step : 2 * micro_step + 2]
            return LossTerms({"error": (self.model(rows) - rows[:, :3]).square().mean()})

    results = []
    for whole in (True, False):
        problem = Fixed()
        run(problem, FitConfig(steps=1, gradient_accumulation=1 if whole else 2))
        results.append(problem.model.weight.grad)
    torch.testing.assert_close(results[0], results[1])


def test_steps_that_are_not_finite_are_skipped_and_then_given_up() -> None:
    class Bad(Problem):
        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            terms = super().__call__(step, micro_step, generator)
            return terms.scaled(float("nan")) if step in bad else terms

    bad = {2}
    problem = Bad()
    states = run(problem, FitConfig(steps=4))
    assert [state.skipped for state in states] == [False, False, True, False]
    assert torch.isfinite(problem.model.weight).all()
    bad = set(range(2, 40))
    with pytest.raises(DivergedError, match="3 steps in a row.*Lower the learning rate"):
        run(Bad(), FitConfig(steps=40, max_skipped_steps=2))


def test_another_configuration_does_not_go_on_silently(tmp_path: Path) -> None:
    problem = Problem()
    run(problem, checkpoints=CheckpointFolder(tmp_path, config_hash="a"))
    with pytest.raises(CheckpointError, match="made by other settings"):
        run(problem, checkpoints=CheckpointFolder(tmp_path, config_hash="b"))


def test_schedules_by_hand() -> None:
    config = FitConfig(steps=10, warmup_steps=2, lr_schedule="linear")
    assert [round(lr_factor(step, config), 3) for step in (0, 1, 2, 6, 9)] == [0.5, 1.0, 1.0, 0.5, 0.125]
    assert lr_factor(9, FitConfig(steps=10)) == 1.0
    assert lr_factor(5, FitConfig(steps=10, lr_schedule="cosine")) == pytest.approx(0.5)


def test_averaged_swaps_and_restores() -> None:
    problem, captured = Problem(), []
    run(problem, on_start=captured.append)
    last = problem.model.weight.clone()
    with captured[0].averaged():
        assert torch.equal(problem.model.weight, captured[0].average.averages[0])
        assert not torch.equal(problem.model.weight, last)
    assert torch.equal(problem.model.weight, last)
