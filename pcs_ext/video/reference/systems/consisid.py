"""ConsisID (Yuan et al. 2024, arXiv 2411.17440): an identity taken apart by frequency, for a video transformer.

*Low frequencies*, what the face is like as a whole, stand beside the noisy latents: the photo's latents in the first of
them, nothing in the others. *High frequencies*, what makes it this face, are read by queries from several layers of the
image encoder and from its global vector; what becomes of the queries is attended to behind every second block. The
first stage learns the coarse part, the second both. For half of the clips errors count inside the subject's mask alone,
and half of the photos are a little noisy (they are always other pictures than those drawn).
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import torch
from diffusers.models.transformers.consisid_transformer_3d import LocalFacialExtractor, PerceiverCrossAttention
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig, LowRankAdapter, LowRankConfig
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading
from pcs_ext.image.reference.inside import Read, answering, beside, read_of
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbones.wan import WanBackbone
from pcs_ext.video.reference.base import (
    AbstractClipReference,
    ClipStage,
    ShownWithLatents,
    check_width,
    transformer_model,
)
from pcs_ext.video.reference.first_layer import adding
from pcs_ext.video.reference.tracks import Tracking

_LOW, _HIGH = "consisid_low", "consisid_high"
_SCALES = 5
"""Layers of the image encoder that are read."""


@config
class ConsisIDConfig:
    """The reader of details, where they enter, and the stages."""

    kind: Literal["consisid"] = "consisid"
    """Tag in JSON."""
    queries: int = 32
    """The released settings', as are those below unless they say otherwise."""
    identity_tokens: int = 5
    """Made of the global vector; queries read them beside the layers."""
    depth: int = 10
    """Blocks of the reader, a multiple of 5: two for each layer that is read."""
    heads: int = 16
    """Of 64 numbers each, of the reader."""
    details: int = 2048
    """Width of what it makes."""
    interval: int = 2
    """Details are attended to behind the first of so many blocks."""
    perceiver_heads: int = 16
    """Of that attention."""
    perceiver_head_width: int = 128
    """Of its heads."""
    rank: int = 0
    """Of low-rank weights on the transformer's attentions, 128 in the released option; 0: all of it learns, the
    released default."""
    coarse_share: float = 0.5
    """Of the steps for the first stage. Ours: how many each had is not known here."""
    noisy_share: float = 0.5
    """Of the photos that are made noisy in training."""
    noise_mean: float = -3.0
    """The noise's deviation is exp of a normal number with this mean and a deviation of 0.5; as recalled."""

    def __post_init__(self) -> None:
        sizes = (self.queries, self.identity_tokens, self.heads, self.details, self.interval)
        if min(*sizes, self.perceiver_heads, self.perceiver_head_width) < 1 or self.rank < 0:
            raise ConfigError("queries, tokens, heads, widths and interval must be at least 1, and rank not negative.")
        if self.depth < _SCALES or self.depth % _SCALES:
            raise ConfigError(f"depth must be a multiple of {_SCALES}, got {self.depth}.")
        if not 0 < self.coarse_share < 1 or not 0 <= self.noisy_share <= 1:
            raise ConfigError(
                f"coarse_share must be in (0, 1) and noisy_share in [0, 1], got {self.coarse_share} and "
                f"{self.noisy_share}."
            )


class ConsisID(AbstractClipReference):
    """The low frequencies' part of the first layer, the reader of details, the attentions to them, and the transformer.

    Differs from ConsisID: Wan instead of CogVideoX; any image encoder's layers and class token stand for those of a
    CLIP and a face recogniser of a face that was found and cut out, so that it is for any subject, best shown large; no
    image of the face's keypoints stands in the second latent; noise is added to latents instead of pixels; errors
    count by masks of the whole subject, where `NAME_mask.mp4` lies beside a clip (`masked`).

    Args:
        config: of the adapter.
        reading: of the image encoder.
        backbone: whose layers it is for.
        seed: of low-rank weights.
    """

    sees: Sees = "layers"
    depths = (1 / 5, 2 / 5, 3 / 5, 4 / 5, 1.0)
    transformer = True

    def __init__(self, config: ConsisIDConfig, reading: Reading, backbone: WanBackbone, seed: int = 0) -> None:
        super().__init__()
        self.config, self.width, self.fine = config, reading.width, True
        entering, blocks = backbone.denoiser.patch_embedding, len(backbone.denoiser.blocks)
        self.inner = entering.weight.shape[0]
        # The first layer's own weights for these channels; nothing at first.
        self.low = nn.Conv3d(backbone.latent_channels, self.inner, entering.kernel_size, entering.stride, bias=False)
        nn.init.zeros_(self.low.weight)
        self.layers = reading.layers
        self.reader = LocalFacialExtractor(
            id_dim=reading.width, vit_dim=reading.width, depth=config.depth // _SCALES * reading.layers,
            heads=config.heads, num_id_token=config.identity_tokens, num_queries=config.queries,
            output_dim=config.details, num_scale=reading.layers,
        )  # fmt: skip
        self.places = tuple(range(0, blocks, config.interval))
        self.looks = nn.ModuleList(
            PerceiverCrossAttention(
                dim=self.inner,
                dim_head=config.perceiver_head_width,
                heads=config.perceiver_heads,
                kv_dim=config.details,
            )
            for _ in self.places
        )
        self.inside = (_weights(config, backbone, seed),)

    @classmethod
    def untrained(cls, config: ConsisIDConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "ConsisID":
        """The transformer is the base's."""
        return cls(config, reading, transformer_model(backbone), seed)

    @property
    def stages(self) -> tuple[ClipStage, ...]:
        """The coarse part, then both."""
        share = self.config.coarse_share
        return (
            ClipStage(name="coarse", share=share, trains=("low", "base")),
            ClipStage(name="fine", share=1 - share, trains=("low", "high", "base")),
        )

    def begin_stage(self, name: str) -> None:
        """See `AbstractReferenceAdapter.begin_stage`."""
        super().begin_stage(name)
        self.fine = name == "fine"

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """`low`, `high`, `base`."""
        return {
            "low": tuple(self.low.parameters()),
            "high": (*self.reader.parameters(), *self.looks.parameters()),
            "base": super().groups()["base"],
        }

    @property
    def tracking(self) -> Tracking:
        """See `AbstractClipReference.tracking`: masks, where there are any."""
        return Tracking(masks=True)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_width("consisid", self.inner, backbone)

    def prepared(self, shown: ShownWithLatents, generator: torch.Generator) -> ShownWithLatents:
        """See `AbstractClipReference.prepared`: some photos get a little noise."""
        count = len(shown.latents)
        deviations = (self.config.noise_mean + 0.5 * torch.randn(count, generator=generator)).exp()
        deviations = deviations * (torch.rand(count, generator=generator) < self.config.noisy_share)
        noise = deviations[:, None, None, None, None] * torch.randn(shown.latents.shape, generator=generator)
        return dataclasses.replace(shown, latents=shown.latents + noise.to(shown.latents))

    def details_of(self, features: Tensor) -> Tensor:
        """Layers of a picture, the deepest last, `b l k width` -> `b queries details`."""
        return self.reader(features[:, -1, 0], list(features[:, :, 1:].unbind(1)))

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Details of several pictures are averaged; the first one is what
        stands beside the latents."""
        shown, like = asked.shown, next(self.parameters())
        assert isinstance(shown, ShownWithLatents), "the photo is read as the clip model draws it"
        strength = asked.scale * asked.seen
        told = beside(asked.encoded(), _LOW, shown.latents[:, 0].to(like).flatten(2), strength)
        if not self.fine:
            return told
        features = shown.to(like).sight.features
        details = self.details_of(features.flatten(0, 1)).unflatten(0, features.shape[:2]).mean(1)
        return beside(told, _HIGH, details, strength)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: clips with a photo are denoised beside it."""
        with super().inserted(backbone, scale), answering(backbone, _LOW, self._answered(transformer_model(backbone))):
            yield

    def _answered(self, backbone: WanBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            low, high = read_of(conditioning, _LOW), read_of(conditioning, _HIGH)
            if low is None:
                return predict(noisy, timesteps, conditioning)
            features = self.first_features(low, noisy)
            inside = lambda: self._looking(backbone.denoiser, high)  # noqa: E731
            beside = adding(backbone.denoiser.patch_embedding, features)
            with beside, recomputing_inside(backbone.denoiser, inside), inside():
                return predict(noisy, timesteps, conditioning)

        return answered

    def first_features(self, low: Read, noisy: Tensor) -> Tensor:
        """What the photo adds to the first layer's output for clips `b c f h w`, or pictures `b c h w`."""
        photo = low.vectors.unflatten(2, noisy.shape[-2:])[:, :, None]
        frames = noisy.shape[2] if noisy.dim() == 5 else 1
        padded = torch.cat([photo, photo.new_zeros(*photo.shape[:2], frames - 1, *photo.shape[-2:])], dim=2)
        return low.strength[:, None, None, None, None] * self.low(padded)

    @contextlib.contextmanager
    def _looking(self, denoiser: Any, high: Read | None) -> Iterator[None]:
        """Inside, blocks at `places` are followed by a look at the details."""
        handles = []
        if high is not None:  # there is nothing to look at in the first stage
            for place, look in zip(self.places, self.looks, strict=True):
                handles.append(denoiser.blocks[place].register_forward_hook(_behind(look, high)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _behind(look: nn.Module, high: Read) -> Any:
    def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        found = look(high.vectors, output.to(high.vectors)) * high.strength[:, None, None]
        return output + found.to(output)

    return add


def _weights(config: ConsisIDConfig, backbone: WanBackbone, seed: int) -> AbstractAdapter:
    if not config.rank:
        return FullAdapter("reference", FullConfig(components=("denoiser",)))
    targets = (*backbone.targets("spatial_self").patterns, *backbone.targets("cross_attention").patterns)
    return LowRankAdapter("reference_low_rank", LowRankConfig(rank=config.rank, targets=targets, init_seed=seed))
