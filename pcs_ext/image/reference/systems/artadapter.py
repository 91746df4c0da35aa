"""ArtAdapter (Chen et al. 2023, arXiv 2312.02109): style from several levels of an encoder, content held back.

Of every level of the image encoder mean and spread become tokens. Text and style tokens share one cross-attention, the
style's with keys and values of its own (explicit adaptation). While it learns, an auxiliary content adapter tells the
denoiser what the picture shows, so that the style tokens need not; in use it is left out.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, Terms, check_context, context_width
from pcs_ext.image.reference.beside import PictureMaps
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning, Decoupled


@config
class ArtAdapterConfig:
    """A multi-level style encoder and a content adapter. Sizes are ours: the paper's are not known here."""

    kind: Literal["artadapter"] = "artadapter"
    """Tag in JSON."""
    tokens: int = 3
    """Of every level."""
    hidden: int = 1024
    """Width inside the levels' networks."""
    content_cells: int = 8
    """Rows and columns of what the content adapter sees of a picture."""
    content_hidden: int = 64
    """Channels inside it."""

    def __post_init__(self) -> None:
        if min(self.tokens, self.hidden, self.content_cells, self.content_hidden) < 1:
            raise ConfigError("tokens, hidden, content_cells and content_hidden must be at least 1.")


class StyleLevels(nn.Module):
    """Mean and spread of every level's patches -> tokens: what a picture's texture is, wherever in it.

    Args:
        config: of the adapter.
        reading: of the image encoder.
        context: of text states.
    """

    def __init__(self, config: ArtAdapterConfig, reading: Reading, context: int) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(2 * reading.width), nn.Linear(2 * reading.width, config.hidden), nn.GELU(),
                nn.Linear(config.hidden, config.tokens * context),
            )
            for _ in range(reading.layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(context)

    def forward(self, features: Tensor) -> Tensor:
        """`b l k width`, class tokens first -> `b l*tokens context`."""
        patches = features[:, :, 1:]
        known = torch.cat([patches.mean(2), patches.std(2, unbiased=False)], dim=-1)
        made = [level(known[:, index]).unflatten(1, (self.tokens, -1)) for index, level in enumerate(self.levels)]
        return self.norm(torch.cat(made, dim=1))


class ContentAdapter(nn.Module):
    """What of a picture's latents is not style -> what is added to the denoiser's first features; nothing at first.

    Of every channel mean and spread are taken out, which AdaIN (arXiv 1703.06868) takes for the style, and what is left
    is seen in few cells.

    Args:
        config: of the adapter.
        channels: of the latents.
        width: of the denoiser's first features.
    """

    def __init__(self, config: ArtAdapterConfig, channels: int, width: int) -> None:
        super().__init__()
        self.cells = config.content_cells
        self.enter = nn.Conv2d(channels, config.content_hidden, 3, padding=1)
        self.leave = nn.Conv2d(config.content_hidden, width, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def content(self, latents: Tensor) -> Tensor:
        """`b c h w` -> `b c cells cells`, each channel of mean 0 and spread 1 before it is made coarse."""
        spread = latents.std((2, 3), keepdim=True, unbiased=False)
        plain = (latents - latents.mean((2, 3), keepdim=True)) / (spread + 1e-5)
        return F.adaptive_avg_pool2d(plain, self.cells)

    def forward(self, latents: Tensor) -> Tensor:
        """`b c h w` -> `b width h w`."""
        seen = F.gelu(self.enter(self.content(latents)))
        return self.leave(F.interpolate(seen, size=latents.shape[2:], mode="bilinear"))


class ArtAdapter(AbstractReferenceAdapter):
    """The style encoder, its keys and values, and the content adapter.

    Differs from ArtAdapter in that levels are layers of a vision transformer, where the paper takes a VGG's; how it
    makes content weak is ours; and other pictures of the style are shown than the one that is drawn.

    Args:
        config: of the adapter.
        reading: of the image encoder.
        maps: of every text cross-attention.
        context: of text states.
        channels: of the latents and of the denoiser's first features.
    """

    sees: Sees = "layers"
    depths = (1 / 3, 2 / 3, 1.0)

    def __init__(
        self, config: ArtAdapterConfig, reading: Reading, maps: PictureMaps, context: int, channels: tuple[int, int]
    ) -> None:
        super().__init__()
        self.width, self.context = reading.width, context
        self.style = StyleLevels(config, reading, context)
        self.maps = maps
        self.content = ContentAdapter(config, *channels)

    @classmethod
    def untrained(
        cls, config: ArtAdapterConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "ArtAdapter":
        """Keys and values begin as the text's own."""
        entering = backbone.denoiser.conv_in.weight
        maps = PictureMaps.like_the_texts(backbone)
        return cls(config, reading, maps, context_width(backbone), (entering.shape[1], entering.shape[0]))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("artadapter", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Styles of several pictures stand side by side."""
        features = asked.shown.to(next(self.parameters())).sight.features
        tokens = self.style(features.flatten(0, 1)).unflatten(0, features.shape[:2]).flatten(1, 2)
        weight = asked.scale * asked.seen.to(tokens) / features.shape[1]
        return asked.encoded().beside(Decoupled(pairs=self.maps(tokens), joint=weight))

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: inside, the denoiser is told the target's content."""

        def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            latents = pairs.latents.to(output.device, next(self.content.parameters()).dtype)
            # Rows without a style do without its counterpart: guidance goes away from what they predict, in use, too.
            styled = torch.tensor(pairs.shown.rows, device=output.device)[:, None, None, None]
            return output + (styled * self.content(latents)).to(output.dtype)

        handle = backbone.denoiser.conv_in.register_forward_hook(add)
        try:
            yield dict
        finally:
            handle.remove()
