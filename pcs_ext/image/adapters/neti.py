"""NeTI (Alaluf et al. 2023, arXiv 2305.15391): a small network gives the token's vector for a timestep and a layer."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.spectrum import SpectralAdapter, SpectralRows
from pcs_ext.image.adapters.tokens import check_placeholder, initial_rows
from pcs_ext.image.adapters.vocabulary import Rows
from pcs_ext.image.backbone import AbstractBackbone


@config
class NetiConfig:
    """The mapper's sizes; the defaults are the released code's: 563,616 numbers on SD 1.x."""

    kind: Literal["neti"] = "neti"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """What prompts write."""
    initializer: str = "object"
    """The super-category: its token row is what scale 0 gives, and its norm the norm of every output."""
    frequencies: int = 1024
    """Random Fourier features of (timestep, layer), each a sine and a cosine."""
    sigma_time: float = 0.03
    """Standard deviation of the frequencies along timesteps, per timestep of 1,000."""
    sigma_layer: float = 2.0
    """The same along layers."""
    anchors: int = 10
    """The first linear layer starts as the encodings of this many timesteps at every layer."""
    width: int = 128
    """Of the two hidden layers."""
    nested_dropout: float = 0.5
    """How often, per sample in training, the hidden units after a random one are set to zero."""
    bypass: float = 0.2
    """Length of the second output, relative to the text state it is added to, for values only; 0: none."""
    init_seed: int = 0
    """Seed of frequencies and starting weights."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, 1)
        if self.initializer == "random":
            raise ConfigError("the initializer of neti is the class noun, whose norm its vectors keep; got 'random'.")
        sizes = {"frequencies": self.frequencies, "anchors": self.anchors, "width": self.width}
        if min(sizes.values()) < 1 or not 0 <= self.nested_dropout <= 1 or self.bypass < 0:
            raise ConfigError(
                "neti needs frequencies, anchors and width of at least 1, nested_dropout in [0, 1] and bypass >= 0; "
                f"got {sizes}, {self.nested_dropout} and {self.bypass}."
            )


class NetiMapper(nn.Module):
    """(timestep, layer) -> `width_out` numbers: Fourier features, three linear layers, nested dropout, output.

    Args:
        config: sizes.
        layers: number of cross-attention modules.
        total: timesteps of the schedule.
        out: numbers returned.
    """

    def __init__(self, config: NetiConfig, *, layers: int, total: int, out: int) -> None:
        super().__init__()
        self.config, self.total = config, total
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.init_seed)
            scale = torch.tensor([config.sigma_time, config.sigma_layer])
            self.register_buffer("frequencies", torch.randn(config.frequencies, 2) * scale)
            self.frequencies: Tensor
            entry = nn.Linear(2 * config.frequencies, config.anchors * layers)
            self.net = nn.Sequential(
                entry,
                nn.Linear(config.anchors * layers, config.width),
                nn.LayerNorm(config.width),
                nn.LeakyReLU(),
                nn.Linear(config.width, config.width),
                nn.LayerNorm(config.width),
                nn.LeakyReLU(),
            )
            self.out = nn.Linear(config.width, out)
        times = torch.arange(config.anchors).repeat_interleave(layers) * (total / config.anchors)
        with torch.no_grad():
            entry.weight.copy_(self.features(times, torch.arange(layers).repeat(config.anchors)))

    def features(self, timesteps: Tensor, layers: Tensor) -> Tensor:
        """Unit vectors `m 2*frequencies`."""
        places = torch.stack([timesteps.float() * (1000 / self.total), layers.float()], dim=1)
        angles = places @ self.frequencies.T
        return torch.cat([angles.sin(), angles.cos()], dim=1) / math.sqrt(self.config.frequencies)

    def forward(self, timesteps: Tensor, layers: Tensor, keep: int | None = None) -> Tensor:
        """Outputs `m out`.

        Args:
            timesteps, layers: `m` each.
            keep: hidden units to keep, the later ones are zero; None: all, or nested dropout where gradients are
                recorded.
        """
        hidden = self.net(self.features(timesteps, layers))
        limit = self._limits(len(hidden)) if keep is None else torch.full((len(hidden),), keep)
        units = torch.arange(hidden.shape[1], device=hidden.device)
        return self.out(hidden * (units < limit.to(hidden.device).unsqueeze(1)))

    def _limits(self, count: int) -> Tensor:
        """Hidden units kept per sample, from torch's default generator as other dropout."""
        width = self.config.width
        if not torch.is_grad_enabled() or self.config.nested_dropout == 0:
            return torch.full((count,), width)
        drawn = torch.randint(width, (count,))
        return torch.where(torch.rand(count) < self.config.nested_dropout, drawn, width)


class NetiRows(SpectralRows):
    """One text encoder's share of the mapper's output, scaled to the norm of the class word's row."""

    def __init__(self, initial: Tensor, mapper: NetiMapper, start: int) -> None:
        super().__init__(initial)
        # Only the first encoder's rows register the mapper, so that it is stored and trained once.
        if start == 0:
            self.mapper = mapper
        self._source = (mapper,)
        self.share = slice(start, start + initial.shape[-1])

    def of(self, outputs: Tensor) -> Tensor:
        """Rows `m 1 d` from the mapper's outputs, at the present scale."""
        rows = (nn.functional.normalize(outputs[:, self.share], dim=-1) * self.initial.norm()).unsqueeze(1)
        return rows if self.scale == 1 else torch.lerp(self.initial.expand_as(rows), rows, self.scale)

    def typical(self) -> Tensor:
        middle = torch.tensor([self._source[0].total // 2], device=self.initial.device)
        return self.of(self._source[0](middle, torch.zeros_like(middle), self._source[0].config.width))[0]


class NetiAdapter(SpectralAdapter):
    """The mapper as a learned token; state: `text_encoder.mapper.*` and the class word's rows.

    Differs from the released code: the bypass is added to the finished text states, not before the encoder's last
    layer norm; and the frequencies along timesteps are per thousandth of the schedule, whatever its length.
    """

    per_layer = True
    keep: int | None = None
    """Hidden units that speak at sampling, 1 to `width`; None: all. Fewer give up likeness for easier editing."""

    def __init__(self, name: str, config: NetiConfig) -> None:
        super().__init__(name, (config.placeholder,))
        self.config = config
        self._mapper: NetiMapper | None = None
        self._bypass: Tensor | None = None

    def key(self, timestep: float) -> float:
        return timestep

    def rows_at(self, timesteps: Tensor, layers: Tensor) -> list[Tensor]:
        assert self._mapper is not None, f"adapter {self.name!r} was never injected"
        rows = [rows for rows in self.rows() if isinstance(rows, NetiRows)]
        outputs = self._mapper(timesteps, layers, self.keep)
        self._bypass = outputs[:, rows[-1].share.stop :]
        return [module.of(outputs) for module in rows]

    def add_to_values(self, values: Tensor, is_token: Tensor) -> Tensor:
        if self.config.bypass == 0:
            return values
        assert self._bypass is not None, "rows_at comes before add_to_values"
        offsets = nn.functional.normalize(self._bypass, dim=-1).unsqueeze(1).to(values.dtype)
        lengths = self.config.bypass * self._scale * values.norm(dim=-1, keepdim=True)
        return torch.where(is_token.unsqueeze(-1), values + lengths * offsets, values)

    def _build(self, backbone: AbstractBackbone, initial: Sequence[Tensor]) -> list[Rows]:
        widths = [rows.shape[-1] for rows in initial]
        # The text states of all encoders stand side by side: as wide as their rows together.
        out = sum(widths) * (2 if self.config.bypass > 0 else 1)
        layers, total = len(backbone.cross_attention_paths()), backbone.schedule.num_train_timesteps
        self._mapper = NetiMapper(self.config, layers=layers, total=total, out=out)
        starts = [sum(widths[:index]) for index in range(len(widths))]
        return [NetiRows(rows, self._mapper, start) for rows, start in zip(initial, starts, strict=True)]

    def _initial(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        return initial_rows(encoder, tokenizer, self.config.initializer, count=1, noise=0.0, seed=0)
