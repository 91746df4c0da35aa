"""CMA-ES against its equations by hand, on functions it must solve, and inside the optimisation loop."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcs_ext.errors import CheckpointError, ConfigError, DivergedError
from pcs_ext.image.adapters.embedding import principal_directions
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.evolution import CmaEs
from pcs_ext.image.fit import AbstractRun, FitConfig, fit
from pcs_ext.image.types import LossTerms, ParameterGroup
from tests.support.problems import Problem, everything, run

CONFIG = FitConfig(steps=8, optimizer="cma_es", population=6)


class Search(Problem):
    """Least squares by evolution: nothing decays, and the loss must not record gradients."""

    seen: list[int]

    @property
    def groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup(name="w", parameters=(self.model.weight,), learning_rate=0.3),
            ParameterGroup(name="b", parameters=(self.model.bias,), learning_rate=0.1),
        ]

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        assert not torch.is_grad_enabled()
        self.seen = [*getattr(self, "seen", []), generator.initial_seed()]
        return super().__call__(step, micro_step, generator)


def test_one_generation_by_hand() -> None:
    search = CmaEs(2, 4)
    first = math.log(2.5) / (math.log(2.5) + math.log(2.5) - math.log(2))
    torch.testing.assert_close(search.weights, torch.tensor([first, 1 - first], dtype=torch.float64))
    candidates = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    values = torch.tensor([2.0, 1.0, math.inf, 5.0], dtype=torch.float64)
    moved = search.move(torch.zeros(2, dtype=torch.float64), candidates, values)
    torch.testing.assert_close(moved, torch.tensor([1 - first, 2 * first], dtype=torch.float64))
    mu = 1 / (first**2 + (1 - first) ** 2)
    rate = (mu + 2) / (2 + mu + 5)
    torch.testing.assert_close(search.paths[1], math.sqrt(rate * (2 - rate) * mu) * moved)
    expected = math.sqrt(2) * (1 - 1 / 8 + 1 / 84)
    length = float(search.paths[1].norm())
    damping = 1 + rate  # the other term is 0: mu < 4
    assert float(search.sigma) == pytest.approx(math.exp(rate / damping * (length / expected - 1)))
    assert length / math.sqrt(1 - (1 - rate) ** 2) < (1.4 + 2 / 3) * expected, "this step is a calm one"
    along = (4 + mu / 2) / (2 + 4 + mu)
    path = math.sqrt(along * (2 - along) * mu) * moved
    one, many = 2 / (3.3**2 + mu), 2 * (0.25 + mu + 1 / mu - 2) / (16 + mu)
    spread = first * torch.outer(candidates[1], candidates[1]) + (1 - first) * torch.outer(candidates[0], candidates[0])
    covariance = (1 - one - many) * torch.eye(2, dtype=torch.float64) + one * torch.outer(path, path) + many * spread
    torch.testing.assert_close(search.covariance, covariance)


@pytest.mark.parametrize("name", ["ellipsoid", "rosenbrock"])
def test_it_solves_what_it_must(name: str) -> None:
    def value(x: Tensor) -> Tensor:
        if name == "ellipsoid":
            return (1e4 ** (torch.arange(6) / 5) * x.square()).sum(-1)
        return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(-1)

    search, mean, generator = CmaEs(6, 12), torch.zeros(6, dtype=torch.float64), torch.Generator().manual_seed(0)
    mean += 2.0 if name == "ellipsoid" else 0.0
    for _ in range(300):
        candidates = search.draw(mean, generator)
        mean = search.move(mean, candidates, value(candidates))
    assert float(value(mean[None])) < 1e-8
    assert float(search.sigma) < 1e-3


def test_fit_lowers_the_loss_and_resumes_exactly(tmp_path: Path) -> None:
    straight: list[AbstractRun] = []
    first = Search()
    expected = run(first, CONFIG, on_start=straight.append)
    assert len(set(first.seen)) == 8, "the candidates of a generation share their noise"
    assert len(first.seen) == 8 * 6
    folder = CheckpointFolder(tmp_path / "c", config_hash="a")
    cut = Search()
    for state in fit(cut, cut.groups, CONFIG, checkpoints=folder):
        if state.step == 3:
            break
    resumed: list[AbstractRun] = []
    rest = run(Search(), CONFIG, checkpoints=folder, on_start=resumed.append)
    assert [state.losses for state in rest] == [state.losses for state in expected[3:]]
    ours, theirs = everything(resumed[0]), everything(straight[0])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    longer = run(Search(), FitConfig(steps=60, optimizer="cma_es", population=10))
    assert longer[-1].losses["total"] < 0.3 * longer[0].losses["total"]
    assert longer[-1].gradient_norm < longer[0].gradient_norm, "the step size"
    other = CheckpointFolder(tmp_path / "by gradients")
    run(Problem(), FitConfig(steps=1), checkpoints=other)
    with pytest.raises(CheckpointError, match="no evolution strategy of this size"):
        run(Search(), CONFIG, checkpoints=other)


def test_candidates_that_are_not_finite_lose_and_too_many_end_the_run() -> None:
    class Bad(Search):
        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            terms = super().__call__(step, micro_step, generator)
            bad = everywhere or bool(self.model.weight[0, 0] > 0.1)
            return LossTerms({**terms.terms, "error": terms.terms["error"] * (math.nan if bad else 1)})

    everywhere, problem = False, Bad()
    states = run(problem, FitConfig(steps=20, optimizer="cma_es"))
    assert not any(state.skipped for state in states)
    assert problem.model.weight[0, 0] < 0.1
    everywhere, problem = True, Bad()
    before = problem.model.weight.detach().clone()
    with pytest.raises(DivergedError, match="6 steps in a row"):
        run(problem, FitConfig(steps=20, optimizer="cma_es"))
    assert torch.equal(before, problem.model.weight)


def test_what_evolution_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="set lr_schedule to constant"):
        run(Search(), FitConfig(steps=1, optimizer="cma_es", lr_schedule="cosine"))
    with pytest.raises(ConfigError, match="decays nothing"):
        run(Problem(), FitConfig(steps=1, optimizer="cma_es"))
    with pytest.raises(ConfigError, match="population of the optimisation must be at least 4"):
        FitConfig(steps=1, population=3)
    with pytest.raises(ConfigError, match="searches up to 2048 numbers"):
        CmaEs(2049, 20)


def test_principal_directions_by_hand() -> None:
    axes = torch.tensor([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    drawn = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # uncorrelated, variance 4 / 3
    table = 5.0 + drawn * torch.tensor([3.0, 2.0, 1.0]) @ axes
    found = principal_directions(table, 2)
    for row, axis, spread in zip(found, axes[:2], (3.0, 2.0), strict=True):
        torch.testing.assert_close(row * torch.sign(row @ axis), spread * math.sqrt(4 / 3) * axis)
    assert principal_directions(table, 9).shape == (3, 3)
