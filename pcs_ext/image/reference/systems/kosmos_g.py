"""Kosmos-G (Pan et al. 2023, arXiv 2310.02992): a multimodal language model in the text encoder's place.

Words and pictures are read as one text. An AlignerNet turns the language model's states into what the base's text
encoder would give, learned on words alone: as the language model has one space for both, pictures are understood, too
("align before instruct"). Then both learn by the gradient of the denoiser, which itself stays as it is.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.aligner import Aligner, InverseAligner, align_losses
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.attentive_pooling import AttentivePooling
from pcs_ext.image.reference.base import Reading, Terms, TrainingStage, check_context, context_width
from pcs_ext.image.reference.interleaved import marked, segments
from pcs_ext.image.reference.language_model import LanguageConfig, build_language_model, next_word_loss
from pcs_ext.image.reference.multimodal import AbstractMultimodalAdapter, MultimodalModel
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.types import Conditioning


@config
class KosmosGConfig:
    """A multimodal language model and an AlignerNet."""

    kind: Literal["kosmos-g"] = "kosmos-g"
    """Tag in JSON."""
    language: LanguageConfig = LanguageConfig()
    """Which language model; the paper's, Kosmos-1, has 24 layers of 2,048 numbers."""
    words: int = 64
    """That a picture becomes (the released code's)."""
    width: int = 768
    """Of the AlignerNet (the released code's, and so depth and heads)."""
    depth: int = 12
    """Blocks of each of its four parts."""
    heads: int = 12
    """Of its attentions."""
    unnamed: float = 0.5
    """Share of training prompts in which pictures stand in place of nouns; else behind them (the released code's)."""
    shares: tuple[float, float, float] = (0.375, 0.375, 0.25)
    """Of the steps, in which the language model, the AlignerNet and both learn: 300,000, as many and 200,000 in the
    paper (the first as recalled)."""

    def __post_init__(self) -> None:
        if min(self.words, self.width, self.depth, self.heads) < 1 or self.width % self.heads:
            raise ConfigError("words, depth and heads must be at least 1, and width a multiple of heads.")
        if not 0 <= self.unnamed <= 1 or min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ConfigError(
                f"unnamed must be a share, got {self.unnamed}, and shares three that sum to 1, got {self.shares}."
            )


class KosmosG(AbstractMultimodalAdapter):
    """The language model, the words that pictures become, and the AlignerNet both ways; the base stays as it is.

    Differs from Kosmos-G in the language model, where none is named in the settings: a small one, which learns the
    captions of the pairs alone; in that the image encoder's last layer does not learn; in that another picture of a
    subject is shown than the one that is drawn; in that the AlignerNet's places are sines, not learned ones, and a last
    linear map lets the base's text states have any width; and in that text with a pooled embedding (SDXL) keeps that of
    the words. Of the paper's mixture of data captions alone, pairs of picture and caption, and captions with pictures
    among their words are here, web pages with pictures and edits of pictures are not. At lower strengths the base's own
    states of the words come back.

    Args:
        config: of the adapter.
        width: of the image encoder's patches.
        model: reads.
        context: width of text states.
        places: how many of them.
    """

    sees: Sees = "patches"

    def __init__(self, config: KosmosGConfig, width: int, model: MultimodalModel, context: int, places: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context
        self.model = model
        inside = {"width": config.width, "depth": config.depth, "heads": config.heads}
        self.aligner = Aligner(model.language.width, context, places, **inside)
        self.inverse = InverseAligner(context, model.language.width, **inside)
        self._stage = "instruct"

    @classmethod
    def untrained(cls, config: KosmosGConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "KosmosG":
        """The language model is that of its folder, or drawn."""
        language = build_language_model(config.language, backbone)
        heads = next(own for own in (config.language.heads, 1) if language.width % own == 0)
        pooled = AttentivePooling(reading.width, language.width, config.words, heads)
        places = backbone.tokenizers[0].model_max_length
        return cls(config, reading.width, MultimodalModel(language, pooled), context_width(backbone), places)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("kosmos-g", self.context, backbone)

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """See `AbstractReferenceAdapter.stages`: language modelling, aligning, and instruction tuning."""
        language, align, instruct = self.config.shares
        return (
            TrainingStage(name="language", share=language, trains=("language", "pictures")),
            TrainingStage(name="align", share=align, trains=("aligner", "inverse")),
            TrainingStage(name="instruct", share=instruct, trains=("language", "pictures", "aligner")),
        )

    @property
    def tuning_stages(self) -> tuple[TrainingStage, ...]:
        """See `AbstractReferenceAdapter.tuning_stages`: instructions alone."""
        return (TrainingStage(name="instruct", share=1.0, trains=self.stages[-1].trains),)

    @property
    def denoises(self) -> bool:
        """See `AbstractReferenceAdapter.denoises`: only instructions are learned by the denoiser's gradient."""
        return self._stage == "instruct"

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """See `AbstractReferenceAdapter.groups`."""
        return {
            "language": self.model.language.own,
            "pictures": self.model.eyes,
            "aligner": tuple(self.aligner.parameters()),
            "inverse": tuple(self.inverse.parameters()),
            "base": (),
        }

    def told_captions(self, captions: Sequence[str], shown: Shown, generator: torch.Generator) -> Sequence[str]:
        """See `AbstractReferenceAdapter.told_captions`: pictures stand behind nouns or in their place; half of what the
        language model learns has them before the whole caption, which it says of them."""
        count = shown.sight.features.shape[1]
        chances = torch.rand(len(captions), 2, generator=generator).tolist()
        nouns = shown.nouns or ((),) * len(captions)
        before = self._stage == "language"
        return [
            marked(text, own, count, replace=second < self.config.unnamed, first=before and first < 0.5)
            for text, own, (first, second) in zip(captions, nouns, chances, strict=True)
        ]

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Rows without pictures are read by the language model, too."""
        features = asked.shown.to(self.aligner.queries).sight.features
        read = self.model(self.interleaved(asked.prompts, asked.shown), features)
        made = self.aligner(read.states, read.there)
        return asked.encoded(self.words(asked.prompts, asked.shown)).with_states(
            lambda own: torch.lerp(own, made.to(own), asked.scale)
        )

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `language`, or `align` and `reconstruction`."""

        def terms() -> dict[str, Tensor]:
            if self._stage == "language":
                return {"language": self._language(pairs)}
            return self._aligned(backbone, pairs) if self._stage == "align" else {}

        yield terms

    def _language(self, pairs: Pairs) -> Tensor:
        """Of the next words of captions with pictures."""
        features = pairs.shown.to(self.aligner.queries).sight.features
        read = self.model(self.interleaved(pairs.captions, pairs.shown), features, whole=True)
        return next_word_loss(self.model.language, read)

    def _aligned(self, backbone: AbstractBackbone, pairs: Pairs) -> dict[str, Tensor]:
        """Of captions alone, on a language model that stays as it is."""
        captions = self.words(pairs.captions, pairs.shown)
        with torch.no_grad():
            features = pairs.shown.to(self.aligner.queries).sight.features
            read = self.model([segments(text) for text in captions], features)
            target = backbone.encode_prompt(captions).states
        made = self.aligner(read.states, read.there)
        again = self.inverse(made, read.there)
        aligned, reconstructed = align_losses(made, target, again, read.states, read.there)
        return {"align": aligned, "reconstruction": reconstructed}
