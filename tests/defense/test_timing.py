"""SimAC's search by hand."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pcs_ext.defense.canvas import Canvas
from pcs_ext.defense.engine import Protection
from pcs_ext.defense.objectives import DenoisingGain, Sample
from pcs_ext.defense.photos import OwnPhoto
from pcs_ext.defense.recipes import RECIPES
from pcs_ext.defense.surrogate import Surrogate
from pcs_ext.defense.timing import Search, Timesteps, Timing, search_timesteps
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone


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


class Watching:
    """The usual gain; remembers which pictures and timesteps it was shown."""

    kind = "watching"

    def __init__(self) -> None:
        self.shown: list[tuple[float, int]] = []
        self.noises: set[float] = set()

    def __call__(self, sample: Sample) -> torch.Tensor:
        self.shown.append((float(sample.images.detach().mean()), int(sample.timesteps)))
        ahead = torch.Generator()
        ahead.set_state(sample.generators[0].get_state())
        self.noises.add(float(torch.randn((), generator=ahead)))
        return DenoisingGain()(sample)


def test_the_search_looks_at_all_squares_with_noise_of_its_own(sd: AbstractBackbone) -> None:
    thirds = torch.tensor([40, 128, 215], dtype=torch.uint8).repeat_interleave(32).expand(3, 32, 96).contiguous()
    photo = OwnPhoto(path=Path("wide.png"), sha256="0" * 64, pixels=thirds)
    watching = Watching()
    method = dataclasses.replace(
        RECIPES["simac"].build("sd"), rounds=1, steps=1, training=None, objective=watching,  # type: ignore[arg-type]
        timing=Timing(search=Search(rounds=12, candidates=2)),
    )  # fmt: skip
    surrogate = Surrogate(sd, ["a photo of sks dog"], training=None, seed=3)
    with surrogate.active():
        for _ in Protection([Canvas(photo, method.budget)], [surrogate], method, seed=3).run():
            pass
    trials = [watching.shown[first : first + 3] for first in range(0, 36, 3)]
    assert len({round(image * 3) for image, _ in watching.shown[:36]}) >= 3, "dark, middle and light squares"
    assert len(watching.noises) == 2 * 12 + 1
    assert all(first == pytest.approx(second, abs=1e-6) for (first, _), (second, _), _ in trials), "one for candidates"


def test_per_encode_is_at_least_one() -> None:
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        Timing(per_encode=0)
