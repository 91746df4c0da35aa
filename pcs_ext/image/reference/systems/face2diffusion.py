"""Face2Diffusion (Shiohara and Yamasaki 2024, arXiv 2403.05094): words of several layers, and a background that stays.

A multi-scale identity encoder makes two words, which stand in the place of the class word; the base stays as it is. In
training the background is not the target's: there the base must draw what it draws for the class word, so that the
words learn nothing of it (class-guided denoising regularisation).
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.base import Terms
from pcs_ext.image.reference.inside import answering
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.scales import AbstractScaleWordsAdapter
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


class Face2Diffusion(AbstractScaleWordsAdapter):
    """The multi-scale encoder behind a frozen image encoder.

    Differs from Face2Diffusion, whose image encoder is a ViT trained to tell faces apart by all those layers, and which
    also has expression guidance: a vector of a 3D face model beside the identity's, exchanged for a learned empty one
    in a part of the training. No such model is read here.
    """

    config: Face2DiffusionConfig
    asks_masks = True

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
