"""Face2Diffusion (Shiohara and Yamasaki 2024, arXiv 2403.05094): words of several layers, and a background that stays.

A multi-scale identity encoder makes two words, which stand in the place of the class word; the base stays as it is. In
training the background is not the target's: there the base must draw what it draws for the class word, so that the
words learn nothing of it (class-guided denoising regularisation).
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    Terms,
    check_context,
    context_width,
    token_widths,
)
from pcs_ext.image.reference.inside import answering
from pcs_ext.image.reference.nouns import renamed
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.scales import ScaleWords
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.reference.words import SeenWords, between
from pcs_ext.image.types import Conditioning

_NAME = "reference_face2diffusion"


@config
class Face2DiffusionConfig:
    """A multi-scale encoder, and what holds the background."""

    kind: Literal["face2diffusion"] = "face2diffusion"
    """Tag in JSON."""
    words: int = 2
    """As in the released code, "first" and "last"."""
    hidden: int = 1536
    """Width inside the networks: four layers of 384 in the released code."""
    background_weight: float = 1.0
    """Of the squared error outside of the masks against what the base draws for the class word (section 3.4). With all
    errors counted inside masks alone the sum is the paper's loss."""

    def __post_init__(self) -> None:
        if min(self.words, self.hidden) < 1 or self.background_weight < 0:
            raise ConfigError(
                "words and hidden must be at least 1 and background_weight not negative, got "
                f"{self.words}, {self.hidden} and {self.background_weight}."
            )


class Face2Diffusion(AbstractReferenceAdapter):
    """The multi-scale encoder behind a frozen image encoder.

    Differs from Face2Diffusion, whose image encoder is a ViT trained to tell faces apart by all those layers, and which
    also has expression guidance: a vector of a 3D face model beside the identity's, exchanged for a learned empty one
    in a part of the training. No such model is read here.

    Args:
        config: of the adapter.
        reading: of the image encoder.
        context: width of text states.
        tokens: widths of token rows.
    """

    sees: Sees = "layers"
    depths = (1 / 4, 1 / 2, 3 / 4, 1.0)
    """Four of twelve; which ones is not in the released code."""
    asks_noun = True
    asks_masks = True

    def __init__(self, config: Face2DiffusionConfig, reading: Reading, context: int, tokens: Sequence[int]) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, reading.width, context, list(tokens)
        self.encode = ScaleWords(reading, config.words, config.hidden, sum(tokens))
        self.seen_words = SeenWords(config.words)
        self.inside = (self.seen_words,)

    @classmethod
    def untrained(
        cls, config: Face2DiffusionConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "Face2Diffusion":
        """Nothing of it is the base's."""
        return cls(config, reading, context_width(backbone), token_widths(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("face2diffusion", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Words of several pictures are averaged."""
        if not any(asked.named):
            return asked.encoded()
        classes = asked.shown.to(next(self.parameters())).sight.features[..., 0, :]
        words = self.encode(classes.flatten(0, 1)).unflatten(0, classes.shape[:2]).mean(1)
        texts = asked.with_words(lambda text, noun: renamed(text, noun, self.seen_words.text))
        with self.seen_words.meaning(between(asked.backbone, asked.nouns, words, self.tokens, asked.scale)):
            return asked.encoded(texts)

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `background`, nothing where no mask is known."""
        if pairs.masks is None or self.config.background_weight == 0:
            yield dict
            return
        masks = pairs.masks.amax(1, keepdim=True).to(backbone.device)
        asked: list[tuple[Tensor, Tensor, Tensor]] = []

        def keep(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            predicted = predict(noisy, timesteps, conditioning)
            asked.append((noisy, timesteps, predicted))
            return predicted

        def terms() -> dict[str, Tensor]:
            noisy, timesteps, predicted = asked[0]
            with torch.no_grad():
                # The caption names the class; the words stood in that place.
                guide = backbone.predict(noisy, timesteps, backbone.encode_prompt(pairs.captions))
            return {"background": self.config.background_weight * background(predicted, guide, masks)}

        with answering(backbone, _NAME, keep):
            yield terms


def background(predicted: Tensor, guide: Tensor, masks: Tensor) -> Tensor:
    """Squared error outside of the masks, a mean over everything, 0-d.

    Args:
        predicted: `b c h w`.
        guide: likewise, for the class word.
        masks: `b 1 h w` in [0, 1].
    """
    return ((1 - masks) * (predicted.float() - guide.float())).square().mean()
