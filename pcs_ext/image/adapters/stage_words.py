"""PersonaMagic (Li et al. 2024, arXiv 2412.15674): words that a small network makes for each timestep of one stage.

The stage is where a face takes shape. Before it, while there is more noise, the words are their class word, so that the
prompt lays out the picture; behind it they stay as they were at its end.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.spectrum import SpectralAdapter, SpectralRows
from pcs_ext.image.adapters.tokens import check_placeholder, initial_rows
from pcs_ext.image.adapters.vocabulary import Rows, vector_tokens
from pcs_ext.image.backbone import AbstractBackbone


@config
class StageWordsConfig:
    """rows(t) = |w| (w + f(t)) / |w + f(t)|, w being the class word's row; the defaults are the released code's."""

    kind: Literal["stage_words"] = "stage_words"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """What prompts write."""
    num_vectors: int = 4
    """Tokens the placeholder stands for."""
    initializer: str
    """The class word."""
    low: float = 0.4
    high: float = 0.8
    """The stage, as parts of the timesteps: 0 is clean, 1 pure noise."""
    features: int = 2048
    """Sines and cosines of the timestep."""
    anchors: int = 200
    """The first linear layer starts as the features of so many timesteps of the stage."""
    width: int = 128
    """Of the two hidden layers."""
    init_seed: int = 0
    """Seed of the network."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, self.num_vectors)
        if self.initializer == "random":
            raise ConfigError("stage_words start at the class noun, whose norm they keep; got 'random'.")
        if not 0 <= self.low < self.high <= 1 or min(self.features // 2, self.anchors, self.width) < 1:
            raise ConfigError(
                f"a stage is two rising parts of the timesteps in [0, 1], and the network's sizes at least 1; got low "
                f"{self.low}, high {self.high}, features {self.features}, anchors {self.anchors}, width {self.width}."
            )


class StageMapper(nn.Module):
    """Timesteps `m` -> `m out`: sinusoidal features, three linear layers, output.

    Differs from the released code, whose output layer starts at random: it starts at zero, so that the words start as
    their class word.
    """

    def __init__(self, config: StageWordsConfig, *, total: int, out: int) -> None:
        super().__init__()
        self.config, self.total = config, total
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.init_seed)
            entry = nn.Linear(config.features, config.anchors)
            self.net = nn.Sequential(
                entry,
                nn.Linear(config.anchors, config.width),
                nn.LayerNorm(config.width),
                nn.LeakyReLU(),
                nn.Linear(config.width, config.width),
                nn.LayerNorm(config.width),
                nn.LeakyReLU(),
            )
            self.out = nn.Linear(config.width, out)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        shares = torch.arange(config.anchors) / config.anchors
        with torch.no_grad():
            entry.weight.copy_(self.sinusoids((config.low + shares * (config.high - config.low)) * total))

    def sinusoids(self, timesteps: Tensor) -> Tensor:
        """`m features`, cosines first; frequencies fall from 1 to 1/10000 per thousandth of the schedule."""
        half = self.config.features // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half, device=timesteps.device) / half)
        angles = timesteps.float()[:, None] * (1000 / self.total) * rates
        return torch.cat([angles.cos(), angles.sin()], dim=1)

    def forward(self, timesteps: Tensor) -> Tensor:
        # Under autocast the network would be rounded to half precision.
        with torch.autocast(timesteps.device.type, enabled=False):
            return self.out(self.net(self.sinusoids(timesteps)))


class StageRows(SpectralRows):
    """One text encoder's share of the mapper's output: `n d` numbers from `start` on."""

    def __init__(self, initial: Tensor, mapper: StageMapper, start: int) -> None:
        super().__init__(initial)
        # Only the first encoder's rows register the mapper, so that it is stored and trained once.
        if start == 0:
            self.mapper = mapper
        self._source = (mapper,)
        self.start = start

    def of(self, outputs: Tensor) -> Tensor:
        """Rows `m n d` from the mapper's outputs, at the present scale."""
        moved = outputs[:, self.start : self.start + self.initial.numel()].unflatten(1, self.initial.shape)
        norms = self.initial.norm(dim=-1, keepdim=True)
        rows = nn.functional.normalize(self.initial + moved, dim=-1) * norms
        return rows if self.scale == 1 else torch.lerp(self.initial.expand_as(rows), rows, self.scale)

    def typical(self) -> Tensor:
        config, total = self._source[0].config, self._source[0].total
        middle = torch.tensor([(config.low + config.high) / 2 * total], device=self.initial.device)
        return self.of(self._source[0](middle))[0]


class StageWordsAdapter(SpectralAdapter):
    """The mapper as learned tokens; state: `text_encoder.mapper.*` and the class word's rows.

    Differs from the released code: before the stage the prompt says the class word once per token, not once; and what
    an image encoder sees in the photo is not added to the words' values.
    """

    per_layer = False

    def __init__(self, name: str, config: StageWordsConfig) -> None:
        super().__init__(name, vector_tokens(config.placeholder, config.num_vectors))
        self.config = config
        self._mapper: StageMapper | None = None
        self._total = 1

    def key(self, timestep: float) -> float:
        low, high = (part * self._total for part in (self.config.low, self.config.high))
        return float(self._total) if timestep >= high else max(timestep, low)

    def rows_at(self, timesteps: Tensor, layers: Tensor) -> list[Tensor]:
        assert self._mapper is not None, f"adapter {self.name!r} was never injected"
        low, high = (part * self._total for part in (self.config.low, self.config.high))
        before = (timesteps >= high)[:, None, None]
        outputs = self._mapper(timesteps.clamp(min=low))
        staged = [rows for rows in self.rows() if isinstance(rows, StageRows)]
        return [torch.where(before, rows.initial.expand(len(timesteps), -1, -1), rows.of(outputs)) for rows in staged]

    def inject(self, backbone: AbstractBackbone) -> None:
        self._total = backbone.schedule.num_train_timesteps
        super().inject(backbone)

    def _build(self, backbone: AbstractBackbone, initial: Sequence[Tensor]) -> list[Rows]:
        sizes = [rows.numel() for rows in initial]
        self._mapper = StageMapper(self.config, total=backbone.schedule.num_train_timesteps, out=sum(sizes))
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        return [StageRows(rows, self._mapper, start) for rows, start in zip(initial, starts, strict=True)]

    def _initial(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        row = initial_rows(encoder, tokenizer, self.config.initializer, count=1, noise=0.0, seed=0)
        return row.expand(self.config.num_vectors, -1)
