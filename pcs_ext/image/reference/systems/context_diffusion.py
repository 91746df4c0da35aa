"""Context Diffusion (Najdenkoska et al. 2024, arXiv 2312.03584): pictures as context, a map or photo as the layout.

What a frozen encoder sees in one to three pictures is added up and stands behind the prompt's tokens, so that pictures
and words are read alike and either may be missing. The query, a map of what is drawn, goes through a ControlNet. Tasks
are told by the context alone: shown photos, it draws a photo of an edge map; shown depth maps, that of a photo.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading, check_context, context_width
from pcs_ext.image.reference.behind import behind_the_text
from pcs_ext.image.reference.control import ControlBranch
from pcs_ext.image.reference.inside import beside
from pcs_ext.image.reference.led import AbstractLedAdapter
from pcs_ext.image.reference.maps import MapKinds, as_picture, check_kinds, one_of
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning


@config
class ContextDiffusionConfig:
    """A projection of context pictures and a branch for the query."""

    kind: Literal["context-diffusion"] = "context-diffusion"
    """Tag in JSON."""
    maps: MapKinds = ("edges", "depth", "segmentation", "photo")
    """Kinds of queries, of which every picture has one; the paper's are HED edges, depth and segmentation. With `photo`
    it also learns the way back: maps of an album are drawn, after their photos."""

    def __post_init__(self) -> None:
        check_kinds(self.maps)
        if not self.maps:
            raise ConfigError("maps must name one kind or more.")


class ContextDiffusion(AbstractLedAdapter):
    """The projection and the branch; the base stays as it is.

    Differs from Context Diffusion, of which no code is published, where its text could not be read: tokens of several
    pictures are averaged, all places of the last layer are read, and nothing of the base is trained.

    Args:
        backbone: whose denoiser is copied.
        width: of the image encoder's vectors.
        maps: kinds of queries.
    """

    sees: Sees = "layers"
    depths = (1.0,)
    one_map = True
    maps_name, tokens_name = "context_diffusion_query", "context_diffusion_tokens"

    def __init__(self, backbone: AbstractBackbone, width: int, maps: MapKinds) -> None:
        super().__init__()
        self.width, self.context = width, context_width(backbone)
        self.map_kinds, self.factor = maps, backbone.vae_factor
        self.project = nn.Linear(width, self.context)
        self.branch = ControlBranch(backbone, 3)

    @classmethod
    def untrained(
        cls, config: ContextDiffusionConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "ContextDiffusion":
        """The branch's weights are the base's, its outputs zero."""
        return cls(backbone, reading.width, config.maps)

    @property
    def leads(self) -> ControlBranch:
        """See `AbstractLedAdapter.leads`."""
        return self.branch

    def told_maps(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        """See `AbstractReferenceAdapter.told_maps`: one query for every picture."""
        return one_of(maps, self.map_kinds, generator)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("context-diffusion", self.context, backbone)

    def tokens_of(self, features: Tensor) -> Tensor:
        """Last layers of a context's pictures, `b r 1 places width` -> `b places context`, their mean."""
        return self.project(features[:, :, 0]).mean(1)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. At lower strengths context tokens weigh less in the softmax."""
        told, maps = asked.encoded(), asked.shown.maps
        if maps is not None:
            told = self.led(told, as_picture(maps, self.map_kinds), asked.scale)
        if not any(asked.shown.rows):
            return told
        tokens = self.tokens_of(asked.shown.to(next(self.parameters())).sight.features)
        told = told.beside(behind_the_text(asked.backbone, tokens, asked.scale * asked.seen))
        return beside(told, self.tokens_name, tokens, asked.seen)
