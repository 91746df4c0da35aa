"""PE-VITON (Zhang et al. 2023, arXiv 2312.15480; IEEE TMM 2024): a garment on a person in two trained stages.

*Shape control* matches the garment to the parts of the body and says how it lies there. *Texture guidance* parses what
the garment shows and leads the denoiser, which fills the hole in the person's picture, where the garment lies. So the
garment's two attributes are learned apart.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    Terms,
    TrainingStage,
    check_context,
    context_width,
)
from pcs_ext.image.reference.beside import PictureMaps
from pcs_ext.image.reference.boxes import known_boxes
from pcs_ext.image.reference.details import collage, widened
from pcs_ext.image.reference.garment_shape import Fit, ShapeControl, bending, outline_error, texture_error
from pcs_ext.image.reference.inside import beside, entering_beside, reading
from pcs_ext.image.reference.maps import Dropping, MapKinds, channels, check_kinds
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.projection import Resampler
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.types import Conditioning, Decoupled

_ENTERS = "reference_dressed"


@config
class PEVitonConfig:
    """Two stages; all numbers are ours, as of the paper only the abstract could be read."""

    kind: Literal["pe-viton"] = "pe-viton"
    """Tag in JSON."""
    maps: MapKinds = ("pose", "segmentation")
    """Of the person, by which shape control knows the body: a skeleton, and parts in colours; empty: none."""
    drop_map: float = 0.25
    """Share of training pairs that each of them is left out of."""
    margin: float = 1.1
    """Size of the box that is hidden, times that of the garment in training, or of the hole."""
    cells: int = 16
    """Along a side of shape control's grid."""
    width: int = 128
    """Of its features."""
    shape_share: float = 0.3
    """Of the steps, in which shape control learns; in the rest it stays, and the others do."""
    outline_weight: float = 1.0
    """Of the outline's cross-entropy beside the error of the warped garment."""
    bending_weight: float = 1.0
    """Of the warp's second differences."""
    tokens: int = 16
    """That texture guidance parses the garment into, beside those of its patches."""
    inner: int = 768
    """Width of what parses."""
    depth: int = 4
    """Its blocks."""

    def __post_init__(self) -> None:
        check_kinds(self.maps)
        if min(self.cells, self.width, self.tokens, self.depth) < 1 or self.inner < 64 or self.inner % 64:
            raise ConfigError(
                "cells, width, tokens and depth must be at least 1 and inner a multiple of 64, the width of a head."
            )
        if self.margin < 1 or min(self.outline_weight, self.bending_weight) < 0:
            raise ConfigError(
                "margin must be at least 1, and outline_weight and bending_weight not negative, got "
                f"{self.margin}, {self.outline_weight} and {self.bending_weight}."
            )
        if not 0 < self.shape_share < 1 or not 0 <= self.drop_map <= 1:
            raise ConfigError(
                f"shape_share must lie between 0 and 1, drop_map be a share, got {self.shape_share}, {self.drop_map}."
            )


class PEViton(AbstractReferenceAdapter):
    """Shape control, what parses the garment, its keys and values, and the denoiser, which learns to fill holes.

    Known from the paper's abstract: pictures are the diffusion model's conditions; shape control matches the garment to
    parts of the body, so that it does not lie beside them; texture guidance parses what the garment means and guides
    the texture; and the stages part the garment's attributes. All else is ours: that the body is what is seen around
    the hole, and condition maps (the survey names a parser and a pose detector); that matching is attention from cells
    of the person to places of the garment (`ShapeControl`), learned by the warped garment's error, the outline's, and
    smoothness; that the denoiser reads beside its noisy latents those of the person in the warped garment, the hole and
    the outline; that learned queries parse the patches of a frozen image encoder, and guidance is *directed* in that
    what is found in those tokens counts in the outline's cells alone; every size and weight. Captions are read, too.
    There the person wears the garment of the picture beside it; here any subject's other photo is the garment, and in
    training the picture that is drawn the person.

    Args:
        config: of the adapter.
        backbone: whose denoiser learns.
        width: of the image encoder's patches.
    """

    sees: Sees = "patches"
    cuts = True
    asks_masks = True
    asks_boxes = True
    asks_scene = True
    details = "whole"

    def __init__(self, config: PEVitonConfig, backbone: AbstractBackbone, width: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context_width(backbone)
        self.map_kinds, self.detail_side = config.maps, backbone.resolution
        self.shape = ShapeControl(4 + channels(config.maps), width=config.width, cells=config.cells)
        self.parse = Resampler(
            width, self.context, config.tokens, inner=config.inner, attention=config.inner, depth=config.depth
        )
        self.patches = nn.Sequential(nn.Linear(width, self.context), nn.LayerNorm(self.context))
        self.maps = PictureMaps.like_the_texts(backbone)
        first = backbone.denoiser.conv_in.weight.shape[0]
        self.enter = nn.Conv2d(backbone.latent_channels + 2, first, 3, padding=1, bias=False)
        nn.init.zeros_(self.enter.weight)
        self.inside = (FullAdapter("reference", FullConfig(components=("denoiser",))),)

    @classmethod
    def untrained(cls, config: PEVitonConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "PEViton":
        """The garment is stretched over the box; the denoiser is the base's and reads nothing of it yet."""
        return cls(config, backbone, reading.width)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("pe-viton", self.context, backbone)

    @classmethod
    def reads_maps(cls, config: PEVitonConfig) -> MapKinds:
        """See `AbstractReferenceAdapter.reads_maps`."""
        return config.maps

    def told_maps(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        """See `AbstractReferenceAdapter.told_maps`."""
        return Dropping(keep_all=0.0, drop_each=self.config.drop_map)(maps, self.map_kinds, generator)

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """See `AbstractReferenceAdapter.stages`."""
        share = self.config.shape_share
        return (
            TrainingStage(name="shape", share=share, trains=("shape",)),
            TrainingStage(name="texture", share=1 - share, trains=("texture", "base")),
        )

    @property
    def denoises(self) -> bool:
        """See `AbstractReferenceAdapter.denoises`: shape control learns without the base."""
        return self._stage != "shape"

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """See `AbstractReferenceAdapter.groups`."""
        texture = (self.parse, self.patches, self.maps, self.enter)
        return {
            "shape": tuple(self.shape.parameters()),
            "texture": tuple(parameter for part in texture for parameter in part.parameters()),
            "base": super().groups()["base"],
        }

    def fitted(self, shown: Shown, size: tuple[int, int]) -> "Dressed":
        """The first stage: garments on persons, the first photo of each row on its scene; at a size in pixels.

        Differentiable with respect to shape control.
        """
        rows, device = len(shown.sight.features), self.enter.weight.device
        boxes = torch.zeros(rows, 4, device=device) if shown.boxes is None else shown.boxes[:, 0].float().to(device)
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=device)
        boxes = torch.where(known_boxes(boxes)[:, None], widened(boxes, self.config.margin), whole)
        scene = None if shown.scene is None else shown.scene.float().to(device)
        person = collage(torch.zeros(rows, 3, 1, 1, device=device), boxes, scene, size)
        maps = person.new_zeros(rows, channels(self.map_kinds), *size) if shown.maps is None else shown.maps.to(person)
        detail = shown.sight.detail
        garment = torch.ones(rows, 3, 8, 8) if detail is None else detail[:, 0].float()
        fit = self.shape(torch.cat([person, maps], 1), garment.to(device), boxes)
        return Dressed(person=person[:, :3], hole=person[:, 3:].clamp(0, 1), fit=fit, garment=garment.to(device))

    def tokens_of(self, patches: Tensor) -> Tensor:
        """Patches of photos `b r k width` -> of each what it is parsed into, then its patches, side by side."""
        told = torch.cat([self.parse(patches.flatten(0, 1)), self.patches(patches.flatten(0, 1))], 1)
        return told.unflatten(0, patches.shape[:2]).flatten(1, 2)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Tokens of several photos stand side by side; the first is worn.

        Rows that see no photo, but have a scene, have its hole with nothing in it: guidance goes away from that.
        """
        told, shown, seen = asked.encoded(), asked.shown, asked.seen
        placed = seen if shown.scene is None else torch.ones_like(seen)
        if not bool(placed.any()):
            return told
        backbone, like = asked.backbone, self.enter.weight
        with torch.no_grad():
            dressed = self.fitted(shown, asked.size or (backbone.resolution, backbone.resolution))
            outline = dressed.fit.shape_at(asked.grid) * seen[:, None, None, None]
            hole = F.adaptive_max_pool2d(dressed.hole, asked.grid)
            picture = torch.where(seen[:, None, None, None], dressed.picture, dressed.person)
            latents = backbone.encode_images(picture.to(backbone.device, backbone.dtype))
            enters = torch.cat([latents.to(like), hole.to(like), outline.to(like)], 1)
        told = beside(told, _ENTERS, enters.flatten(2), asked.scale * placed)
        if not bool(seen.any()):
            return told
        tokens = self.tokens_of(shown.to(like).sight.object)
        pairs = self.maps(tokens, (asked.scale * seen).to(tokens)[:, None, None])
        return told.beside(Decoupled(pairs=pairs, weight=outline[:, 0]))

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: dressed persons are read while the denoiser predicts."""
        entering = reading(
            backbone, _ENTERS, lambda read: entering_beside(backbone, self.enter, read.vectors, read.strength)
        )
        with super().inserted(backbone, scale), entering:
            yield

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: while shape control learns, `warp`, `outline` and `bending`."""
        if self.denoises:
            yield dict
            return
        assert pairs.masks is not None, "it is not trained without masks"
        mask = pairs.masks.amax(1, keepdim=True).float().to(self.enter.weight.device)

        def terms() -> dict[str, Tensor]:
            dressed = self.fitted(pairs.shown, (backbone.resolution, backbone.resolution))
            found = {
                "outline": self.config.outline_weight * outline_error(dressed.fit, mask),
                "bending": self.config.bending_weight * bending(dressed.fit.flow),
            }
            if pairs.shown.scene is not None:
                target = pairs.shown.scene.float()
                size = (target.shape[2], target.shape[3])
                where = F.interpolate(mask, size=size, mode="nearest")
                found["warp"] = texture_error(dressed.fit.warped(dressed.garment, size), target, where)
            return found

        yield terms


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dressed:
    """Persons, and garments as they lie on them."""

    person: Tensor
    """`b 3 h w` in [-1, 1], gray in the hole; -1 around it where nothing is known of the person."""
    hole: Tensor
    """`b 1 h w` of 0 and 1."""
    fit: Fit
    garment: Tensor
    """`b 3 s s` in [-1, 1], on white."""

    @property
    def picture(self) -> Tensor:
        """The persons with the warped garments in their outlines, `b 3 h w`."""
        size = (self.person.shape[2], self.person.shape[3])
        shape = self.fit.shape_at(size) * self.hole
        return torch.lerp(self.person, self.fit.warped(self.garment, size), shape)
