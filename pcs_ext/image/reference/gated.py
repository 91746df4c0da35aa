"""Gated layers between self- and cross-attention that read patches (as in GLIGEN, arXiv 2301.07093)."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GatedPatches(nn.Module):
    """y + beta tanh(gamma) S([y, f]): cells attend to themselves and to patches; gamma begins at 0.

    InstantBooth (arXiv 2304.03411, eq. 6) and IDAdapter (arXiv 2403.13535) have it.

    Args:
        width: of the cells.
        heads: of the attention; as many as divide the width, at most.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = next(count for count in range(heads, 0, -1) if width % count == 0)
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, cells: Tensor, patches: Tensor) -> Tensor:
        """What is added to the cells: `b n width` and `b m width` -> `b n width`, float32."""
        joined = self.norm(torch.cat([cells.to(patches.dtype), patches], dim=1))
        asked, told, found = (
            x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in self.to_qkv(joined).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(asked[:, :, : cells.shape[1]], told, found)
        return self.gamma.tanh() * self.to_out(mixed.transpose(1, 2).flatten(2))


@contextlib.contextmanager
def gated(
    denoiser: nn.Module, gates: Mapping[str, nn.Module], patches: Mapping[str, Tensor], strength: Tensor
) -> Iterator[None]:
    """Inside, blocks of the denoiser read patches behind their self-attentions.

    Args:
        denoiser: with the blocks.
        gates: `GatedPatches` by the block's path.
        patches: `b m width` by the same paths.
        strength: `b`, how much a row's patches count.
    """
    handles = []
    try:
        for path, gate in gates.items():
            block = denoiser.get_submodule(path)
            between = _Between(gate, patches[path], strength[:, None, None])
            handles.append(block.norm1.register_forward_pre_hook(between.keep))  # type: ignore[union-attr]
            handles.append(block.attn1.register_forward_hook(between.add))  # type: ignore[union-attr]
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Between:
    """A gated layer behind a self-attention: it reads what the block holds after it, and adds to its output."""

    def __init__(self, gate: nn.Module, patches: Tensor, counted: Tensor) -> None:
        self.gate, self.patches, self.counted = gate, patches, counted
        self._cells: Tensor | None = None

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Before the block's first norm."""
        self._cells = inputs[0]

    def add(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """After the self-attention."""
        cells, self._cells = self._cells, None
        assert cells is not None, "a block attends to itself after its first norm"
        added = self.gate(cells + output, self.patches) * self.counted
        return output + added.to(output.dtype)
