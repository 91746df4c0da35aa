"""SUGAR (Zhou et al. 2024, arXiv 2412.10533): identity tokens in a video transformer's sequence, zero-shot.

What an image encoder sees of the photo becomes tokens of the transformer's own width. They stand in the sequence of
every self-attention, which is *selective*: the clip's tokens look at each other and at the identity, identity tokens
only at one another; the text is seen by the clip's tokens alone. So the identity cannot follow the text or the clip.
The whole transformer learns, first from pictures of the subject, then from clips. In use identity and text have
guidance of their own:

    v = v(0, 0) + w_identity (v(I, 0) - v(0, 0)) + w_text (v(I, T) - v(I, 0)).
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
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading
from pcs_ext.image.reference.inside import Read, answering, beside, read_of
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbones.wan import WanBackbone
from pcs_ext.video.reference.base import AbstractClipReference, ClipStage, check_width, transformer_model
from pcs_ext.video.reference.identity_stream import identity_pairs, seeing_identity

_NAME = "sugar"


@config
class SugarConfig:
    """The map to identity tokens, the two stages, and the identity's guidance."""

    kind: Literal["sugar"] = "sugar"
    """Tag in JSON."""
    hidden: int = 2048
    """Width inside the map. Ours, as are the numbers below: the paper's are not known here."""
    still_share: float = 0.5
    """Of the steps for the first stage, on pictures."""
    identity_guidance: float = 0.5
    """In use the identity's guidance is so many times the text's; 1: one guidance for both, at a third of the cost."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or not 0 < self.still_share < 1 or self.identity_guidance < 0:
            raise ConfigError(
                "hidden must be at least 1, still_share in (0, 1) and identity_guidance not negative, got "
                f"{self.hidden}, {self.still_share} and {self.identity_guidance}."
            )


class Sugar(AbstractClipReference):
    """The map to tokens, and the transformer.

    Differs from SUGAR: Wan instead of an unpublished transformer that has text in its sequence, so what keeps the text
    from the identity is that identity tokens pass by the text attention; tokens are any image encoder's class token and
    patches, and have no places; in training the photo and the clip are of one subject's folder instead of synthetic
    triplets, so that pairs which others draw may lie there.

    Args:
        config: of the adapter.
        reading: of the image encoder.
        inner: width of the transformer.
    """

    sees: Sees = "layers"
    depths = (1.0,)
    cuts = True
    transformer = True

    def __init__(self, config: SugarConfig, reading: Reading, inner: int) -> None:
        super().__init__()
        self.config, self.width, self.inner = config, reading.width, inner
        self.map = nn.Sequential(
            nn.LayerNorm(reading.width), nn.Linear(reading.width, config.hidden), nn.GELU(),
            nn.Linear(config.hidden, inner), nn.LayerNorm(inner),
        )  # fmt: skip
        self.inside = (FullAdapter("reference", FullConfig(components=("denoiser",))),)

    @classmethod
    def untrained(cls, config: SugarConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "Sugar":
        """The transformer is the base's."""
        return cls(config, reading, backbone.denoiser.patch_embedding.weight.shape[0])

    @property
    def stages(self) -> tuple[ClipStage, ...]:
        """Pictures, then clips."""
        share = self.config.still_share
        return (
            ClipStage(name="identity", share=share, trains=("reference", "base"), still=True),
            ClipStage(name="motion", share=1 - share, trains=("reference", "base")),
        )

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_width("sugar", self.inner, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Tokens of several pictures stand side by side."""
        features = asked.shown.to(next(self.parameters())).sight.object[:, :, 0]
        return beside(asked.encoded(), _NAME, self.map(features).flatten(1, 2), asked.scale * asked.seen)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: clips with an identity are denoised in its sight."""
        with super().inserted(backbone, scale), answering(backbone, _NAME, self._answered(transformer_model(backbone))):
            yield

    def _answered(self, backbone: WanBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            read = read_of(conditioning, _NAME)
            if read is None or not len(read.seen):
                return predict(noisy, timesteps, conditioning)
            times = timesteps.expand(len(noisy))
            with self._seen(backbone, read, times):
                told = predict(noisy, times, conditioning)
            if self.training or self.config.identity_guidance == 1:
                return told
            at = read.seen.to(noisy.device)
            own = Read(vectors=read.vectors[read.seen], strength=read.strength[read.seen])
            nothing = backbone.encode_prompt([""] * len(at))
            some, when = noisy[at], times[at]
            with self._seen(backbone, own, when):
                identity = predict(some, when, nothing)
            none = predict(some, when, nothing)
            return told.index_copy(0, at, self.guided(told[at], identity, none))

        return answered

    def guided(self, told: Tensor, identity: Tensor, none: Tensor) -> Tensor:
        """What guidance of the text's weight makes the sum of both guidances of.

        Args:
            told: prediction for identity and text.
            identity: for the identity alone.
            none: for neither.
        """
        return told + (self.config.identity_guidance - 1) * (identity - none)

    @contextlib.contextmanager
    def _seen(self, backbone: WanBackbone, read: Read, times: Tensor) -> Iterator[None]:
        # As the transformer itself runs where its weights learned in float32 on a base of less.
        with torch.autocast(backbone.device.type, dtype=backbone.dtype, enabled=backbone.dtype != torch.float32):
            pairs = identity_pairs(backbone.denoiser, read.vectors.to(backbone.dtype), times)
        inside = lambda: seeing_identity(backbone.denoiser, pairs, read.strength)  # noqa: E731
        with recomputing_inside(backbone.denoiser, inside), inside():
            yield
