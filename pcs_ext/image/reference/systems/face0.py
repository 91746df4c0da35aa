"""Face0 (Valevski et al. 2023, arXiv 2306.06638): an embedding in the last places of the encoded prompt.

A small network turns the embedding into a few states as wide as the text's; they overwrite the last ones of the prompt,
which are padding. The denoiser is trained to read them. In use three predictions are mixed: of both, of the picture
alone, and of the words alone.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, check_context, context_width
from pcs_ext.image.reference.inside import Read, answering, beside, read_of
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning

_NAME = "reference_face0"


@config
class Face0Config:
    """A projection, the denoiser, and the mixture of predictions."""

    kind: Literal["face0"] = "face0"
    """Tag in JSON."""
    tokens: int = 3
    """Of the prompt's last states, overwritten (as recalled)."""
    hidden: int = 1024
    """Width inside the projection; ours."""
    picture_alone: float = 0.2
    """Share of the prediction without words in the mixture; ours, as is the next: the paper's were not to be had."""
    words_alone: float = 0.2
    """Share of the prediction without pictures; what is left is the joint one's."""

    def __post_init__(self) -> None:
        if min(self.tokens, self.hidden) < 1:
            raise ConfigError(f"tokens and hidden must be at least 1, got {self.tokens} and {self.hidden}.")
        if min(self.picture_alone, self.words_alone) < 0 or self.picture_alone + self.words_alone > 1:
            raise ConfigError(
                "picture_alone and words_alone must be shares that sum to at most 1, got "
                f"{self.picture_alone} and {self.words_alone}."
            )


class Face0(AbstractReferenceAdapter):
    """The projection and the denoiser.

    Differs from Face0 in that any image encoder's embedding of the whole photo stands for a face recogniser's of a face
    that was found and cut out. Embeddings of several pictures are averaged.

    Args:
        config: of the adapter.
        width: of the image encoder's embedding.
        context: of text states.
    """

    sees: Sees = "embedding"

    def __init__(self, config: Face0Config, width: int, context: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context
        self.project = nn.Sequential(
            nn.Linear(width, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.tokens * context)
        )
        self.inside = (FullAdapter("reference", FullConfig(components=("denoiser",))),)
        self._empty: Conditioning | None = None

    @classmethod
    def untrained(cls, config: Face0Config, backbone: AbstractBackbone, reading: Reading, seed: int) -> "Face0":
        """Its denoiser is the base's."""
        return cls(config, reading.width, context_width(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("face0", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. States are overwritten when the denoiser is asked."""
        if not any(asked.shown.rows):
            return asked.encoded()
        features = asked.shown.to(next(self.parameters())).sight.features.mean(1)
        states = self.project(features).unflatten(1, (self.config.tokens, self.context))
        seen = torch.tensor(asked.shown.rows, device=features.device)
        return beside(asked.encoded(), _NAME, states, asked.scale * seen)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: also, predictions are mixed in use."""
        with super().inserted(backbone, scale), answering(backbone, _NAME, self._answered(backbone)):
            try:
                yield
            finally:
                self._empty = None

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            read = read_of(conditioning, _NAME)
            if read is None:
                return predict(noisy, timesteps, conditioning)
            joint = predict(noisy, timesteps, overwritten(conditioning, read))
            rows = read.seen
            if self.training or not len(rows) or self.config.picture_alone + self.config.words_alone == 0:
                return joint
            alone = self._wordless(backbone, conditioning[rows], read, rows)
            asked = Conditioning.cat([alone, conditioning[rows]])
            at = rows.to(noisy.device)
            latents, times = noisy[at], timesteps.expand(len(noisy))[at]
            both = predict(torch.cat([latents, latents]), torch.cat([times, times]), asked)
            picture, words = both.chunk(2)
            return joint.index_copy(0, at, self.mixed(joint[at], picture, words))

        return answered

    def mixed(self, joint: Tensor, picture: Tensor, words: Tensor) -> Tensor:
        """The weighted sum of three predictions, weights summing to 1: guidance goes from nothing towards it."""
        own, other = self.config.picture_alone, self.config.words_alone
        return (1 - own - other) * joint + own * picture + other * words

    def _wordless(
        self, backbone: AbstractBackbone, conditioning: Conditioning, read: Read, rows: Tensor
    ) -> Conditioning:
        """Those rows with an empty prompt in place of their own, overwritten alike."""
        if self._empty is None:
            self._empty = dataclasses.replace(backbone.encode_prompt([""]), time_ids=None)
        empty = dataclasses.replace(self._empty[[0] * len(rows)], time_ids=conditioning.time_ids)
        own = Read(vectors=read.vectors[rows], strength=read.strength[rows])
        bare = overwritten(empty, own)
        return dataclasses.replace(bare, shown=conditioning.shown)


def overwritten(conditioning: Conditioning, read: Read) -> Conditioning:
    """The last states replaced by those read; at lower strengths between them."""
    count = read.vectors.shape[1]

    def change(states: Tensor) -> Tensor:
        strength = read.strength.to(states)[:, None, None]
        last = torch.lerp(states[:, -count:], read.vectors.to(states), strength)
        return torch.cat([states[:, :-count], last], dim=1)

    return conditioning.with_states(change)
