"""VideoAssembler (Zhao et al. 2023, arXiv 2311.17338; published as MagDiff): entities beside the latents and the text.

The *reference entity pyramid*: the cut-out subject's latents of several sizes go through convolutions, and what comes
out stands beside the noisy latents of every frame. The *entity-prompt attention fusion*: every text cross-attention
asks the subject's tokens, too, by the same queries, and two learned numbers weigh what is found in either:

    out = a_text TextAttention(Q) + a_image ImageAttention(Q).
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading, check_context
from pcs_ext.image.reference.inside import Read, answering, beside, read_of
from pcs_ext.image.reference.projection import Resampler
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning
from pcs_ext.video.reference.base import AbstractClipReference, ShownWithLatents, attended, frames_beside
from pcs_ext.video.reference.first_layer import adding
from pcs_ext.video.reference.text_looks import Change, finding_instead
from pcs_ext.video.reference.token_maps import TokenMaps

_HEAD = 64
_TOKENS, _PYRAMID = "videoassembler_tokens", "videoassembler_pyramid"


@config
class VideoAssemblerConfig:
    """A pyramid of the entity, and two numbers in every layer."""

    kind: Literal["videoassembler"] = "videoassembler"
    """Tag in JSON."""
    hidden: int = 128
    """Channels of the pyramid's convolutions; ours."""
    tokens: int = 16
    """Queries that read the entity's patches; the released code's, as are the four numbers below."""
    inner: int = 1024
    """Width in which they do."""
    heads: int = 12
    """Of 64 numbers each."""
    depth: int = 4
    """Their blocks."""
    image_weight: float = 1.5
    """Where a_image begins; a_text begins at 1."""

    def __post_init__(self) -> None:
        if min(self.hidden, self.tokens, self.inner, self.heads, self.depth) < 1:
            raise ConfigError("hidden, tokens, inner, heads and depth must be at least 1.")


class EntityPyramid(nn.Module):
    """Latents of a picture at several sizes -> features beside the noisy latents; nothing at first.

    Args:
        levels: sizes.
        channels: of the latents.
        hidden: inside.
        entering: of the denoiser's first features.
    """

    def __init__(self, levels: int, channels: int, hidden: int, entering: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, hidden, 3, padding=1), nn.SiLU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.SiLU()
            )
            for _ in range(levels)
        )
        # The first layer's own weights for these channels.
        self.entering = nn.Conv2d(levels * hidden, entering, 3, padding=1, bias=False)
        nn.init.zeros_(self.entering.weight)

    def forward(self, pictures: list[Tensor], size: tuple[int, int]) -> Tensor:
        """`b c h_i w_i` of every level -> `b entering h w` of that size."""
        seen = [level(picture) for level, picture in zip(self.levels, pictures, strict=True)]
        sized = [F.interpolate(one, size=size, mode="area") for one in seen]
        return self.entering(torch.cat(sized, dim=1))


class VideoAssembler(AbstractClipReference):
    """The pyramid, the tokens' maps and the two numbers of every layer. The base stays.

    Differs from VideoAssembler: any base that makes clips of an image model's layers, and it stays as it is; subjects
    are cut out by their masks where there are any; videos are not edited by keeping a region of theirs. The pyramid's
    convolutions, whose form is not in the released code, are ours.

    Args:
        config: of the adapter.
        width: of the image encoder's patches.
        maps: to keys and values.
        channels: of latents.
        entering: of the denoiser's first features.
    """

    sees: Sees = "patches"
    cuts = True
    enters = True
    pyramid = (1.5, 1.25)
    """384 and 320 pixels where clips have 256, and those 256."""

    def __init__(self, config: VideoAssemblerConfig, width: int, maps: TokenMaps, channels: int, entering: int) -> None:
        super().__init__()
        self.config, self.width, self.maps = config, width, maps
        self.entity = EntityPyramid(1 + len(self.pyramid), channels, config.hidden, entering)
        self.queries = Resampler(
            width, maps.context, config.tokens, inner=config.inner, attention=_HEAD * config.heads, depth=config.depth
        )
        names, begins = maps.names.values(), torch.tensor(config.image_weight)
        self.text_weight = nn.ParameterDict({name: nn.Parameter(torch.ones(())) for name in names})
        self.image_weight = nn.ParameterDict({name: nn.Parameter(begins.clone()) for name in names})

    @classmethod
    def untrained(
        cls, config: VideoAssemblerConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "VideoAssembler":
        """Maps begin as the text's own, the pyramid at nothing."""
        entering = backbone.denoiser.conv_in.weight.shape[0]
        return cls(config, reading.width, TokenMaps.as_text(backbone), backbone.latent_channels, entering)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("videoassembler", self.maps.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Tokens of several pictures stand side by side; the first one is
        what the pyramid is of."""
        shown, like = asked.shown, next(self.parameters())
        assert isinstance(shown, ShownWithLatents), "the entity is read as the clip model draws it"
        seen = shown.to(like).sight.object
        tokens = self.queries(seen.flatten(0, 1)).unflatten(0, seen.shape[:2]).flatten(1, 2)
        levels = [shown.latents, *shown.pyramid]
        features = self.entity([level[:, 0].to(like) for level in levels], tuple(shown.latents.shape[-2:]))
        strength = asked.scale * asked.seen
        told = beside(asked.encoded(), _TOKENS, tokens, strength)
        return beside(told, _PYRAMID, features.flatten(2), strength)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: rows that have an entity are denoised beside it."""
        with super().inserted(backbone, scale), answering(backbone, _TOKENS, self._answered(backbone)):
            yield

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            tokens, entity = read_of(conditioning, _TOKENS), read_of(conditioning, _PYRAMID)
            if tokens is None or entity is None:
                return predict(noisy, timesteps, conditioning)
            frames = frames_beside(noisy, conditioning)
            features = (entity.vectors * entity.strength[:, None, None]).unflatten(2, noisy.shape[-2:])
            # Made once: what is computed again in the backward pass is what lies in the blocks.
            changes = self._changes(backbone.denoiser, tokens, frames)
            inside = lambda: finding_instead(backbone.denoiser, changes)  # noqa: E731
            beside = adding(backbone.denoiser.conv_in, features.repeat_interleave(frames, 0))
            with beside, recomputing_inside(backbone.denoiser, inside), inside():
                return predict(noisy, timesteps, conditioning)

        return answered

    def _changes(self, denoiser: Any, tokens: Read, frames: int) -> dict[str, Change]:
        """What becomes of the look at the text in every layer, each row of the tokens in so many frames."""
        strength = tokens.strength.repeat_interleave(frames, 0)[:, None, None]
        return {
            path: self._fused(denoiser.get_submodule(path), pair, self.maps.names[path], strength, frames)
            for path, pair in self.maps(tokens.vectors).items()
        }

    def _fused(self, attention: Any, pair: tuple[Tensor, Tensor], name: str, strength: Tensor, frames: int) -> Change:
        keys, values = (one.repeat_interleave(frames, 0) for one in pair)
        of_text, of_image = cast(Tensor, self.text_weight[name]), cast(Tensor, self.image_weight[name])

        def change(query: Tensor, found: Tensor) -> Tensor:
            seen = attended(attention, query, keys.to(query.dtype), values.to(query.dtype))
            return found + strength.to(found) * ((of_text - 1) * found + of_image * seen)

        return change
