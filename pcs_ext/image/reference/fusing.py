"""Pictures mixed into the encoded word that names what they show (FastComposer, arXiv 2305.10431, section 3.2)."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcs_ext.image.types import Conditioning


class FusedWord(nn.Module):
    """An embedding of a picture and the encoded word -> a state in the word's place.

    The embedding, projected to the width of text states, stands beside the word's state in a network whose output is
    added to the word's; a second one with a residual and LayerNorm follow. PhotoMaker (arXiv 2312.04461) has the same.

    Args:
        width: of the embedding.
        context: of text states.
    """

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.width, self.context = width, context
        # The papers take the encoder's own projection, which is as wide as the text; any encoder's is projected here.
        self.project = nn.Linear(width, context, bias=False)
        self.join = _mixing(2 * context, context)
        self.refine = _mixing(context, context)
        self.norm = nn.LayerNorm(context)

    def forward(self, words: Tensor, embeddings: Tensor) -> Tensor:
        """`m context` and `m width` -> `m context`."""
        joined = words + self.join(torch.cat([words, self.project(embeddings)], dim=-1))
        return self.norm(joined + self.refine(joined))


def _mixing(entering: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(entering), nn.Linear(entering, width), nn.GELU(), nn.Linear(width, width))


@dataclasses.dataclass(frozen=True)
class Places:
    """Tokens of a batch of prompts, and which picture belongs to each."""

    rows: Sequence[int]
    """Of the batch."""
    tokens: Sequence[int]
    """In that row's prompt."""
    pictures: Sequence[int]
    """Of that row."""


def fused(
    conditioning: Conditioning, places: Places, embeddings: Tensor, network: FusedWord, scale: float
) -> Conditioning:
    """The same with the pictures in the states at those places, for single layers, too.

    Args:
        conditioning: of the prompts.
        places: at least one.
        embeddings: `b r width`.
        network: mixes.
        scale: 1: the network's states, 0: the prompts' own.
    """
    device = conditioning.states.device
    rows, tokens, pictures = (
        torch.tensor(x, device=device) for x in (places.rows, places.tokens, places.pictures)
    )  # fmt: skip
    chosen = embeddings[rows, pictures].to(network.norm.weight.dtype)

    def change(states: Tensor) -> Tensor:
        words = states[rows, tokens]
        mixed = network(words.to(chosen.dtype), chosen).to(states.dtype)
        return states.index_put((rows, tokens), torch.lerp(words, mixed, scale))

    return conditioning.with_states(change)
