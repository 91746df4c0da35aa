"""SimAC's search by hand."""

import pytest
import torch

from pcs_ext.defense.timing import Search, Timesteps, Timing, search_timesteps
from pcs_ext.errors import ConfigError


def test_the_search_keeps_where_gradients_are_strong() -> None:
    steps: list[int] = []
    kept = search_timesteps(
        Search(), 1000, lambda timestep: 1000.0 - timestep, steps.append, torch.Generator().manual_seed(0)
    )
    remaining = kept.nonzero()[:, 0]
    assert 0 < len(remaining) <= 150
    assert remaining.float().median() < 150, "early timesteps score highest here"
    assert steps
    assert all(isinstance(step, int) for step in steps)


def test_one_round_deletes_one_window() -> None:
    scores = {t: float(t) for t in range(100)}
    kept = search_timesteps(
        Search(rounds=1, window=5, keep=1, candidates=100), 100, scores.__getitem__, lambda t: None, torch.Generator()
    )
    assert (~kept).nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_draws_come_from_what_was_kept() -> None:
    timesteps = Timesteps(Timing(per_encode=64), torch.linspace(0.99, 0.01, 1000))
    generator = torch.Generator().manual_seed(0)
    assert timesteps.draw("a", generator).shape == (64,)
    kept = torch.zeros(1000, dtype=torch.bool)
    kept[[3, 500]] = True
    timesteps.kept["a"] = kept
    assert set(timesteps.draw("a", generator).tolist()) == {3, 500}
    assert len(set(timesteps.draw("b", generator).tolist())) > 30


def test_per_encode_is_at_least_one() -> None:
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        Timing(per_encode=0)
