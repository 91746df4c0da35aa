"""A learned word with a row per step of denoising around one that all steps share (HiFi Tuner, Wang et al. 2023).

arXiv 2312.00079: first one row is learned for all steps, then every step's own beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.spectrum import SpectralAdapter, SpectralRows, stage_of
from pcs_ext.image.adapters.tokens import check_placeholder, initial_rows
from pcs_ext.image.adapters.vocabulary import Rows, vector_tokens
from pcs_ext.image.backbone import AbstractBackbone


@config
class StepwiseConfig:
    """row(t) = shared + own[stage of t]; the groups `embedding` and `steps` train apart."""

    kind: Literal["stepwise"] = "stepwise"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """What prompts write."""
    num_vectors: int = 1
    """Tokens the placeholder stands for."""
    stages: int = 50
    """Equal parts of the timesteps with rows of their own: the paper's 50 sampling steps."""
    initializer: str = "random"
    """Text whose token rows are averaged to start from, or "random"."""
    init_std: float = 0.015
    """Standard deviation of the rows when random."""
    init_seed: int = 0
    """Seed of those."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, self.num_vectors)
        if self.stages < 2 or self.init_std <= 0:
            raise ConfigError(
                f"stages must be at least 2 and init_std positive, got {self.stages} and {self.init_std}."
            )


class StepwiseRows(SpectralRows):
    """`shared`, `n d`, and `own`, `stages n d`, which starts at zero."""

    def __init__(self, initial: Tensor, *, stages: int, total: int) -> None:
        super().__init__(initial)
        self.shared = nn.Parameter(initial.detach().clone())
        self.own = nn.Parameter(torch.zeros(stages, *initial.shape))
        self.total = total
        """Timesteps of the schedule."""

    def at(self, timesteps: Tensor) -> Tensor:
        """Rows `m n d` of `m` timesteps, at the present scale."""
        rows = self.shared + self.own[stage_of(timesteps, len(self.own), self.total)]
        return rows if self.scale == 1 else torch.lerp(self.initial.expand_as(rows), rows, self.scale)

    def typical(self) -> Tensor:
        mean = self.shared + self.own.mean(0)
        return mean if self.scale == 1 else torch.lerp(self.initial, mean, self.scale)


class StepwiseAdapter(SpectralAdapter):
    """State: `text_encoder.shared` (`n d`), `text_encoder.own` (`stages n d`) and `text_encoder.initial` (`n d`)."""

    per_layer = False

    def __init__(self, name: str, config: StepwiseConfig) -> None:
        super().__init__(name, vector_tokens(config.placeholder, config.num_vectors))
        self.config = config
        self._total = 1

    def key(self, timestep: float) -> float:
        return int(stage_of(torch.tensor(timestep), self.config.stages, self._total))

    def rows_at(self, timesteps: Tensor, layers: Tensor) -> list[Tensor]:
        return [rows.at(timesteps) for rows in self._stepwise()]

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        """`embedding`, what all steps share, and `steps`, each one's own."""
        assert self.rows(), f"adapter {self.name!r} has no parameters before it is injected"
        return {
            "embedding": tuple(rows.shared for rows in self._stepwise()),
            "steps": tuple(rows.own for rows in self._stepwise()),
        }

    def inject(self, backbone: AbstractBackbone) -> None:
        self._total = backbone.schedule.num_train_timesteps
        super().inject(backbone)

    def _stepwise(self) -> list[StepwiseRows]:
        return [rows for rows in self.rows() if isinstance(rows, StepwiseRows)]

    def _build(self, backbone: AbstractBackbone, initial: Sequence[Tensor]) -> list[Rows]:
        total = backbone.schedule.num_train_timesteps
        return [StepwiseRows(rows, stages=self.config.stages, total=total) for rows in initial]

    def _initial(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        config = self.config
        noise = config.init_std if config.initializer == "random" else 0.0
        return initial_rows(
            encoder, tokenizer, config.initializer, count=config.num_vectors, noise=noise, seed=config.init_seed
        )
