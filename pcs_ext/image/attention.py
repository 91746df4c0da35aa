"""Programs on attention: read or change the probabilities of chosen attention modules, and leave no trace."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone

AttentionProgram = Callable[[str, Tensor], Tensor]
"""`(module path, probabilities b heads queries keys) -> probabilities`, each row summing to 1. Differentiable."""


@contextlib.contextmanager
def attention_program(
    backbone: AbstractBackbone, program: AttentionProgram, paths: Sequence[str] | None = None
) -> Iterator[None]:
    """Inside, the probabilities of the chosen attentions pass through `program`; afterwards all is as before.

    Programs nest: the inner one receives what the outer one made.

    Args:
        backbone: its denoiser's attentions are meant.
        program: reads the probabilities, or returns others.
        paths: of the attentions; None: all text cross-attentions.

    Raises:
        UsageError: a path is no attention of the denoiser.
    """
    modules = {}
    for path in backbone.cross_attention_paths() if paths is None else paths:
        try:
            modules[path] = backbone.denoiser.get_submodule(path)
        except AttributeError:
            known = ", ".join(backbone.cross_attention_paths()[:2])
            raise UsageError(f"{path!r} is no module of {backbone.name}; expected one like {known}.") from None
    before = {path: module.processor for path, module in modules.items()}
    try:
        for path, module in modules.items():
            outer = before[path].programs if isinstance(before[path], _Programmed) else ()
            module.processor = _Programmed(path, (*outer, program))
        yield
    finally:
        for path, module in modules.items():
            module.processor = before[path]


class AttentionMaps:
    """A program that keeps where each word looks: text cross-attention averaged over heads, modules and calls.

    Args:
        side: maps are resized to this many cells per side before they are averaged.
        rows: which of the batch to keep, for instance the conditional half under guidance; None keeps all.
    """

    def __init__(self, side: int = 16, rows: slice | None = None) -> None:
        self.side, self.rows = side, rows or slice(None)
        self.calls = 0
        self._sum: Tensor | None = None

    def __call__(self, path: str, probabilities: Tensor) -> Tensor:
        b, _, queries, keys = probabilities.shape
        cells = math.isqrt(queries)
        assert cells * cells == queries, f"{path} attends over {queries} cells: only square pictures have maps"
        maps = probabilities.mean(1).transpose(1, 2).reshape(b, keys, cells, cells)[self.rows].float()
        resized = torch.nn.functional.interpolate(maps, size=(self.side, self.side), mode="bilinear")
        self._sum = resized if self._sum is None else self._sum + resized
        self.calls += 1
        return probabilities

    def maps(self) -> Tensor:
        """Mean maps `b tokens side side`; over tokens they sum to 1 in every cell. Differentiable.

        Raises:
            UsageError: nothing was denoised inside the program.
        """
        if self._sum is None:
            raise UsageError("no attention was recorded: run the denoiser inside attention_program first.")
        return self._sum / self.calls


class _Programmed:
    """Attention in plain matrix products (as diffusers' AttnProcessor) with programs on its probabilities."""

    def __init__(self, path: str, programs: tuple[AttentionProgram, ...]) -> None:
        self.path, self.programs = path, programs

    def __call__(
        self,
        attention: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attention.prepare_attention_mask(attention_mask, states.shape[1], hidden_states.shape[0])
        query = attention.head_to_batch_dim(attention.to_q(hidden_states))
        key = attention.head_to_batch_dim(attention.to_k(states))
        value = attention.head_to_batch_dim(attention.to_v(states))
        scores = attention.get_attention_scores(query, key, mask)
        probabilities = scores.unflatten(0, (hidden_states.shape[0], attention.heads))
        for program in self.programs:
            probabilities = program(self.path, probabilities)
        mixed = attention.batch_to_head_dim(torch.bmm(probabilities.flatten(0, 1).to(value.dtype), value))
        mixed = attention.to_out[1](attention.to_out[0](mixed))
        if attention.residual_connection:
            mixed = mixed + hidden_states
        return mixed / attention.rescale_output_factor
