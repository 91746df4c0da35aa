"""Learned tokens that mean something else in every layer or at every noise level.

P+ (Voynov et al. 2023, arXiv 2303.09522): one vector per cross-attention layer. ProSpect (Zhang et al. 2023, arXiv
2305.16225): one per stage of denoising. NeTI (`neti.py`): a function of both. What they share is here: prompts with
such a token are encoded once per layer, at the timestep the denoiser is asked about.
"""

import abc
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.tokens import TokenAdapter, check_placeholder, initial_rows
from pcs_ext.image.adapters.vocabulary import Rows, token_positions, vector_tokens
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.prompt_programs import Encode, add_program, find_program, remove_program
from pcs_ext.image.types import Conditioning

_PROGRAM = "spectrum"


class SpectralRows(Rows):
    """Rows that depend on the timestep and on the cross-attention that will read the prompt."""

    def __init__(self, initial: Tensor) -> None:
        super().__init__(initial)
        self._now: Tensor | None = None

    @abc.abstractmethod
    def typical(self) -> Tensor:
        """Rows `n d` for what asks neither for a timestep nor for a layer: pooled text."""

    def forward(self) -> Tensor:
        """`m n d` inside `reading`, else `typical`."""
        return self.typical() if self._now is None else self._now

    @contextlib.contextmanager
    def reading(self, rows: Tensor) -> Iterator[None]:
        """Inside, the `m` sequences that are encoded read these rows, `m n d`."""
        self._now = rows
        try:
            yield
        finally:
            self._now = None


class TableRows(SpectralRows):
    """A table of rows: `weight` is `stages layers n d`."""

    def __init__(self, initial: Tensor, *, stages: int, layers: int, total: int) -> None:
        super().__init__(initial)
        self.weight = nn.Parameter(initial.detach().clone().expand(stages, layers, -1, -1).clone())
        self.total = total
        """Timesteps of the schedule."""

    def at(self, timesteps: Tensor, layers: Tensor) -> Tensor:
        """Rows `m n d` for `m` pairs of a timestep and a layer index, at the present scale."""
        stages, count = self.weight.shape[:2]
        stage = stage_of(timesteps, stages, self.total)
        rows = self.weight[stage, layers if count > 1 else torch.zeros_like(layers)]
        return rows if self.scale == 1 else torch.lerp(self.initial.expand_as(rows), rows, self.scale)

    def typical(self) -> Tensor:
        mean = self.weight.mean((0, 1))
        return mean if self.scale == 1 else torch.lerp(self.initial, mean, self.scale)


def stage_of(timesteps: Tensor, stages: int, total: int) -> Tensor:
    """Which of `stages` equal parts of [0, total) each timestep lies in: 0 holds the lowest noise."""
    return (timesteps.double() * stages / total).long().clamp(0, stages - 1)


class SpectralAdapter(TokenAdapter, abc.ABC):
    """A token adapter whose rows are spectral. Its groups of one backbone share one program on prompts."""

    per_layer: bool
    """Whether layers read different rows."""

    @abc.abstractmethod
    def key(self, timestep: float) -> float:
        """Timesteps with equal keys read equal rows."""

    @abc.abstractmethod
    def rows_at(self, timesteps: Tensor, layers: Tensor) -> list[Tensor]:
        """Rows `m n d` of each text encoder for `m` pairs of a timestep and a layer index, at the present scale."""

    def inject(self, backbone: AbstractBackbone) -> None:
        super().inject(backbone)
        program = find_program(backbone, _PROGRAM)
        if program is None:
            program = SpectralProgram(backbone)
            add_program(backbone, _PROGRAM, program)
        assert isinstance(program, SpectralProgram)
        program.adapters[self.name] = self

    def eject(self) -> None:
        assert self._backbone is not None, f"adapter {self.name!r} is not injected"
        program = find_program(self._backbone, _PROGRAM)
        assert isinstance(program, SpectralProgram)
        del program.adapters[self.name]
        if not program.adapters:
            remove_program(self._backbone, _PROGRAM)
        super().eject()

    def add_to_values(self, values: Tensor, is_token: Tensor) -> Tensor:
        """What cross-attention values read in place of `values`, `m n d`; here the same.

        Args:
            values: states of the `m` prompts that `rows_at` was last called for.
            is_token: `m n` bool, where the placeholder's tokens are.
        """
        return values


class SpectralProgram:
    """Around `encode_prompt`: prompts with a spectral token become conditioning per layer and timestep.

    The conditioning encodes when it is asked, so it is of use only while the adapters are injected.
    """

    def __init__(self, backbone: AbstractBackbone) -> None:
        self.backbone = backbone
        self.adapters: dict[str, SpectralAdapter] = {}

    def __call__(self, encode: Encode, prompts: Sequence[str], size: tuple[int, int] | None) -> Conditioning:
        base = encode(prompts, size=size)
        tokens = {adapter.tokens[0] for adapter in self.adapters.values()}
        rows = [index for index, prompt in enumerate(prompts) if any(token in prompt for token in tokens)]
        if not rows:
            return base
        layered = _Layered(self, encode, prompts, size, rows, base)
        return Conditioning(states=base.states, pooled=base.pooled, time_ids=base.time_ids, per_layer=layered)


class _Layered:
    """The conditioning of one prompt batch. Keeps what the last timesteps needed: all layers of a pass ask for it."""

    def __init__(
        self,
        program: SpectralProgram,
        encode: Encode,
        prompts: Sequence[str],
        size: tuple[int, int] | None,
        rows: list[int],
        base: Conditioning,
    ) -> None:
        self.encode, self.size, self.base, self.rows = encode, size, base, rows
        self.adapters = tuple(program.adapters.values())
        self.prompts = [prompts[row] for row in rows]
        paths = program.backbone.cross_attention_paths()
        self.layers = {path: index for index, path in enumerate(paths)}
        self.count = len(paths) if any(adapter.per_layer for adapter in self.adapters) else 1
        self.is_token = [token_positions(program.backbone, a.tokens, self.prompts) for a in self.adapters]
        self._key: Any = None
        self._states: tuple[Tensor, Tensor] | None = None

    def __call__(self, timesteps: Tensor, module_path: str) -> tuple[Tensor, Tensor]:
        key = (torch.is_grad_enabled(), [[a.key(t) for a in self.adapters] for t in timesteps[self.rows].tolist()])
        if self._states is None or key != self._key:
            self._key, self._states = key, self._encoded(timesteps[self.rows])
        keys, values = self._states
        layer = self.layers[module_path] if self.count > 1 else 0
        return self._placed(keys[layer]), self._placed(values[layer])

    def _encoded(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value states, `layers rows n d` each."""
        times = timesteps.repeat(self.count)
        layers = torch.arange(self.count, device=times.device).repeat_interleave(len(timesteps))
        with contextlib.ExitStack() as stack:
            for adapter in self.adapters:
                for module, rows in zip(adapter.rows(), adapter.rows_at(times, layers), strict=True):
                    assert isinstance(module, SpectralRows)
                    stack.enter_context(module.reading(rows))
            keys = self.encode(self.prompts * self.count, size=self.size).states
        values = keys
        for adapter, is_token in zip(self.adapters, self.is_token, strict=True):
            values = adapter.add_to_values(values, is_token.repeat(self.count, 1))
        return tuple(states.unflatten(0, (self.count, len(timesteps))) for states in (keys, values))  # type: ignore[return-value]

    def _placed(self, states: Tensor) -> Tensor:
        """The rows' states among those of prompts without such tokens."""
        if len(self.rows) == self.base.batch_size:
            return states
        return self.base.states.index_put((torch.tensor(self.rows, device=states.device),), states)


@config
class SpectrumConfig:
    """A learned token with a row per cross-attention layer, per stage of denoising, or both."""

    kind: Literal["spectrum"] = "spectrum"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """What prompts write."""
    num_vectors: int = 1
    """Tokens the placeholder stands for."""
    per_layer: bool = True
    """One row per cross-attention module (16 in SD 1.x: 12,288 numbers per token)."""
    stages: int = 1
    """Equal parts of the timesteps with rows of their own."""
    initializer: str = "random"
    """Text whose token rows are averaged to start from, or "random"."""
    init_std: float = 0.015
    """Standard deviation of the rows when random."""
    init_seed: int = 0
    """Seed of those."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, self.num_vectors)
        if self.stages < 1 or self.init_std <= 0:
            raise ConfigError(
                f"stages must be at least 1 and init_std positive, got {self.stages} and {self.init_std}."
            )
        if not self.per_layer and self.stages == 1:
            raise ConfigError(
                "a spectrum of one stage without layers is a plain learned token; use kind 'embedding', set per_layer "
                "to true or stages to 2 or more."
            )


class SpectrumAdapter(SpectralAdapter):
    """A table of rows; state: `text_encoder.weight` (`stages layers n d`) and `text_encoder.initial` (`n d`)."""

    def __init__(self, name: str, config: SpectrumConfig) -> None:
        super().__init__(name, vector_tokens(config.placeholder, config.num_vectors))
        self.config, self.per_layer = config, config.per_layer
        self._total = 1

    def key(self, timestep: float) -> float:
        stages = self.config.stages
        return int(stage_of(torch.tensor(timestep), stages, self._total)) if stages > 1 else 0

    def rows_at(self, timesteps: Tensor, layers: Tensor) -> list[Tensor]:
        return [rows.at(timesteps, layers) for rows in self.rows() if isinstance(rows, TableRows)]

    def _build(self, backbone: AbstractBackbone, initial: Sequence[Tensor]) -> list[Rows]:
        layers = len(backbone.cross_attention_paths()) if self.per_layer else 1
        stages, total = self.config.stages, backbone.schedule.num_train_timesteps
        return [TableRows(rows, stages=stages, layers=layers, total=total) for rows in initial]

    def inject(self, backbone: AbstractBackbone) -> None:
        self._total = backbone.schedule.num_train_timesteps
        super().inject(backbone)

    def _initial(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        config = self.config
        noise = config.init_std if config.initializer == "random" else 0.0
        return initial_rows(
            encoder, tokenizer, config.initializer, count=config.num_vectors, noise=noise, seed=config.init_seed
        )
