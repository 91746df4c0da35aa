"""Uni-ControlNet (Zhao et al. 2023, arXiv 2305.16322): all condition maps by one adapter, photos by a second one.

The local adapter is a copy of the denoiser's downward half and middle. Maps of all kinds lie one behind the other; what
a small network sees in them scales and shifts, cell by cell, what the first block of every level has normalised. The
global adapter makes four tokens of a photo's embedding, which stand behind the prompt's. The two are trained apart.
"""

import itertools
from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading, TrainingStage, check_context, context_width
from pcs_ext.image.reference.behind import behind_the_text
from pcs_ext.image.reference.control import ControlBranch, Residuals
from pcs_ext.image.reference.inside import beside
from pcs_ext.image.reference.led import AbstractLedAdapter
from pcs_ext.image.reference.maps import Dropping, MapKinds, channels, check_kinds
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning

_FIRST = 32
"""Channels that the maps' network begins with (the released code's)."""


@config
class UniControlNetConfig:
    """A local and a global adapter; sizes and shares are the released settings."""

    kind: Literal["uni-controlnet"] = "uni-controlnet"
    """Tag in JSON."""
    maps: MapKinds = ("edges", "depth", "mask")
    """Kinds of condition maps, any or all of which may be given in use. The paper's seven are four of edges and lines,
    depth, segmentation and pose."""
    inject: tuple[int, ...] = (192, 256, 384, 512)
    """Channels of what is seen in the maps on each level, from the latents' own size on; the first ones, where the
    base has fewer levels."""
    tokens: int = 4
    """Of a photo."""
    keep_all: float = 0.1
    """Share of training pairs that are told all of their maps."""
    drop_all: float = 0.1
    """Share that are told none."""
    drop_each: float = 0.5
    """Of the rest, the share that each map is left out of."""

    def __post_init__(self) -> None:
        check_kinds(self.maps)
        if not self.maps or min(self.inject, default=0) < 1 or self.tokens < 1:
            raise ConfigError("maps must name one kind or more, and inject and tokens be at least 1.")
        shares = (self.keep_all, self.drop_all, self.drop_each)
        if min(shares) < 0 or self.keep_all + self.drop_all > 1 or self.drop_each > 1:
            raise ConfigError(f"keep_all, drop_all and drop_each must be shares, the first two of one whole: {shares}.")


class MapFeatures(nn.Module):
    """What is seen in maps on every level: a pyramid of convolutions, and on each level one that begins at zero.

    Args:
        entering: channels of the maps.
        inject: channels of each level.
        factor: pixels along a cell of the first level, a power of 2.
    """

    def __init__(self, entering: int, inject: Sequence[int], factor: int) -> None:
        super().__init__()
        halvings = factor.bit_length() - 1
        widths = [_FIRST * 2**index for index in range(halvings)]
        layers: list[nn.Module] = [nn.Conv2d(entering, widths[0], 3, padding=1), nn.SiLU()]
        for narrow, wide in itertools.pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, padding=1, stride=2), nn.SiLU()]
            layers += [nn.Conv2d(wide, wide, 3, padding=1), nn.SiLU()]
        self.enter = nn.Sequential(*layers)
        before = [widths[-1], *inject[:-1]]
        self.levels = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, stride=2) for a, b in zip(before, inject, strict=True)
        )
        self.zeros = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in inject)
        for conv in self.zeros:
            nn.init.zeros_(conv.weight)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> list[Tensor]:
        """`b c H W` in [0, 1] -> of every level `b inject h w`, each half as large as the one before."""
        seen, features = self.enter(maps), []
        for level, zero in zip(self.levels, self.zeros, strict=True):
            seen = F.silu(level(seen))
            features.append(zero(seen))
        return features


class FeatureDenormalisation(nn.Module):
    """norm(z) (1 + gamma(h)) + beta(h): what maps show scales and shifts normalised features (section 3.2).

    Args:
        norm: the group norm in whose place it stands; groups and epsilon are taken over, its weights are not.
        inject: channels of what is seen in the maps.
    """

    def __init__(self, norm: nn.GroupNorm, inject: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm.num_groups, norm.num_channels, eps=norm.eps, affine=False)
        self.gamma = nn.Conv2d(inject, norm.num_channels, 3, padding=1)
        self.beta = nn.Conv2d(inject, norm.num_channels, 3, padding=1)
        self.seen: Tensor | None = None
        """`b inject h w`, set while the features go through."""

    def forward(self, features: Tensor) -> Tensor:
        """`b c h w` -> the same shape."""
        assert self.seen is not None, "maps are seen before features are denormalised"
        return self.norm(features) * (1 + self.gamma(self.seen)) + self.beta(self.seen)


class LocalAdapter(nn.Module):
    """The copy, denormalised by maps in the first block of every level (layers 1, 4, 7 and 10 of Stable Diffusion 1.x).

    Args:
        backbone: whose denoiser is copied.
        config: of the adapter.
    """

    def __init__(self, backbone: AbstractBackbone, config: UniControlNetConfig) -> None:
        super().__init__()
        self.branch = ControlBranch(backbone, 1)
        # Maps do not enter where ControlNet's do, beside the first convolution.
        self.branch.net.controlnet_cond_embedding = _Nothing()
        blocks = self.branch.net.down_blocks
        if len(config.inject) < len(blocks):
            raise ArtifactError(
                f"{backbone.name} has {len(blocks)} levels and inject names {len(config.inject)}; expected one width "
                "for each."
            )
        inject = config.inject[: len(blocks)]
        self.features = MapFeatures(channels(config.maps), inject, backbone.vae_factor)
        for block, width in zip(blocks, inject, strict=True):
            first = block.resnets[0]
            first.norm1 = FeatureDenormalisation(first.norm1, width)
            first.norm2 = FeatureDenormalisation(first.norm2, width)

    def forward(
        self, noisy: Tensor, timesteps: Tensor, states: Tensor, maps: Tensor, added: dict[str, Tensor] | None
    ) -> Residuals:
        """See `ControlBranch.forward`; maps `b c H W` in [0, 1]."""
        seen = self.features(maps.to(self.branch.weight))
        denormalised = [
            (cast(FeatureDenormalisation, norm), level)
            for level, block in zip(seen, self.branch.net.down_blocks, strict=True)
            for norm in (block.resnets[0].norm1, block.resnets[0].norm2)
        ]
        try:
            for norm, level in denormalised:
                norm.seen = level
            return self.branch(noisy, timesteps, states, maps, added)
        finally:
            for norm, _ in denormalised:
                norm.seen = None


class _Nothing(nn.Module):
    """In the place of ControlNet's hint encoder: nothing is added to the first features."""

    def forward(self, hints: Tensor) -> Tensor:
        return hints.new_zeros(())


class GlobalAdapter(nn.Module):
    """An embedding -> tokens behind the prompt's: two normed feed-forward networks, the first twice as wide.

    Without the released code's dropout, so that a training that goes on is the one that was stopped.

    Args:
        width: of the embedding.
        context: of text states.
        tokens: how many.
    """

    def __init__(self, width: int, context: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(2 * width)
        self.first = FeedForward(width, dim_out=2 * width, mult=4, activation_fn="geglu")
        self.second = FeedForward(2 * width, dim_out=tokens * context, mult=4, activation_fn="geglu")

    def forward(self, embeddings: Tensor) -> Tensor:
        """`b width` -> `b tokens context`."""
        wide = self.second_norm(self.first(self.first_norm(embeddings)))
        return self.second(wide).unflatten(1, (self.tokens, -1))


class UniControlNet(AbstractLedAdapter):
    """Both adapters; the base stays as it is.

    Differs from Uni-ControlNet in that grey maps are one channel, where the released code repeats them to three; that
    prompts without a photo have no tokens, where it gives them those of a zero embedding; and that another picture of
    the subject is shown than the one that is drawn.

    Args:
        config: of the adapter.
        backbone: whose denoiser is copied.
        width: of the image encoder's embedding.
    """

    sees: Sees = "embedding"
    maps_name, tokens_name = "uni_controlnet_maps", "uni_controlnet_tokens"

    def __init__(self, config: UniControlNetConfig, backbone: AbstractBackbone, width: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context_width(backbone)
        self.map_kinds, self.factor = config.maps, backbone.vae_factor
        self.dropping = Dropping(keep_all=config.keep_all, drop_all=config.drop_all, drop_each=config.drop_each)
        self.local = LocalAdapter(backbone, config)
        self.content = GlobalAdapter(width, self.context, config.tokens)
        self.stage = ""

    @classmethod
    def untrained(
        cls, config: UniControlNetConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "UniControlNet":
        """The copy's weights are the base's but for what stands in place of norms."""
        return cls(config, backbone, reading.width)

    @property
    def leads(self) -> LocalAdapter:
        """See `AbstractLedAdapter.leads`: it reads the photo's tokens behind the text."""
        return self.local

    def told_maps(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        """See `AbstractReferenceAdapter.told_maps`: all, none, or each by a throw of its own."""
        return self.dropping(maps, self.map_kinds, generator)

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """One adapter after the other, each as if the other were not there."""
        return (
            TrainingStage(name="local", share=0.5, trains=("local",)),
            TrainingStage(name="global", share=0.5, trains=("global",)),
        )

    def begin_stage(self, name: str) -> None:
        """See `AbstractReferenceAdapter.begin_stage`."""
        self.stage = name

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """See `AbstractReferenceAdapter.groups`."""
        return {"local": tuple(self.local.parameters()), "global": tuple(self.content.parameters())}

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("uni-controlnet", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Tokens of several pictures stand side by side.

        At lower strengths tokens and what the local adapter adds are so much shorter, as in the released code.
        """
        told, maps = asked.encoded(), asked.shown.maps
        if maps is not None and not (self.training and self.stage == "global"):
            told = self.led(told, maps, asked.scale)
        if not any(asked.shown.rows) or (self.training and self.stage == "local"):
            return told
        features = asked.shown.to(next(self.parameters())).sight.features
        tokens = asked.scale * self.content(features.flatten(0, 1)).unflatten(0, features.shape[:2]).flatten(1, 2)
        told = told.beside(behind_the_text(asked.backbone, tokens, asked.seen))
        return beside(told, self.tokens_name, tokens, asked.seen)
