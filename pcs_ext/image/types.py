"""The values the core passes around. Axes: b batch, c channels, h w pixels or latent cells, n tokens, d width."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pcs_ext.image.cameras import Cameras

LayerStates = Callable[[Tensor, str], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoupled:
    """Something that is attended to beside the text."""

    pairs: Mapping[str, tuple[Tensor, Tensor]]
    """Module path -> keys and values, `b m d` each, all heads side by side, after their projections."""
    gate: Tensor | None = None
    """`b n`, 1 at the tokens of a word: what is found counts as much as a cell looks at that word, where the cell that
    looks at it most has 1 (ELITE, arXiv 2302.13848, eq. 6); None: everywhere alike."""
    above: float | None = None
    """Beside a gate: cells count 1 or 0, by whether their look lies above this share of the way from the picture's
    least to its largest (MS-Diffusion, arXiv 2406.07209); None: as much as they look."""
    where: Tensor | None = None
    """`b m rows columns`, on the latents' grid: 1 where cells may attend to each of the `m` tokens, 0 where they may
    not. Cells that may attend to none find nothing. None: all may attend to all."""
    there: Tensor | None = None
    """`b m`: 1 for tokens that may be attended to, 0 for those that are passed over by all cells; rows of zeros find
    nothing. Not beside `where` or `joint`. None: all are there."""
    weight: Tensor | None = None
    """`b rows columns`, on the latents' grid: how much of what is found counts in every cell; not beside `joint`. None:
    all of it in all."""
    joint: Tensor | None = None
    """`b`: text and these tokens share one softmax, in which each of the tokens weighs so much, 1 as a word does, 0 in
    rows that have none; or `b m`, each token by itself; None: what is found is added."""

    def __getitem__(self, index: Tensor) -> "Decoupled":
        """The same for some rows of the batch."""

        def rows(tensor: Tensor | None) -> Any:
            return None if tensor is None else tensor[index.to(tensor.device)]

        pairs = {path: (rows(keys), rows(values)) for path, (keys, values) in self.pairs.items()}
        return dataclasses.replace(self, pairs=pairs, **{name: rows(getattr(self, name)) for name in _ROW_BY_ROW})


_ROW_BY_ROW = ("gate", "where", "there", "weight", "joint")
"""Fields of `Decoupled` that hold something for every row of a batch, or nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What a prompt batch becomes for the denoiser.

    Most concepts condition every layer at every timestep with the same `states`. Concepts that do not (P+, NeTI,
    ProSpect) set `per_layer`; the backbone asks it by cross-attention module path, never by counting calls, so that
    activation checkpointing and batched guidance cannot shift the count.
    """

    states: Tensor
    """Text states, `b n d`."""
    pooled: Tensor | None = None
    """Pooled text embedding, `b d2` (SDXL)."""
    time_ids: Tensor | None = None
    """Size conditioning, `b 6`: original height, width, crop top, left, target height, width in pixels (SDXL)."""
    per_layer: LayerStates | None = None
    """`(timesteps b, module path) -> (key states b n d, value states b n d)`; None: `states` everywhere."""
    deviation: Tensor | None = None
    """`b n d`: prompts are normal distributions around `states` with this standard deviation, 0 for those that are
    not (DreamDistribution); None: none is. Who does not draw uses their means."""
    marks: Mapping[str, Tensor] | None = None
    """By adapter, the tokens it acts on inside the denoiser, `b n`, 1 or 0; None: none does."""
    plain: "Conditioning | None" = None
    """The same prompts without what they say of a style, where the style is guidance (Pair Customization)."""
    styled: Tensor | None = None
    """`b` bool: which rows of `plain` differ; None where that is None."""
    decoupled: tuple[Decoupled, ...] = ()
    """What the queries of text cross-attentions attend to besides, each source by itself: what they find there is added
    to what they find in the text (IP-Adapter, arXiv 2308.06721, eq. 5)."""
    shown: Mapping[str, Tensor] | None = None
    """By adapter, what it reads of pictures inside the denoiser, `b m d`; zeros in rows that were shown none; None: no
    row was shown any."""

    @property
    def batch_size(self) -> int:
        """Number of prompts."""
        return self.states.shape[0]

    def at(self, timesteps: Tensor, module_path: str) -> tuple[Tensor, Tensor]:
        """Key and value states, `b n d` each, of one cross-attention module at the given timesteps `b`."""
        if self.per_layer is None:
            return self.states, self.states
        return self.per_layer(timesteps, module_path)

    def marked(self, marks: Mapping[str, Tensor]) -> "Conditioning":
        """The same with marks beside those that are there."""
        return dataclasses.replace(self, marks={**(self.marks or {}), **marks})

    def with_plain(self, plain: "Conditioning", styled: Tensor) -> "Conditioning":
        """The same with the prompts without their style beside it."""
        return dataclasses.replace(self, plain=plain, styled=styled)

    def drawn(self, noise: Tensor) -> "Conditioning":
        """One prompt of each distribution.

        Args:
            noise: unit normal numbers, `b n d`.
        """
        assert self.deviation is not None, "these prompts are no distributions"
        assert self.per_layer is None, "a distribution of prompts has one state for all layers and timesteps"
        states = self.states + self.deviation * noise.to(self.states)
        return dataclasses.replace(self, states=states, deviation=None)

    def __getitem__(self, index: slice | Tensor | list[int]) -> "Conditioning":
        """The same conditioning for some rows of the batch."""
        # Numbers of rows may come from an accelerator, whose tensors no tensor of the CPU is indexed with.
        rows = torch.arange(self.batch_size)[index.cpu() if isinstance(index, Tensor) else index]

        def some(tensor: Tensor) -> Tensor:
            return tensor[rows.to(tensor.device)]

        def some_if_any(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else some(tensor)

        return Conditioning(
            states=some(self.states),
            pooled=some_if_any(self.pooled),
            time_ids=some_if_any(self.time_ids),
            per_layer=None if self.per_layer is None else _layers_of(rows, self.per_layer, self.batch_size),
            deviation=some_if_any(self.deviation),
            marks=None if self.marks is None else {name: some(mark) for name, mark in self.marks.items()},
            plain=None if self.plain is None else self.plain[index],
            styled=some_if_any(self.styled),
            decoupled=tuple(source[rows] for source in self.decoupled),
            shown=None if self.shown is None else {name: some(read) for name, read in self.shown.items()},
        )

    def with_states(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        """The same with `change` (`b n d` to the same) done to all text states, those of single layers too."""
        inner = self.per_layer

        def changed(timesteps: Tensor, module_path: str) -> tuple[Tensor, Tensor]:
            assert inner is not None
            keys, values = inner(timesteps, module_path)
            return change(keys), change(values)

        return dataclasses.replace(self, states=change(self.states), per_layer=None if inner is None else changed)

    def beside(self, source: Decoupled) -> "Conditioning":
        """The same with one source more that is attended to beside the text."""
        return dataclasses.replace(self, decoupled=(*self.decoupled, source))

    @staticmethod
    def cat(parts: "list[Conditioning]") -> "Conditioning":
        """Stack several conditionings along the batch (guidance runs them in one pass)."""
        has_plain = any(part.plain is not None for part in parts)
        return Conditioning(
            states=torch.cat([part.states for part in parts]),
            pooled=_cat_all_or_none([part.pooled for part in parts]),
            time_ids=_cat_all_or_none([part.time_ids for part in parts]),
            per_layer=_stacked_layers(parts) if any(part.per_layer is not None for part in parts) else None,
            deviation=_cat_filled([(part.deviation, torch.zeros_like(part.states)) for part in parts]),
            marks=_cat_marks(parts),
            plain=Conditioning.cat([part.plain or part for part in parts]) if has_plain else None,
            styled=_cat_filled([(part.styled, torch.zeros(part.batch_size, dtype=torch.bool)) for part in parts]),
            decoupled=_cat_decoupled(parts),
            shown=_cat_shown(parts),
        )


def _layers_of(rows: Tensor, per_layer: LayerStates, batch_size: int) -> LayerStates:
    """States of single layers for some rows of a batch."""

    def picked(timesteps: Tensor, module_path: str) -> tuple[Tensor, Tensor]:
        # A row's states depend on that row's timestep alone: the others get any valid one.
        full = timesteps.new_full((batch_size,), int(timesteps[0]))
        full[rows.to(full.device)] = timesteps
        keys, values = per_layer(full, module_path)
        return keys[rows.to(keys.device)], values[rows.to(values.device)]

    return picked


def _stacked_layers(parts: list[Conditioning]) -> LayerStates:
    """States of single layers for all rows of several conditionings."""
    sizes = [part.batch_size for part in parts]

    def stacked(timesteps: Tensor, module_path: str) -> tuple[Tensor, Tensor]:
        pairs = [part.at(own, module_path) for part, own in zip(parts, timesteps.split(sizes), strict=True)]
        keys, values = (
            torch.cat([states.expand(size, -1, -1) for states, size in zip(side, sizes, strict=True)])
            for side in zip(*pairs, strict=True)
        )
        return keys, values

    return stacked


def _cat_filled(pairs: list[tuple[Tensor | None, Tensor]]) -> Tensor | None:
    """Tensors along the batch, the second of a pair where there is no first; None if there is none at all."""
    if all(tensor is None for tensor, _ in pairs):
        return None
    return torch.cat([empty if tensor is None else tensor for tensor, empty in pairs])


def _cat_all_or_none(tensors: list[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    assert len(present) in (0, len(tensors)), "some parts have the field and some do not"
    return torch.cat(present) if present else None


def _cat_marks(parts: list[Conditioning]) -> dict[str, Tensor] | None:
    names = dict.fromkeys(name for part in parts for name in part.marks or ())
    found = {
        name: _cat_filled([((part.marks or {}).get(name), torch.zeros(part.states.shape[:2])) for part in parts])
        for name in names
    }
    return {name: mark for name, mark in found.items() if mark is not None} or None


def _cat_decoupled(parts: list[Conditioning]) -> tuple[Decoupled, ...]:
    """Sources side by side; parts that lack one attend to zeros there, which adds nothing."""
    fullest = max((part.decoupled for part in parts), key=len)

    def stacked(index: int, path: str) -> tuple[Tensor, Tensor]:
        some = fullest[index].pairs[path]
        pairs = [
            part.decoupled[index].pairs[path]
            if index < len(part.decoupled)
            else tuple(tensor.new_zeros(part.batch_size, *tensor.shape[1:]) for tensor in some)
            for part in parts
        ]
        keys, values = zip(*pairs, strict=True)
        assert len({key.shape[1:] for key in keys}) == 1, "parts that are stacked attend to equally many tokens"
        return torch.cat(keys), torch.cat(values)

    def filled(index: int, name: str) -> Tensor | None:
        some = getattr(fullest[index], name)
        if some is None:
            return None
        known = [getattr(part.decoupled[index], name) if index < len(part.decoupled) else None for part in parts]
        return _cat_filled(
            [(k, some.new_zeros(p.batch_size, *some.shape[1:])) for k, p in zip(known, parts, strict=True)]
        )

    return tuple(
        dataclasses.replace(
            source,
            pairs={path: stacked(index, path) for path in source.pairs},
            **{name: filled(index, name) for name in _ROW_BY_ROW},
        )
        for index, source in enumerate(fullest)
    )


def _cat_shown(parts: list[Conditioning]) -> dict[str, Tensor] | None:
    some = {name: read for part in parts for name, read in (part.shown or {}).items()}
    if not some:
        return None
    return {
        name: torch.cat([(p.shown or {}).get(name, read.new_zeros(p.batch_size, *read.shape[1:])) for p in parts])
        for name, read in some.items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """One training batch of photos (or class images) with their captions."""

    images: Tensor
    """`b 3 h w` in [-1, 1]."""
    captions: tuple[str, ...]
    """`b` captions, placeholders already replaced by the concept's words."""
    masks: Tensor | None = None
    """Where the subject is, `b 1 h w` in [0, 1]; None: everywhere."""
    part_masks: Tensor | None = None
    """Where each of several subjects is, `b k h w` in [0, 1], in the concept's order; None: there is one."""
    valid: Tensor | None = None
    """Which pixels are photo and not padding, `b 1 h w` in {0, 1}; None: all."""
    is_prior: Tensor | None = None
    """`b` bool, true for class images of prior preservation; None: none is."""
    keys: tuple[str, ...] | None = None
    """`b` names of (image, augmentation): equal keys have equal pixels, so latents may be cached by them."""
    features: Tensor | None = None
    """What an image encoder makes of the images, `b d`, for adapters that look at them; None: nobody does."""
    weights: Tensor | None = None
    """What each counts in the loss, `b`; None: all alike."""
    before: Tensor | None = None
    """The images before something was done to them, `b 3 h w` in [-1, 1]; None: not known for all."""
    cameras: Cameras | None = None
    """What took the photos, as many as there are photos, which stand before class images; of what is shown of them.
    None: not known."""
    guides: Tensor | None = None
    """Where each of several subjects is, `b k h w` in [0, 1], as adapters are told it; zeros in rows whose adapters
    are told nothing. None: none is."""


@dataclasses.dataclass(frozen=True)
class LossTerms:
    """Named scalar terms of a loss, already weighted: `total` is their sum and what is differentiated."""

    terms: Mapping[str, Tensor]

    @property
    def total(self) -> Tensor:
        """Sum of the terms (0-d), on the first one's device: what a model on an accelerator says stands beside what is
        computed on the CPU."""
        values = [term.reshape(()) for term in self.terms.values()]
        return torch.stack([value.to(values[0].device) for value in values]).sum()

    def __add__(self, other: "LossTerms") -> "LossTerms":
        doubled = self.terms.keys() & other.terms.keys()
        assert not doubled, f"two losses name a term alike: {sorted(doubled)}"
        return LossTerms({**self.terms, **other.terms})

    def scaled(self, weight: float) -> "LossTerms":
        """All terms times `weight`."""
        return LossTerms({name: weight * term for name, term in self.terms.items()})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that share optimiser settings. The name appears in checkpoints and logs."""

    name: str
    parameters: tuple[torch.nn.Parameter, ...]
    learning_rate: float
    weight_decay: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FitState:
    """What `fit` yields after each optimiser step.

    Its measured numbers stay on the device until one of them is asked for; then all come over in one transfer.
    """

    step: int
    """Steps done, 1 after the first."""
    total_steps: int
    learning_rate: float
    """Of the first group, in this step."""
    terms: tuple[str, ...]
    """Names of the loss terms."""
    numbers: Tensor
    """float32: the terms, their total, the gradient norm, and 1 for a step that was skipped."""

    @functools.cached_property
    def _values(self) -> list[float]:
        return self.numbers.tolist()

    @property
    def losses(self) -> dict[str, float]:
        """The terms of this step, averaged over its micro-batches, and `total`."""
        names = (*self.terms, "total")
        return dict(zip(names, self._values[: len(names)], strict=True))

    @property
    def gradient_norm(self) -> float:
        """Before clipping. Of an evolution strategy, which has none, its step size."""
        return self._values[-2]

    @property
    def skipped(self) -> bool:
        """The step was skipped because a loss or gradient was not finite."""
        return bool(self._values[-1])
