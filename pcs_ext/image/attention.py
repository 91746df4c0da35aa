"""Programs on attention: read or change what chosen attention modules compute, and leave no trace."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.cpu_attention import attend
from pcs_ext.image.backbones.token_grid import token_grid

AttentionProgram = Callable[[str, Tensor], Tensor]
"""`(module path, what is there) -> what goes on from there`, of the same shape. Differentiable. By place:

scores          `b heads queries keys`, before the softmax
probabilities   `b heads queries keys`, each row summing to 1
queries, keys, values   `b tokens d`, all heads side by side; keys and values may gain the same number of tokens
output          `b queries d`, after the output projection, before the residual sum"""
Place = Literal["scores", "probabilities", "queries", "keys", "values", "output"]
_PROJECTIONS = {"queries": "to_q", "keys": "to_k", "values": "to_v"}


@contextlib.contextmanager
def attention_program(
    backbone: AbstractBackbone,
    program: AttentionProgram,
    paths: Sequence[str] | None = None,
    *,
    at: Place = "probabilities",
) -> Iterator[None]:
    """Inside, what the chosen attentions compute passes through `program`; afterwards all is as before.

    Programs nest: the inner one receives what the outer one made. On scores and probabilities the attention is
    written out in plain matrix products, which differs from the fused kernel by rounding; elsewhere the fused kernel
    stays, and a program that returns its input changes no bit.

    Args:
        backbone: its denoiser's attentions are meant.
        program: reads, or returns something else.
        paths: of the attentions; None: all text cross-attentions (`self_attention_paths` has the others).
        at: where in the attention.

    Raises:
        UsageError: a path is no attention of the denoiser.
    """
    modules = {
        path: _attention(backbone, path) for path in (backbone.cross_attention_paths() if paths is None else paths)
    }
    if at in ("scores", "probabilities"):
        with _written_out(modules, program, at):
            yield
        return
    handles: list[RemovableHandle] = []
    try:
        for path, module in modules.items():
            seen = module.get_submodule(_PROJECTIONS[at]) if at in _PROJECTIONS else module
            handles.append(seen.register_forward_hook(_passing(program, path)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def self_attention_paths(backbone: AbstractBackbone) -> tuple[str, ...]:
    """Module paths of the self-attentions that stand before the text cross-attentions, in forward order."""
    return tuple(path.removesuffix("attn2") + "attn1" for path in backbone.cross_attention_paths())


def decoder_paths(paths: Sequence[str]) -> tuple[str, ...]:
    """Those of the paths that lie in the decoder half."""
    return tuple(path for path in paths if path.startswith("up_blocks."))


def path_level(backbone: AbstractBackbone, path: str) -> int:
    """How often the latents were halved where an attention stands: 0 at their own size."""
    levels = len(backbone.denoiser.config["block_out_channels"])
    block = path.split(".")
    number = int(block[1]) if block[1].isdigit() else 0
    return {"down_blocks": number, "mid_block": levels - 1}.get(block[0], levels - 1 - number)


def path_grid(backbone: AbstractBackbone, path: str, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of cells that an attention sees, for latents of `size` (rows, columns)."""
    level = path_level(backbone, path)
    return tuple(math.ceil(side / 2**level) for side in size)  # type: ignore[return-value]


class AttentionMaps:
    """A program that keeps where each word looks: text cross-attention averaged over heads, modules and calls.

    Args:
        side: maps are resized to this many cells along the shorter side before they are averaged.
        rows: which of the batch to keep, for instance the conditional half under guidance; None keeps all.
        size: rows and columns of the latents; None: square ones.
        exact: keep the coarsest maps of at least this side as they are, and pass over the others: those of this side
            on a base at 512 pixels, and the like of them on larger ones, which have other sides.
    """

    def __init__(
        self, side: int = 16, rows: slice | None = None, size: tuple[int, int] | None = None, *, exact: bool = False
    ) -> None:
        self.side, self.rows, self.size, self.exact = side, rows or slice(None), size, exact
        self.calls = 0
        self._sum: Tensor | None = None
        self._kept: tuple[int, int] | None = None

    def __call__(self, path: str, probabilities: Tensor) -> Tensor:
        b, _, queries, keys = probabilities.shape
        cells = token_grid(queries, self.size or _square(path, queries))
        if self.exact and not self._wants(cells):
            return probabilities
        maps = probabilities.mean(1).transpose(1, 2).reshape(b, keys, *cells)[self.rows].float()
        if not self.exact:
            maps = torch.nn.functional.interpolate(maps, size=self._shape(), mode="bilinear")
        self._sum = maps if self._sum is None else self._sum + maps
        self.calls += 1
        return probabilities

    def _wants(self, cells: tuple[int, int]) -> bool:
        """Whether maps of so many cells are kept; coarser ones than before take the place of those."""
        if min(cells) < self.side:
            return False
        if self._kept is None or min(cells) < min(self._kept):
            self._kept, self._sum, self.calls = cells, None, 0
        return cells == self._kept

    def _shape(self) -> tuple[int, int]:
        rows, columns = self.size or (1, 1)
        short = min(rows, columns)
        return round(self.side * rows / short), round(self.side * columns / short)

    def maps(self) -> Tensor:
        """Mean maps `b tokens rows columns`; over tokens they sum to 1 in every cell. Differentiable.

        Raises:
            UsageError: nothing was denoised inside the program.
        """
        if self._sum is None:
            raise UsageError(
                f"no attention of {self.side} x {self.side} cells or more was recorded; choose a smaller side."
                if self.exact
                else "no attention was recorded: run the denoiser inside attention_program first."
            )
        return self._sum / self.calls


class TokenMeans:
    """A program that keeps how much each word is looked at: attention averaged over heads, cells and modules."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def __call__(self, path: str, probabilities: Tensor) -> Tensor:
        total = probabilities.float().sum((1, 2))
        self._sum = total if self._sum is None else self._sum + total
        self._count += probabilities.shape[1] * probabilities.shape[2]
        return probabilities

    def means(self) -> Tensor:
        """`b tokens`, summing to 1 over tokens. Differentiable."""
        assert self._sum is not None, "run the denoiser inside attention_program first"
        return self._sum / self._count


def _square(path: str, queries: int) -> tuple[int, int]:
    side = math.isqrt(queries)
    assert side * side == queries, f"{path} attends over {queries} cells: give the size of latents that are not square"
    return side, side


def _attention(backbone: AbstractBackbone, path: str) -> Any:
    try:
        module = backbone.denoiser.get_submodule(path)
    except AttributeError:
        module = None
    if not hasattr(module, "to_q"):
        known = ", ".join(backbone.cross_attention_paths()[:2])
        raise UsageError(f"{path!r} is no module of {backbone.name} that attends; expected one like {known}.") from None
    return module


def _passing(program: AttentionProgram, path: str):
    def hook(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return program(path, output)

    return hook


class HeadAddition(Protocol):
    """What joins every head of an attention: `r` more numbers per query, key and value, and what they are read out to.

    A head's scores become q k^T + q' k'^T, scaled as before, and the output gains the read-out of the mixed v'.
    """

    scale: float
    """0 takes no part."""

    def project(self, hidden: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of `hidden` `b n d`, keys and values of `states` `b m d'`: `b heads n r`, twice `b heads m r`."""
        ...

    def read_out(self, mixed: Tensor) -> Tensor:
        """Mixed values `b heads n r` -> `b n d`, added after the output projection."""
        ...


def add_to_heads(backbone: AbstractBackbone, path: str, addition: HeadAddition) -> None:
    """Let an addition join the attention at `path`, with the programs that come later and with other additions."""
    module = _attention(backbone, path)
    if not isinstance(module.processor, _Programmed):
        module.processor = _Programmed(path, (), [], module.processor)
    assert not module.processor.programs, "additions join outside of programs"
    module.processor.additions.append(addition)


def remove_from_heads(backbone: AbstractBackbone, path: str, addition: HeadAddition) -> None:
    """Take an addition out; after the last, the attention computes as before it came."""
    module = _attention(backbone, path)
    module.processor.additions.remove(addition)
    if not module.processor.additions:
        module.processor = module.processor.before


@contextlib.contextmanager
def _written_out(modules: dict[str, Any], program: AttentionProgram, at: Place) -> Iterator[None]:
    before = {path: module.processor for path, module in modules.items()}
    try:
        for path, module in modules.items():
            outer = before[path] if isinstance(before[path], _Programmed) else _Programmed(path, (), [], before[path])
            module.processor = _Programmed(path, (*outer.programs, (at, program)), outer.additions, outer.before)
        yield
    finally:
        for path, module in modules.items():
            module.processor = before[path]


class _Programmed:
    """Attention with additions to its heads, and with programs on scores and probabilities.

    With programs it is written out in plain matrix products, as diffusers' AttnProcessor; with additions alone it is
    the fused kernel's; with neither, `before`'s.
    """

    def __init__(
        self,
        path: str,
        programs: tuple[tuple[Place, AttentionProgram], ...],
        additions: list[HeadAddition],
        before: Any,
    ) -> None:
        self.path, self.programs, self.additions, self.before = path, programs, additions, before

    def __call__(
        self,
        attention: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        additions = [addition for addition in self.additions if addition.scale != 0]
        if not self.programs and not additions:
            return self.before(attention, hidden_states, encoder_hidden_states, attention_mask, temb, **options)
        states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = (attention.to_q(hidden_states), attention.to_k(states), attention.to_v(states))
        heads = [x.unflatten(2, (attention.heads, -1)).transpose(1, 2) for x in projected]
        more = [addition.project(hidden_states, states) for addition in additions]
        joined = [torch.cat([x, *(parts[i] for parts in more)], -1) if more else x for i, x in enumerate(heads)]
        query, key, value = joined
        mask = attention.prepare_attention_mask(attention_mask, states.shape[1], hidden_states.shape[0])
        if not self.programs and mask is None:
            mixed = attend(query, key, value, attention.scale)
        else:
            probabilities = self._probabilities(attention, query.flatten(0, 1), key.flatten(0, 1), mask, len(query))
            mixed = probabilities.to(value.dtype) @ value
        own, *others = mixed.split([heads[2].shape[-1], *(parts[2].shape[-1] for parts in more)], -1)
        out = attention.to_out[1](attention.to_out[0](own.transpose(1, 2).flatten(2)))
        for addition, part in zip(additions, others, strict=True):
            out = out + addition.read_out(part)
        if attention.residual_connection:
            out = out + hidden_states
        return out / attention.rescale_output_factor

    def _probabilities(self, attention: Any, query: Tensor, key: Tensor, mask: Tensor | None, batch: int) -> Tensor:
        """`b heads queries keys`."""
        scored = self._at("scores")
        if not scored:
            probabilities = attention.get_attention_scores(query, key, mask)
            probabilities = probabilities.unflatten(0, (batch, attention.heads))
        else:
            # In float32: a score that a program moved far would overflow in half precision.
            scores = attention.scale * (query.float() @ key.float().transpose(-1, -2))
            scores = (scores if mask is None else scores + mask).unflatten(0, (batch, attention.heads))
            for program in scored:
                scores = program(self.path, scores)
            probabilities = scores.softmax(-1).to(query.dtype)
        for program in self._at("probabilities"):
            probabilities = program(self.path, probabilities)
        return probabilities

    def _at(self, at: Place) -> list[AttentionProgram]:
        return [program for place, program in self.programs if place == at]
