"""Omni-ID (Qian et al. 2024, arXiv 2412.09694): one code of a subject, of any number of pictures of it.

Learned queries ask the patches of all pictures together and each other, so that the code has one size, and each of its
rows a meaning of its own. It is learned by telling many pictures of a subject by a few (*few-to-many reconstruction*),
through two decoders one after the other: a masked transformer, to which nearly nothing else is shown, and a diffusion
model. Then the code stays as it is and conditions a generator.
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
from pcs_ext.image.reference.masked_decoder import MaskedDecoder, cut, visible
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.types import Conditioning, Decoupled


@config
class OmniIDConfig:
    """A code and its two decoders."""

    kind: Literal["omni-id"] = "omni-id"
    """Tag in JSON."""
    tokens: int = 256
    """Rows of the code, as is told of the paper."""
    width: int = 1280
    """Of each, likewise."""
    depth: int = 4
    """Blocks of the encoder; ours, as are the next four."""
    heads: int = 20
    """Of its attentions."""
    patch: int = 2
    """Cells along a patch of the masked decoder."""
    decoder_width: int = 512
    """Of the masked decoder; a multiple of 4 and of 16, its heads (MAE's)."""
    decoder_depth: int = 8
    """Its blocks (MAE's)."""
    masked: float = 0.95
    """Share of the patches that are hidden from it, as is told of the paper."""
    targets: int = 8
    """Pictures of a subject that are told by the same few, likewise."""
    masked_share: float = 0.8
    """Of the steps, in which the masked decoder teaches the encoder. Ours, as is the next; of the paper 200,000 and
    10,000 are told, and those of the generator are not."""
    diffusion_share: float = 0.05
    """Of the steps, in which the diffusion decoder does; in the rest the code stays as it is."""

    def __post_init__(self) -> None:
        sizes = (self.tokens, self.width, self.depth, self.heads, self.patch, self.decoder_width, self.decoder_depth)
        if min(*sizes, self.targets) < 1 or self.width % self.heads or self.decoder_width % _HEADS:
            raise ConfigError(
                f"all sizes of Omni-ID must be at least 1, width a multiple of heads and decoder_width of {_HEADS}."
            )
        shares = (self.masked_share, self.diffusion_share)
        if not 0 < self.masked <= 1 or min(shares) <= 0 or sum(shares) >= 1:
            raise ConfigError(
                "masked must be a share above 0, masked_share and diffusion_share above 0 and together below 1, got "
                f"{self.masked}, {self.masked_share} and {self.diffusion_share}."
            )


_HEADS = 16
"""Of the masked decoder (MAE's)."""


class IdentityEncoder(nn.Module):
    """Vectors of all patches of any number of pictures -> a code of one size; the order of pictures does not matter.

    In every block the learned queries attend to each other, then to the patches, and pass a feed-forward network.

    Args:
        picture: width of the patches' vectors.
        tokens: queries.
        width: of the code.
        depth: blocks.
        heads: of every attention.
    """

    def __init__(self, picture: int, tokens: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.enter = nn.Sequential(nn.LayerNorm(picture), nn.Linear(picture, width))
        self.blocks = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, patches: Tensor) -> Tensor:
        """`b r k picture` -> `b tokens width`."""
        told = self.enter(patches.flatten(1, 2))
        code = self.queries.expand(len(told), -1, -1)
        for block in self.blocks:
            code = block(code, told)
        return self.norm(code)


class OmniID(AbstractReferenceAdapter):
    """The encoder, the masked decoder, and keys and values of the code beside the text's.

    Differs from Omni-ID in that it encodes whatever a frozen image encoder tells of a photo, not faces alone; in the
    masked decoder, which tells the base's latents, where the paper's tells pixels; in the base, which is the second
    decoder and the generator, where the paper has FLUX, and flow matching is its loss; and in that the generator begins
    as that decoder. The number of photos that are shown is drawn, too, as in all systems here.

    Args:
        config: of the adapter.
        reading: of the image encoder.
        backbone: whose latents are told, and whose text cross-attentions read the code.
    """

    sees: Sees = "patches"

    def __init__(self, config: OmniIDConfig, reading: Reading, backbone: AbstractBackbone) -> None:
        super().__init__()
        self.config, self.width, self.context = config, reading.width, context_width(backbone)
        self.targets = config.targets
        self.encoder = IdentityEncoder(
            reading.width, config.tokens, width=config.width, depth=config.depth, heads=config.heads
        )
        channels = int(backbone.denoiser.config["out_channels"])
        self.decoder = MaskedDecoder(
            channels * config.patch**2,
            config.width,
            width=config.decoder_width,
            depth=config.decoder_depth,
            heads=_HEADS,
        )
        self.project = nn.Sequential(nn.Linear(config.width, self.context), nn.LayerNorm(self.context))
        self.maps = PictureMaps.like_the_texts(backbone)
        self._stage = ""

    @classmethod
    def untrained(cls, config: OmniIDConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "OmniID":
        """The code's keys and values begin as the text's.

        Raises:
            ArtifactError: the base's latents cannot be cut into such patches.
        """
        side = backbone.resolution // backbone.vae_factor
        cut(torch.zeros(1, 1, side, side), config.patch)
        return cls(config, reading, backbone)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("omni-id", self.context, backbone)

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """See `AbstractReferenceAdapter.stages`: two decoders that teach the encoder, and a generator."""
        first, second = self.config.masked_share, self.config.diffusion_share
        return (
            TrainingStage(name="masked", share=first, trains=("encoder", "masked")),
            TrainingStage(name="diffusion", share=second, trains=("encoder", "generator")),
            TrainingStage(name="generator", share=1 - first - second, trains=("generator",)),
        )

    def begin_stage(self, name: str) -> None:
        """See `AbstractReferenceAdapter.begin_stage`; few tell many while the encoder learns."""
        self._stage = name
        self.targets = 1 if name == "generator" else self.config.targets

    @property
    def denoises(self) -> bool:
        """See `AbstractReferenceAdapter.denoises`."""
        return self._stage != "masked"

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """See `AbstractReferenceAdapter.groups`."""
        return {
            "encoder": tuple(self.encoder.parameters()),
            "masked": tuple(self.decoder.parameters()),
            "generator": (*self.project.parameters(), *self.maps.parameters()),
        }

    def code_of(self, shown: Shown) -> Tensor:
        """Of the pictures of each row, `b tokens width`."""
        return self.encoder(shown.to(self.encoder.queries).sight.features)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`."""
        told = asked.encoded()
        code = self.code_of(asked.shown)
        counted = (asked.scale * asked.seen).to(code)[:, None, None]
        return told.beside(Decoupled(pairs=self.maps(self.project(code), counted)))

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `masked`, while the masked decoder teaches."""
        if self.denoises:
            yield dict
            return
        seen = torch.tensor(pairs.shown.rows)
        patches, grid = cut(pairs.latents, self.config.patch)
        kept = visible(len(patches), patches.shape[1], self.config.masked, pairs.generator)
        device = self.encoder.queries.device
        patches, kept = patches[seen].to(device), kept[seen].to(device)

        def terms() -> dict[str, Tensor]:
            told = self.decoder(patches, kept, self.code_of(pairs.shown)[seen.to(device)], grid)
            return {"masked": hidden_error(told, patches, kept)}

        yield terms


def hidden_error(told: Tensor, patches: Tensor, kept: Tensor) -> Tensor:
    """Mean absolute error of the hidden patches, 0-d.

    Args:
        told: `b n p`.
        patches: `b n p`, the true ones.
        kept: `b n` bool, the visible ones, of which nothing is asked.
    """
    return (told.float() - patches.float()).abs()[~kept].mean()
