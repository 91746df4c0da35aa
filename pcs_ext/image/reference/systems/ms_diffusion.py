"""MS-Diffusion (Wang et al. 2024, arXiv 2406.07209): several subjects, each held to a place of its own.

A grounding resampler asks each picture's patches with queries that are made of the subject's word and of the box where
it shall stand. In every text cross-attention a cell attends to the tokens of those subjects whose box it lies in.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, check_context, context_width
from pcs_ext.image.reference.beside import PictureMaps
from pcs_ext.image.reference.boxes import BoxFeatures, cells_in, known_boxes
from pcs_ext.image.reference.projection import Resampler
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning, Decoupled


@config
class MSDiffusionConfig:
    """A grounding resampler, and maps that are held to boxes. Defaults are the released code's for SDXL."""

    kind: Literal["ms-diffusion"] = "ms-diffusion"
    """Tag in JSON."""
    tokens: int = 16
    """That stand for a picture."""
    inner: int = 1280
    """Width inside the resampler."""
    attention: int = 1280
    """Of all heads of its attention together, a multiple of 64."""
    depth: int = 4
    """Its blocks."""
    strength: float = 0.6
    """Of what is found in pictures, in use; 1 in training."""
    above: float = 0.5
    """Where no box is said, cells count that look at the subject's word by more than this share."""
    unplaced: float = 0.1
    """Share of training pairs whose boxes are kept back. Ours: the released code's is not told."""

    def __post_init__(self) -> None:
        if min(self.tokens, self.inner, self.depth) < 1 or self.attention < 64 or self.attention % 64:
            raise ConfigError("tokens, inner and depth must be at least 1, and attention a multiple of 64.")
        if self.strength < 0 or not 0 <= self.above < 1 or not 0 <= self.unplaced <= 1:
            raise ConfigError(
                "strength must not be negative, above in [0, 1) and unplaced a share, got "
                f"{self.strength}, {self.above} and {self.unplaced}."
            )


class GroundingResampler(Resampler):
    """A resampler whose queries are made of a phrase and a box (section 3.3); learned ones where no box is known.

    Args:
        width: of the patches' vectors.
        context: width of text states, and of phrases.
        config: of the adapter.
    """

    def __init__(self, width: int, context: int, config: MSDiffusionConfig) -> None:
        super().__init__(
            width, context, config.tokens, inner=config.inner, attention=config.attention, depth=config.depth
        )
        self.features = BoxFeatures()
        entering = context + self.features.width
        self.ground = nn.Sequential(
            nn.Linear(entering, 2 * entering), nn.GELU(), nn.Linear(2 * entering, config.tokens * config.inner)
        )
        self.ground_norm = nn.LayerNorm(config.inner)

    def queries(self, phrases: Tensor, boxes: Tensor) -> Tensor:
        """`b context` and `b 4` -> `b tokens inner`."""
        told = torch.cat([phrases, self.features(boxes).to(phrases)], dim=-1)
        grounded = self.ground_norm(self.ground(told).unflatten(1, (self.tokens, -1)))
        return torch.where(known_boxes(boxes)[:, None, None], grounded, self.latents)


class MSDiffusion(AbstractReferenceAdapter):
    """The resampler and the maps.

    Differs from MS-Diffusion in that a phrase is the last state of the noun alone, not a pooled embedding, and that
    another picture of the subject is shown than the one that is drawn. Where no box is said, its layout comes from
    where cells look at the word in the same layer and step, from the first step on; the released code takes the mean of
    the steps so far, from the fifth on.

    Args:
        config: of the adapter.
        width: of the image encoder's patches.
        maps: of every text cross-attention.
        context: of text states.
    """

    sees: Sees = "patches"
    asks_noun = True
    asks_masks = True
    asks_boxes = True
    several = True

    def __init__(self, config: MSDiffusionConfig, width: int, maps: PictureMaps, context: int) -> None:
        super().__init__()
        self.config, self.width, self.context, self.unplaced = config, width, context, config.unplaced
        self.resampler = GroundingResampler(width, context, config)
        self.maps = maps

    @classmethod
    def untrained(
        cls, config: MSDiffusionConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "MSDiffusion":
        """Maps begin as the text's own."""
        return cls(config, reading.width, PictureMaps.like_the_texts(backbone), context_width(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("ms-diffusion", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Pictures of one noun share its place."""
        told, present = asked.encoded(), asked.present
        if not present.any():
            return told
        like = next(self.parameters())
        features = asked.shown.to(like).sight.features
        given = asked.shown.boxes
        boxes = (
            torch.zeros(*features.shape[:2], 4, device=like.device) if given is None else given.float().to(like.device)
        )
        queries = self.resampler.queries(asked.noun_states().to(like).flatten(0, 1), boxes.flatten(0, 1))
        tokens = self.resampler(features.flatten(0, 1), queries).unflatten(0, features.shape[:2])
        strength = asked.scale * (1.0 if self.training else self.config.strength)
        placed = present & known_boxes(boxes)
        if bool(placed.any()):
            told = told.beside(self._in_boxes(asked, tokens, boxes * placed.unsqueeze(-1), strength))
        if bool((present & ~placed).any()):
            for source in self._at_words(asked, tokens, present & ~placed, strength):
                told = told.beside(source)
        return told

    def _in_boxes(self, asked: Asked, tokens: Tensor, boxes: Tensor, strength: float) -> Decoupled:
        """All pictures in one softmax, each open to the cells of its box (section 3.4)."""
        cells = cells_in(boxes, *asked.grid).repeat_interleave(self.config.tokens, dim=1)
        return Decoupled(pairs=self.maps(tokens.flatten(1, 2), strength), where=cells)

    def _at_words(self, asked: Asked, tokens: Tensor, counted: Tensor, strength: float) -> list[Decoupled]:
        """Each picture by itself, in the cells that look at its word."""
        sources = []
        for index in range(tokens.shape[1]):
            gate = asked.noun_gate(index) * counted[:, index, None]
            # Pictures of one noun are averaged: added, two photos of a subject would count twice as much.
            alike = torch.tensor([own.count(own[index]) for own in asked.shown.nouns], device=tokens.device)
            share = strength / alike.to(tokens)[:, None, None]
            sources.append(Decoupled(pairs=self.maps(tokens[:, index], share), gate=gate, above=self.config.above))
        return sources
