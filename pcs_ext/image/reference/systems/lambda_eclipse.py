"""lambda-ECLIPSE (Patel et al. 2024, arXiv 2402.05195): all that is drawn is first an image embedding.

A small transformer (the prior) reads the encoded prompt, in which the photos' embeddings stand in the places of the
words that name what they show, and tells the embedding of the picture to be drawn, in one pass and without diffusion.
It learns by the distance to the embedding of the true picture and by a contrast with the texts of a batch (ECLIPSE,
arXiv 2312.04655). A decoder, which was trained before and knows embeddings alone, draws.
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
    attention_widths,
    check_context,
    context_width,
)
from pcs_ext.image.reference.beside import PictureMaps
from pcs_ext.image.reference.localization import placed
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.prior import Prior, prior_terms
from pcs_ext.image.reference.projection import LinearProjection
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning, Decoupled


@config
class LambdaEclipseConfig:
    """A prior over image embeddings and a decoder of them."""

    kind: Literal["lambda-eclipse"] = "lambda-eclipse"
    """Tag in JSON."""
    width: int = 512
    """Of the prior; ours: the paper's has 34 million weights."""
    depth: int = 10
    """Its blocks; ours."""
    heads: int = 8
    """Of its attentions; ours."""
    tokens: int = 4
    """That stand for an embedding in the decoder (IP-Adapter's)."""
    contrast_weight: float = 0.2
    """Of the contrast with texts (lambda of ECLIPSE)."""
    temperature: float = 0.07
    """Divides its cosines; ours."""
    decoder: float = 0.5
    """Share of the steps in which the decoder is trained; the prior is in the rest. Ours: the paper takes Kandinsky's
    decoder."""

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads, self.tokens) < 1 or self.width % self.heads:
            raise ConfigError("depth, heads and tokens must be at least 1, and width a multiple of heads.")
        if not 0 < self.decoder < 1 or self.contrast_weight < 0 or self.temperature <= 0:
            raise ConfigError(
                "decoder must be a share between 0 and 1, contrast_weight not negative and temperature positive."
            )


class LambdaEclipse(AbstractReferenceAdapter):
    """The prior, and keys and values of an embedding beside the base's empty prompt.

    Differs from lambda-ECLIPSE in the decoder, which is Kandinsky's whole denoiser there, and here the base with an
    IP-Adapter's keys and values, trained in the first part on each picture's own embedding; in that the prior reads the
    base's text states, not CLIP's; and in that another picture of a subject is shown than the one whose embedding is to
    be told. Several pictures of one noun are averaged. At lower strengths the prompt comes back.

    Args:
        config: of the adapter.
        width: of the image encoder's embedding.
        context: of text states.
        channels: of every text cross-attention, by its path.
        places: tokens of a prompt.
    """

    sees: Sees = "embedding"
    asks_noun = True
    several = True
    asks_target = True
    asks_texts = True

    def __init__(
        self, config: LambdaEclipseConfig, width: int, context: int, channels: dict[str, int], places: int
    ) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context
        self.prior = Prior(
            context, width, width=config.width, depth=config.depth, heads=config.heads, places=places
        )  # fmt: skip
        self.project = LinearProjection(width, context, config.tokens)
        self.maps = PictureMaps(context, channels)

    @classmethod
    def untrained(
        cls, config: LambdaEclipseConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "LambdaEclipse":
        """The decoder's maps begin as the text's."""
        places = backbone.tokenizers[0].model_max_length
        made = cls(config, reading.width, context_width(backbone), attention_widths(backbone), places)
        made.maps = PictureMaps.like_the_texts(backbone)
        return made

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("lambda-eclipse", self.context, backbone)

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """See `AbstractReferenceAdapter.stages`: first the decoder, then the prior."""
        share = self.config.decoder
        return (
            TrainingStage(name="decoder", share=share, trains=("decoder",)),
            TrainingStage(name="prior", share=1 - share, trains=("prior",)),
        )

    @property
    def denoises(self) -> bool:
        """See `AbstractReferenceAdapter.denoises`: the prior learns without the denoiser."""
        return self._stage != "prior"

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """See `AbstractReferenceAdapter.groups`."""
        decoder = (*self.project.parameters(), *self.maps.parameters())
        return {"prior": tuple(self.prior.parameters()), "decoder": decoder, "base": ()}

    def embeddings(self, asked: Asked) -> Tensor:
        """What the prior tells of every prompt with its pictures, `b width`."""
        like = self.prior.out.weight
        places, seen = placed(asked.backbone, asked.prompts, asked.shown.to(like))
        rows, tokens, pictures = (
            torch.tensor(x, device=like.device) for x in (places.rows, places.tokens, places.pictures)
        )
        return self.prior(asked.encoded().states.to(like), (rows, tokens), seen[rows, pictures])

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`: the prompt's states give way to an empty prompt's, and the told
        embedding stands beside them."""
        present = asked.present.any(1)
        if not present.any():
            return asked.encoded()
        target = asked.shown.target
        if self.training and self._stage == "decoder" and target is not None:
            told = target[:, 0].to(self.prior.out.weight)
        else:
            told = self.embeddings(asked)
        empty = asked.encoded([""] * len(asked.prompts))
        strength = (min(asked.scale, 1.0) * present).to(empty.states)[:, None, None]
        conditioning = asked.encoded().with_states(lambda own: torch.lerp(own, empty.states.to(own), strength))
        counted = (asked.scale * present).to(told)[:, None, None]
        return conditioning.beside(Decoupled(pairs=self.maps(self.project(told), counted)))

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `projection` and, where the image encoder has texts, `contrast`."""

        def terms() -> dict[str, Tensor]:
            if self.denoises:
                return {}
            encode = backbone.encode_prompt
            asked = Asked(backbone=backbone, encode=encode, prompts=pairs.captions, shown=pairs.shown)
            config, told, rows = self.config, self.embeddings(asked), asked.present.any(1)
            return prior_terms(
                told, pairs, contrast_weight=config.contrast_weight, temperature=config.temperature, rows=rows
            )

        yield terms
