"""FaceStudio (Yan et al. 2023, arXiv 2312.02663): identity, style picture and prompt guide together.

All that is drawn is told by two embeddings: of a look, in the space of an image encoder, and of an identity. A look is
a style picture's, or what a *prior* makes of the prompt, or a mixture of both (*hybrid guidance*). Linear maps make
tokens of either, and cross-attention reads them in the text's place. The tokens learn to rebuild pictures from their
own look, the face taken out, and an identity: no captions are read for that.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
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
from pcs_ext.image.reference.inside import Read, beside, reading
from pcs_ext.image.reference.instead import attending_instead
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.prior import Prior, prior_terms
from pcs_ext.image.reference.projection import LinearProjection
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning

_NAME = "reference_facestudio"


@config
class FaceStudioConfig:
    """Tokens of looks and identities, and a prior. Numbers are ours, where nothing else is said."""

    kind: Literal["facestudio"] = "facestudio"
    """Tag in JSON."""
    look_tokens: int = 4
    """Of a look."""
    face_tokens: int = 4
    """Of an identity."""
    style_share: float = 0.5
    """Of the style picture in the look, in use; the prior's is the rest; without a style picture all is the prior's."""
    drop_style: float = 0.64
    """Share of training pairs whose look is not told (section 4.1)."""
    width: int = 512
    """Of the prior."""
    depth: int = 10
    """Its blocks."""
    heads: int = 8
    """Of its attentions."""
    contrast_weight: float = 0.2
    """Of the prior's contrast with texts (ECLIPSE's, arXiv 2312.04655)."""
    temperature: float = 0.07
    """Divides its cosines."""
    guidance: float = 0.5
    """Share of the steps in which the tokens are trained; the prior is in the rest."""

    def __post_init__(self) -> None:
        if min(self.look_tokens, self.face_tokens, self.width, self.depth, self.heads) < 1 or self.width % self.heads:
            raise ConfigError("tokens, depth and heads must be at least 1, and width a multiple of heads.")
        if not 0 <= self.style_share <= 1 or not 0 <= self.drop_style <= 1 or not 0 < self.guidance < 1:
            raise ConfigError("style_share and drop_style must be shares, and guidance one between 0 and 1.")
        if self.contrast_weight < 0 or self.temperature <= 0:
            raise ConfigError("contrast_weight must not be negative and temperature positive.")


class FaceStudio(AbstractReferenceAdapter):
    """Both linear maps, keys and values of their tokens, and the prior.

    Differs from FaceStudio in that one image encoder's embedding stands for three CLIPs' side by side and for a face
    recogniser's; in the prior, which is ECLIPSE's, in one pass and trained here on the pairs' captions, where the paper
    takes one that was published; in that keys and values of the tokens learn and the base stays, where the paper trains
    the denoiser; in that another picture of the subject tells the identity than the one that is drawn, and none is left
    out; and in that guidance goes away from the plain base and its negative words. On SDXL the pooled text stays the
    prompt's. Identities of several pictures are averaged, which is the paper's mixing of identities; its attention that
    holds several people to places of their own is left out.

    Args:
        config: of the adapter.
        backbone: whose keys and values the tokens' begin as.
        width: of the image encoder's embedding.
    """

    sees: Sees = "embedding"
    enters = True
    asks_masks = True
    asks_style = True
    asks_target = True
    asks_texts = True

    def __init__(self, config: FaceStudioConfig, backbone: AbstractBackbone, width: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context_width(backbone)
        self.drop_style = config.drop_style
        self.look = LinearProjection(width, self.context, config.look_tokens)
        self.face = LinearProjection(width, self.context, config.face_tokens)
        self.maps = PictureMaps.like_the_texts(backbone)
        places = backbone.tokenizers[0].model_max_length
        self.prior = Prior(
            self.context, width, width=config.width, depth=config.depth, heads=config.heads, places=places
        )  # fmt: skip

    @classmethod
    def untrained(
        cls, config: FaceStudioConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "FaceStudio":
        """Keys and values begin as the text's."""
        return cls(config, backbone, reading.width)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("facestudio", self.context, backbone)

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """See `AbstractReferenceAdapter.stages`: first the tokens, then the prior."""
        share = self.config.guidance
        return (
            TrainingStage(name="guidance", share=share, trains=("guidance",)),
            TrainingStage(name="prior", share=1 - share, trains=("prior",)),
        )

    @property
    def denoises(self) -> bool:
        """See `AbstractReferenceAdapter.denoises`: the prior learns without the denoiser."""
        return self._stage != "prior"

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """See `AbstractReferenceAdapter.groups`."""
        guided = (self.look, self.face, self.maps)
        return {
            "guidance": tuple(p for module in guided for p in module.parameters()),
            "prior": tuple(self.prior.parameters()),
            "base": (),
        }

    def told_by_words(self, asked: Asked) -> Tensor:
        """The look that the prior makes of every prompt, `b width`."""
        like = self.prior.out.weight
        nowhere = torch.zeros(0, dtype=torch.long, device=like.device)
        return self.prior(asked.encoded().states.to(like), (nowhere, nowhere), like.new_zeros(0, self.width))

    def looks_of(self, asked: Asked) -> Tensor:
        """The look of every row, `b width`: while tokens learn, its own picture's; else of words and style picture."""
        style, like = asked.shown.style, self.prior.out.weight
        if self.training and self._stage == "guidance":
            return like.new_zeros(len(asked.prompts), self.width) if style is None else style[:, 0].to(like)
        words = self.told_by_words(asked)
        return words if style is None else torch.lerp(words, style[:, 0].to(words), self.config.style_share)

    def tokens_of(self, looks: Tensor, faces: Tensor) -> Tensor:
        """Looks `b width` and identities `b width` -> what cross-attention reads, `b tokens context`."""
        return torch.cat([self.look(looks), self.face(faces)], dim=1)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. At lower strengths what is found in the text comes back."""
        told = asked.encoded()
        if not bool(asked.seen.any()):
            return told
        faces = asked.shown.to(self.prior.out.weight).sight.features.mean(1)
        tokens = self.tokens_of(self.looks_of(asked), faces)
        return beside(told, _NAME, tokens, min(asked.scale, 1.0) * asked.seen)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: tokens are read in the text's place."""
        with super().inserted(backbone, scale), reading(backbone, _NAME, lambda read: self._instead(backbone, read)):
            yield

    def _instead(self, backbone: AbstractBackbone, read: Read) -> contextlib.AbstractContextManager[None]:
        rows = read.seen
        pairs = self.maps(read.vectors[rows])
        return attending_instead(backbone.denoiser, pairs, rows, read.strength[rows])

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `projection` and, where the image encoder has texts, `contrast`."""

        def terms() -> dict[str, Tensor]:
            if self.denoises:
                return {}
            encode = backbone.encode_prompt
            asked = Asked(backbone=backbone, encode=encode, prompts=pairs.captions, shown=pairs.shown)
            config, told = self.config, self.told_by_words(asked)
            return prior_terms(
                told, pairs, contrast_weight=config.contrast_weight, temperature=config.temperature
            )  # fmt: skip

        yield terms
