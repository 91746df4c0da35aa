"""StyleCrafter (Liu et al. 2023, arXiv 2312.00330): a style adapter learned on stills, then brought into motion.

Learned queries make a few style tokens of a picture's class token and patches. Every text cross-attention looks at them
with a second key and value map; what it finds is normalised and added to what it finds in the text, times a number that
a second network of queries predicts for every layer from the text and the style:

    out = TextAttention(Q) + (1 + s_i) LayerNorm(StyleAttention(Q)),  s_i in (-1, 1).

First all this learns on single frames, then the temporal attention alone on clips.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import build_adapter
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading, check_context
from pcs_ext.image.reference.inside import answering
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning
from pcs_ext.video.recipes.layers import LayersConfig
from pcs_ext.video.reference.base import AbstractClipReference, ClipStage, attended, clip_model, frames_beside
from pcs_ext.video.reference.query_encoder import QueryEncoder
from pcs_ext.video.reference.text_looks import Change, finding_instead
from pcs_ext.video.reference.token_maps import TokenMaps

_TOKENS, _STRENGTHS = "stylecrafter_tokens", "stylecrafter_strengths"


@config
class StyleCrafterConfig:
    """A style adapter with a predicted strength for every layer."""

    kind: Literal["stylecrafter"] = "stylecrafter"
    """Tag in JSON."""
    tokens: int = 8
    """Style queries; the released settings'."""
    depth: int = 3
    """Blocks that make style tokens; the released settings'."""
    scale_depth: int = 2
    """Blocks that predict the layers' strengths; the released settings'."""
    heads: int = 8
    """Of both; the released settings'."""
    style_guidance: float = 0.5
    """In use, what the style adds to a prediction counts so much beside what the text adds: 7.5 of 15 there."""
    still_share: float = 2 / 3
    """Of the steps for the first stage, on single frames: 40,000 of 60,000."""

    def __post_init__(self) -> None:
        if min(self.tokens, self.depth, self.scale_depth, self.heads) < 1 or self.style_guidance < 0:
            raise ConfigError(
                "tokens, depth, scale_depth and heads must be at least 1 and style_guidance not negative, got "
                f"{self.tokens}, {self.depth}, {self.scale_depth}, {self.heads} and {self.style_guidance}."
            )
        if not 0 < self.still_share < 1:
            raise ConfigError(f"still_share must be in (0, 1), got {self.still_share}.")


class StyleCrafter(AbstractClipReference):
    """Style queries, strengths, maps and norms, and the temporal attention.

    Differs from StyleCrafter: any AnimateDiff base instead of VideoCrafter; the style is seen in another frame or photo
    of it instead of a crop of the same picture; the second stage has clips alone, where a fifth of its batches are
    pictures, which pass by the layers that learn there.

    Args:
        config: of the adapter.
        width: of the image encoder's vectors.
        maps: to keys and values.
        channels: of every text cross-attention's output before its projection, by path.
        motion: the temporal attention's weights.
    """

    sees: Sees = "layers"
    depths = (1.0,)

    def __init__(
        self,
        config: StyleCrafterConfig,
        width: int,
        maps: TokenMaps,
        channels: dict[str, int],
        motion: AbstractAdapter,
    ) -> None:
        super().__init__()
        self.config, self.width, self.maps = config, width, maps
        self.style = QueryEncoder(width, config.tokens, depth=config.depth, heads=config.heads)
        self.project = nn.Linear(width, maps.context, bias=False)
        self.strength = QueryEncoder(maps.context, len(channels), depth=config.scale_depth, heads=config.heads)
        # Between them 32 numbers, as in the released code.
        self.one = nn.Sequential(nn.Linear(maps.context, 32), nn.GELU(), nn.Linear(32, 1), nn.Tanh())
        self.norms = nn.ModuleDict({maps.names[path]: nn.LayerNorm(own) for path, own in channels.items()})
        self.inside = (motion,)

    @classmethod
    def untrained(
        cls, config: StyleCrafterConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "StyleCrafter":
        """Maps begin as the text's own, the temporal attention as the base's."""
        motion = LayersConfig(layers="temporal_attention", method="full").adapter(clip_model(backbone))
        maps = TokenMaps.as_text(backbone)
        channels = {path: backbone.denoiser.get_submodule(path).to_v.weight.shape[0] for path in maps.names}
        return cls(config, reading.width, maps, channels, build_adapter("reference_motion", motion))

    @property
    def stages(self) -> tuple[ClipStage, ...]:
        """The style on stills, then the temporal attention on clips."""
        share = self.config.still_share
        return (
            ClipStage(name="style", share=share, trains=("reference",), still=True),
            ClipStage(name="motion", share=1 - share, trains=("base",)),
        )

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("stylecrafter", self.maps.context, backbone)

    def style_tokens(self, features: Tensor) -> Tensor:
        """`b r k width` -> `b r*tokens context`: those of several pictures stand side by side."""
        made = self.project(self.style(features.flatten(0, 1)))
        return made.unflatten(0, features.shape[:2]).flatten(1, 2)

    def strengths(self, text: Tensor, style: Tensor) -> Tensor:
        """1 + s_i of every layer, `b layers` in (0, 2), of text states and style tokens `b n context`."""
        return 1 + self.one(self.strength(torch.cat([text, style], dim=1))).squeeze(-1)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`."""
        told = asked.encoded()
        tokens = self.style_tokens(asked.shown.to(next(self.parameters())).sight.features[:, :, 0])
        seen = torch.tensor(asked.shown.rows, device=tokens.device, dtype=tokens.dtype)
        counted = asked.scale * seen[:, None] * self.strengths(told.states.to(tokens), tokens)
        read = {_TOKENS: tokens, _STRENGTHS: counted[:, None]}
        return dataclasses.replace(told, shown={**(told.shown or {}), **read})

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: layers look at the style while rows that have one are denoised."""
        with super().inserted(backbone, scale), answering(backbone, _TOKENS, self._answered(backbone)):
            yield

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            read = conditioning.shown or {}
            if _STRENGTHS not in read:
                return predict(noisy, timesteps, conditioning)
            frames = frames_beside(noisy, conditioning)
            # Made once: what is computed again in the backward pass is what lies in the blocks.
            changes = self._changes(backbone.denoiser, read, frames)
            inside = lambda: finding_instead(backbone.denoiser, changes)  # noqa: E731
            with recomputing_inside(backbone.denoiser, inside), inside():
                styled = predict(noisy, timesteps, conditioning)
            if self.training or self.config.style_guidance == 1:
                return styled
            plain = predict(noisy, timesteps, conditioning)
            # Guidance of scale g from a row without text and style then gives
            # eps_0 + g (eps_t - eps_0) + g r (eps_ts - eps_t); rows without style are equal in both.
            return plain + self.config.style_guidance * (styled - plain)

        return answered

    def _changes(self, denoiser: nn.Module, read: Mapping[str, Tensor], frames: int) -> dict[str, Change]:
        """What becomes of the look at the text in every layer, each row of `read` in so many frames."""
        strengths = read[_STRENGTHS][:, 0].repeat_interleave(frames, 0)
        return {
            path: self._styled(denoiser.get_submodule(path), pair, path, strengths[:, index], frames)
            for index, (path, pair) in enumerate(self.maps(read[_TOKENS]).items())
        }

    def _styled(self, attention: Any, pair: tuple[Tensor, Tensor], path: str, strengths: Tensor, frames: int) -> Change:
        keys, values = (one.repeat_interleave(frames, 0) for one in pair)
        norm = self.norms[self.maps.names[path]]

        def change(query: Tensor, found: Tensor) -> Tensor:
            seen = attended(attention, query, keys.to(query.dtype), values.to(query.dtype))
            return found + (strengths[:, None, None] * norm(seen.to(strengths.dtype))).to(found.dtype)

        return change
