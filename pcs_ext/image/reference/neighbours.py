"""Pictures with captions as neighbours of what is drawn (Re-Imagen, Chen et al. 2022, arXiv 2209.14491, section 3.2).

The denoiser's own downward half reads every neighbour, without noise and with its caption as the text. Where it is done
with the picture that is drawn, that attends to what it holds of the neighbours; the upward half goes on from there.
"""

import abc
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.added_attention import AddedAttention
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import check_context
from pcs_ext.image.reference.entering import entering
from pcs_ext.image.reference.inside import answering
from pcs_ext.image.reference.second_denoiser import LATENTS, References, references_of, with_references
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.reference.turns import AbstractTurnsAdapter, seen_by_both
from pcs_ext.image.types import Conditioning


class AbstractNeighbours(AbstractTurnsAdapter, abc.ABC):
    """The attention to neighbours, and the denoiser, which is trained with it.

    In use guidance takes turns: away from the same neighbours without the prompt's words, and away from the prompt
    without neighbours (interleaved guidance, section 3.3). Both have the sampling's strength, where the paper's have
    one each.

    Args:
        name: of its kind.
        turns: share of the steps whose guidance goes away from what has no neighbours.
        heads: of the attention.
        width: of what the denoiser's downward half puts out.
        channels: of the latents.
        context: of text states.
    """

    sees: Sees = "latents"
    asks_captions = True
    drawn_as = "neighbours"
    in_steps = "lets guidance go away from the words and from the photos by turns, step after step"

    def __init__(self, name: str, turns: float, heads: int, width: int, channels: int, context: int) -> None:
        super().__init__()
        self.name, self.turns, self.width, self.context = name, turns, channels, context
        self.attention = AddedAttention(width, width, heads, norms_tokens=True)
        self.inside = (FullAdapter("reference", FullConfig(components=("denoiser",))),)

    @property
    def pictures_share(self) -> float:
        """See `AbstractTurnsAdapter.pictures_share`."""
        return self.turns

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context(self.name, self.context, backbone)

    def there(self, asked: Asked) -> list[bool]:
        """Which rows have neighbours."""
        return asked.named if self.asks_noun else asked.shown.rows

    def said(self, asked: Asked) -> list[str]:
        """What every neighbour shows in words: its caption, else its noun, where it has one."""
        shown, count = asked.shown, asked.shown.sight.features.shape[1]
        captions = shown.captions or (("",) * count,) * len(asked.prompts)
        nouns = shown.nouns or (("",) * count,) * len(asked.prompts)
        pairs = zip(sum(captions, ()), sum(nouns, ()), strict=True)
        return [caption or (f"a photo of the {noun}" if noun else "") for caption, noun in pairs]

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. The text is the prompts' own; what is returned also holds the
        neighbours' latents and captions, for the denoiser inside `inserted`."""
        there = self.there(asked)
        if not any(there):
            return asked.encoded()
        latents = asked.shown.to(next(self.parameters())).sight.features
        counted = asked.scale * torch.tensor(there, device=latents.device)
        return with_references(asked.encoded(), latents, counted, asked.encoded(self.said(asked)))

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: neighbours are attended to whenever the denoiser is asked."""
        with super().inserted(backbone, scale), answering(backbone, LATENTS, self._answered(backbone)):
            yield

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            if self.guided(noisy):
                conditioning = interleaved(conditioning, self._guided, neighbours_turn=self._turn)
            given = references_of(conditioning, self.width)
            if given is None:
                return predict(noisy, timesteps, conditioning)
            held = bottleneck(backbone, predict, given)
            with augmented(backbone.denoiser, self.attention, given.rows, held, given.counted):
                return predict(noisy, timesteps, conditioning)

        return answered


def interleaved(conditioning: Conditioning, count: int, *, neighbours_turn: bool) -> Conditioning:
    """A guided batch whose negative rows, the first `count`, are what guidance goes away from this time.

    Args:
        conditioning: of the negative rows and the positive ones behind them.
        count: of each.
        neighbours_turn: go away from the prompts without neighbours; else from the neighbours without prompts.
    """
    if not neighbours_turn:
        return seen_by_both(conditioning, count, (LATENTS,))
    positive = conditioning[list(range(count, 2 * count))]
    emptied = {name: read * (not name.startswith(LATENTS)) for name, read in (positive.shown or {}).items()}
    return Conditioning.cat([dataclasses.replace(positive, shown=emptied or None), positive])


def bottleneck(backbone: AbstractBackbone, predict: Predict, given: References) -> Tensor:
    """What the denoiser's downward half puts out for neighbours, at no noise: `m r*cells width`.

    Args:
        backbone: whose denoiser it is; whatever is in it acts.
        predict: of it.
        given: the neighbours.
    """
    flat, count = given.latents.flatten(0, 1), given.latents.shape[1]
    with entering(backbone.denoiser, ["mid_block"]) as kept:
        predict(flat, torch.zeros(len(flat), dtype=torch.long, device=flat.device), given.asked)
    return kept["mid_block"].flatten(2).transpose(1, 2).unflatten(0, (-1, count)).flatten(1, 2)


@contextlib.contextmanager
def augmented(denoiser: Any, attention: nn.Module, rows: Tensor, held: Tensor, counted: Tensor) -> Iterator[None]:
    """Inside, what enters the denoiser's middle looks at neighbours in some rows of a batch.

    Args:
        denoiser: of the base.
        attention: to neighbours.
        rows: `m` numbers in the batch.
        held: of the neighbours of these rows, `m k width`.
        counted: how much neighbours count in every row of the batch, `b`.
    """

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states, like = inputs[0], next(attention.parameters())
        at = rows.to(states.device)
        cells = states[at].flatten(2).transpose(1, 2)
        found = attention(cells.to(like), held.to(like)).transpose(1, 2).unflatten(2, states.shape[2:])
        added = counted[rows].to(found)[:, None, None, None] * found
        return (states.index_add(0, at, added.to(states.dtype)), *inputs[1:])

    handle = denoiser.mid_block.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
