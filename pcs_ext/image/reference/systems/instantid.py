"""InstantID (Wang et al. 2024, arXiv 2401.07519): an identity as tokens, and a ControlNet that reads them alone.

A resampler makes tokens of one identity embedding. Every text cross-attention reads them by keys and values of their
own (the *image adapter*), and so does *IdentityNet*: a ControlNet whose map is a drawing of a few landmarks, a weak
condition of place, and whose text is replaced by the tokens, so that nothing but the identity tells it what to draw.
"""

from typing import Literal

from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading, check_context, context_width
from pcs_ext.image.reference.beside import PictureMaps
from pcs_ext.image.reference.control import ControlBranch
from pcs_ext.image.reference.inside import beside
from pcs_ext.image.reference.led import AbstractLedAdapter
from pcs_ext.image.reference.maps import MapKinds, channels, check_kinds
from pcs_ext.image.reference.projection import Resampler
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning, Decoupled

_HEAD = 64
"""Width of the resampler's heads."""


@config
class InstantIDConfig:
    """An image adapter and IdentityNet; sizes and strengths are the released settings, for SDXL."""

    kind: Literal["instantid"] = "instantid"
    """Tag in JSON."""
    maps: MapKinds = ("landmarks",)
    """What IdentityNet sees of places: the paper's five landmarks; any others may take their place or stand beside."""
    tokens: int = 16
    """Of an identity."""
    inner: int = 1280
    """Width inside the resampler, and of its attentions together; a multiple of 64."""
    depth: int = 4
    """Its blocks."""
    adapter_strength: float = 0.8
    """Of the image adapter, in use; 1 in training."""
    identitynet_strength: float = 0.8
    """Of what IdentityNet adds, in use; 1 in training."""

    def __post_init__(self) -> None:
        check_kinds(self.maps)
        if not self.maps or min(self.tokens, self.depth) < 1 or self.inner < _HEAD or self.inner % _HEAD:
            raise ConfigError(
                f"maps must name one kind or more, tokens and depth be at least 1 and inner a multiple of {_HEAD}; got "
                f"{self.maps}, {self.tokens}, {self.depth} and {self.inner}."
            )
        if min(self.adapter_strength, self.identitynet_strength) < 0:
            raise ConfigError("adapter_strength and identitynet_strength must not be negative.")


class InstantID(AbstractLedAdapter):
    """The resampler, the image adapter and IdentityNet; the base stays as it is.

    Embeddings of several pictures are averaged, as in the paper. On SDXL the pooled text and the sizes still reach
    IdentityNet, as in the released code: what is replaced is the context of its attentions.

    Differs from InstantID in that any image encoder's embedding of the whole photo stands for a face recogniser's of a
    face that was cut out; in that landmarks are drawn in proportion to the picture; and in that rows without landmarks
    have no IdentityNet, and are the base where they see no picture either. Where landmarks are given, such rows (those
    that guidance goes away from) read the tokens of an embedding of zeros, as in the released code.

    Args:
        config: of the adapter.
        backbone: whose denoiser is copied.
        width: of the image encoder's embedding.
    """

    sees: Sees = "embedding"
    maps_name, tokens_name = "instantid_maps", "instantid_tokens"

    def __init__(self, config: InstantIDConfig, backbone: AbstractBackbone, width: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context_width(backbone)
        self.map_kinds, self.factor = config.maps, backbone.vae_factor
        self.resampler = Resampler(
            width, self.context, config.tokens, inner=config.inner, attention=config.inner, depth=config.depth
        )
        self.adapter = PictureMaps.like_the_texts(backbone)
        self.identitynet = ControlBranch(backbone, channels(config.maps))

    @classmethod
    def untrained(cls, config: InstantIDConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "InstantID":
        """Keys and values begin as the text's, IdentityNet's weights as the base's, its outputs zero."""
        return cls(config, backbone, reading.width)

    @property
    def leads(self) -> ControlBranch:
        """See `AbstractLedAdapter.leads`."""
        return self.identitynet

    def branch_context(self, states: Tensor, tokens: Tensor) -> Tensor:
        """See `AbstractLedAdapter.branch_context`: the identity's tokens where the text's states were."""
        return tokens

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("instantid", self.context, backbone)

    def tokens_of(self, embeddings: Tensor, seen: Tensor) -> Tensor:
        """Embeddings of pictures `b r width` and `b` bool -> tokens `b tokens context`; of zeros in rows unseen."""
        identity = embeddings.mean(1) * seen.to(embeddings)[:, None]
        return self.resampler(identity[:, None])

    def _strengths(self) -> tuple[float, float]:
        """Of the image adapter and of IdentityNet."""
        own = self.config
        return (1.0, 1.0) if self.training else (own.adapter_strength, own.identitynet_strength)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Prompts stay as they are."""
        told, maps = asked.encoded(), asked.shown.maps
        if maps is None and not bool(asked.seen.any()):
            return told
        features = asked.shown.to(next(self.parameters())).sight.features
        tokens = self.tokens_of(features, asked.seen)
        counted = (asked.seen if maps is None else asked.seen.new_ones(len(asked.seen))).to(tokens)
        own, net = (asked.scale * strength for strength in self._strengths())
        told = told.beside(Decoupled(pairs=self.adapter(tokens, own * counted[:, None, None])))
        if maps is None:
            return told
        told = beside(told, self.tokens_name, tokens, counted)
        # Photos without landmarks have black maps, which IdentityNet is not to learn.
        led = counted * maps.flatten(1).any(1).to(counted)
        return self.led(told, maps, net * led)
