"""CMA-ES: minimise a function of a few numbers from its values alone (Hansen 2016, arXiv 1604.00772)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pcs_ext.errors import ConfigError

LARGEST = 2048
"""Numbers that are searched together at most: the covariance is full, `n n`, and decomposed in every generation."""


class CmaEs:
    """The normal distribution candidates are drawn from, except its mean, which belongs to the caller; float64, CPU.

    Of each generation the better half moves the mean; covariance and step size follow the path the mean took.

    Differs from the usual libraries: no negative weights for the worse half.

    Args:
        size: numbers searched, n.
        population: candidates of a generation, at least 4.

    Raises:
        ConfigError: too many numbers, or too few candidates.
    """

    def __init__(self, size: int, population: int) -> None:
        if size > LARGEST or population < 4:
            raise ConfigError(
                f"an evolution strategy searches up to {LARGEST} numbers with 4 candidates or more, got {size} numbers "
                f"and {population}. Train a word in a subspace, or use adamw."
            )
        self.size, self.population = size, population
        self.covariance = torch.eye(size, dtype=torch.float64)
        self.paths = torch.zeros(2, size, dtype=torch.float64)
        """Of covariance and step size."""
        self.sigma = torch.ones((), dtype=torch.float64)
        self.generation = 0
        self._set_rates()

    def _set_rates(self) -> None:
        """Equations 49 to 58 of the tutorial."""
        n, parents = self.size, self.population // 2
        weights = math.log((self.population + 1) / 2) - torch.arange(1, parents + 1, dtype=torch.float64).log()
        self.weights = weights / weights.sum()
        self.effective = mu = float(1 / self.weights.square().sum())
        self.rate_sigma = (mu + 2) / (n + mu + 5)
        self.damping = 1 + 2 * max(0.0, math.sqrt((mu - 1) / (n + 1)) - 1) + self.rate_sigma
        self.rate_path = (4 + mu / n) / (n + 4 + 2 * mu / n)
        self.rate_one = 2 / ((n + 1.3) ** 2 + mu)
        self.rate_mu = min(1 - self.rate_one, 2 * (0.25 + mu + 1 / mu - 2) / ((n + 2) ** 2 + mu))
        self.expected = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
        """Length of n standard normal numbers, on average."""

    def draw(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        """A generation of candidates, `population n`, around a mean `n`."""
        values, vectors = self._decomposed()
        noise = torch.randn(self.population, self.size, generator=generator, dtype=torch.float64)
        return mean + self.sigma * (noise * values.sqrt()) @ vectors.T

    def move(self, mean: Tensor, candidates: Tensor, values: Tensor) -> Tensor:
        """The next mean `n`, from what `draw` gave and the function's values `population`; infinite ones are worst."""
        best = candidates[values.argsort(stable=True)[: len(self.weights)]]
        steps = (best - mean) / self.sigma
        step = self.weights @ steps
        self.generation += 1
        eigen, vectors = self._decomposed()
        straight = vectors @ ((vectors.T @ step) / eigen.sqrt())
        self.paths[1] = _followed(self.paths[1], straight, self.rate_sigma, self.effective)
        length = float(self.paths[1].norm())
        grown = math.sqrt(1 - (1 - self.rate_sigma) ** (2 * self.generation))
        calm = length / grown < (1.4 + 2 / (self.size + 1)) * self.expected
        self.paths[0] = _followed(self.paths[0], calm * step, self.rate_path, self.effective)
        lost = 0.0 if calm else self.rate_path * (2 - self.rate_path)
        kept = 1 + self.rate_one * lost - self.rate_one - self.rate_mu
        self.covariance = (
            kept * self.covariance
            + self.rate_one * torch.outer(self.paths[0], self.paths[0])
            + self.rate_mu * (steps.T * self.weights) @ steps
        )
        moved = mean + self.sigma * step
        self.sigma = self.sigma * math.exp(self.rate_sigma / self.damping * (length / self.expected - 1))
        return moved

    def _decomposed(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues `n` and eigenvectors `n n`."""
        values, vectors = torch.linalg.eigh((self.covariance + self.covariance.T) / 2)
        return values.clamp_min(1e-20), vectors

    def tensors(self) -> dict[str, Tensor]:
        """All that a resumed search needs beside the mean."""
        generation = torch.tensor(self.generation)
        return {"covariance": self.covariance, "paths": self.paths, "sigma": self.sigma, "generation": generation}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        self.covariance, self.paths = tensors["covariance"].clone(), tensors["paths"].clone()
        self.sigma, self.generation = tensors["sigma"].clone(), int(tensors["generation"])


def _followed(path: Tensor, step: Tensor, rate: float, effective: float) -> Tensor:
    """A path after one more step; of steps without a direction it has unit variance."""
    return (1 - rate) * path + math.sqrt(rate * (2 - rate) * effective) * step
