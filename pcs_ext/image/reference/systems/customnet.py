"""CustomNet (Yuan et al. 2023, arXiv 2310.19784): an object from another side, in a place, before a described ground.

As in Zero-1-to-3 (arXiv 2303.11328) the photo's embedding and the turn of the camera become a token, and the object's
own picture stands beside the noisy latents; here pasted into the box where it shall stand. Every cross-attention is
dual: one to the text, one to that token. The denoiser learns with it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, check_context, context_width
from pcs_ext.image.reference.beside import PictureMaps
from pcs_ext.image.reference.boxes import known_boxes
from pcs_ext.image.reference.details import pasted
from pcs_ext.image.reference.inside import Read, beside, reading
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.reference.views import TurnFeatures
from pcs_ext.image.types import Conditioning, Decoupled

_PLACED = "reference_placed_object"


@config
class CustomNetConfig:
    """A token that knows the turn, and a placed picture."""

    kind: Literal["customnet"] = "customnet"
    """Tag in JSON."""
    unplaced: float = 0.1
    """Share of training pairs that are told no box, so that nothing is pasted. Ours."""

    def __post_init__(self) -> None:
        if not 0 <= self.unplaced <= 1:
            raise ConfigError(f"unplaced must be a share, got {self.unplaced}.")


class CustomNet(AbstractReferenceAdapter):
    """The token's map, its keys and values, what reads the placed picture, and the denoiser.

    Differs from CustomNet, which begins as Zero-1-to-3 and gets keys and values for text: here a base for text gets
    those for the token. The encoder sees the whole photo with black around the object, there the object alone on white;
    backgrounds are described, and not filled around.

    Args:
        config: of the adapter.
        width: of the image encoder's embedding.
        maps: of every text cross-attention.
        context: of text states.
        channels: of the latents, and of the denoiser's first features.
        side: pixels along a picture.
    """

    sees: Sees = "embedding"
    cuts = True
    asks_masks = True
    asks_boxes = True
    asks_views = True
    details = "whole"

    def __init__(
        self,
        config: CustomNetConfig,
        width: int,
        maps: PictureMaps,
        context: int,
        channels: tuple[int, int],
        side: int,
    ) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context
        self.unplaced, self.detail_side = config.unplaced, side
        self.features = TurnFeatures()
        self.project = nn.Linear(width + self.features.width, context)
        self.maps = maps
        self.enter = nn.Conv2d(channels[0], channels[1], 3, padding=1, bias=False)
        nn.init.zeros_(self.enter.weight)
        self.inside = (FullAdapter("reference", FullConfig(components=("denoiser",))),)

    @classmethod
    def untrained(cls, config: CustomNetConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "CustomNet":
        """The denoiser is the base's, and the placed picture changes nothing yet."""
        channels = backbone.latent_channels, backbone.denoiser.conv_in.weight.shape[0]
        maps = PictureMaps.like_the_texts(backbone)
        return cls(config, reading.width, maps, context_width(backbone), channels, backbone.resolution)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("customnet", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Every photo is a token; the first one is pasted."""
        told, seen = asked.encoded(), asked.seen
        if not seen.any():
            return told
        shown = asked.shown.to(self.project.weight)
        vectors = shown.sight.object
        turns = vectors.new_zeros(*vectors.shape[:2], 3) if shown.turns is None else shown.turns.to(vectors)
        tokens = self.project(torch.cat([vectors, self.features(turns)], dim=-1))
        strength = asked.scale * seen.to(tokens)
        told = told.beside(Decoupled(pairs=self.maps(tokens, strength[:, None, None])))
        placed = self._placed_latents(asked)
        if placed is None:
            return told
        latents, known = placed
        return beside(told, _PLACED, latents.flatten(2), strength * known)

    def _placed_latents(self, asked: Asked) -> tuple[Tensor, Tensor] | None:
        """Latents of the objects in their boxes, `b c h w`, and in which rows a box is known, `b`; None: in none."""
        shown, backbone = asked.shown, asked.backbone
        if shown.boxes is None or shown.sight.detail is None:
            return None
        boxes = shown.boxes[:, 0].float().to(backbone.device)
        known = known_boxes(boxes)
        if not known.any():
            return None
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=boxes.device)
        size = asked.size or (backbone.resolution, backbone.resolution)
        with torch.no_grad():
            squares = shown.sight.detail[:, 0].float().to(backbone.device)
            canvas = pasted(squares, torch.where(known[:, None], boxes, whole), size)
            latents = backbone.encode_images(canvas.to(backbone.dtype))
        return latents.to(self.project.weight), known.to(self.project.weight)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: placed pictures are read while the denoiser predicts."""
        placed = reading(backbone, _PLACED, lambda read: self._entering(backbone, read))
        with super().inserted(backbone, scale), placed:
            yield

    @contextlib.contextmanager
    def _entering(self, backbone: AbstractBackbone, read: Read) -> Iterator[None]:
        def enter(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            # Beside the first convolution: as by channels of its own for the picture, whose weights begin at 0.
            latents = read.vectors.to(self.enter.weight).unflatten(2, output.shape[2:])
            return output + (read.strength[:, None, None, None] * self.enter(latents)).to(output.dtype)

        handle = backbone.denoiser.conv_in.register_forward_hook(enter)
        try:
            yield
        finally:
            handle.remove()
