"""Gen-1 (Esser et al. 2023, arXiv 2302.03011): a clip redrawn over its structure, with a photo for its content.

Structure is a depth map of every frame, with more or less of its detail taken away, which the model is told; the map's
latents stand beside the noisy ones. Content is the photo's embedding, at which every text cross-attention looks in
place of a prompt. Everything learns, from single frames and clips together. How much frames agree can be chosen in use:
what the model predicts for a clip is drawn away from what it predicts for its frames one by one,

    m = m_frames(0, s) + w_t (m(0, s) - m_frames(0, s)) + w (m(c, s) - m(0, s)).
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
from pcs_ext.image.reference.base import Reading, check_context, context_width
from pcs_ext.image.reference.inside import answering
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbone import to_frames
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.reference.base import AbstractClipReference, ShownWithLatents, clip_model
from pcs_ext.video.reference.directions import Structure, coarser
from pcs_ext.video.reference.first_layer import adding
from pcs_ext.video.reference.tracks import Tracking

_STRUCTURE, _GUIDANCE = "gen_1_structure", "gen_1_guidance"


@config
class Gen1Config:
    """Maps, how coarse they get, and how often single frames are learned from."""

    kind: Literal["gen-1"] = "gen-1"
    """Tag in JSON."""
    structure: Structure = "depth"
    """What the maps show."""
    halvings: int = 7
    """In training maps lose half of their detail up to so many times, evenly drawn; the paper's, as recalled."""
    still_share: float = 0.25
    """Of training steps that take single frames. Ours: the paper has 240 million pictures and 6.4 million clips."""

    def __post_init__(self) -> None:
        if not 0 <= self.halvings <= 7 or not 0 <= self.still_share < 1:
            raise ConfigError(
                f"halvings must be 0 to 7 and still_share in [0, 1), got {self.halvings} and {self.still_share}."
            )


class Gen1(AbstractClipReference):
    """The photo's map to a token, the structure's to the first features, and the whole denoiser with its motion.

    Differs from Gen-1: it begins as any model of clips made of an image model; the photo is another one than a frame
    that is drawn; how coarse maps are is told as one channel more beside them; maps come from a file, or are edges,
    where the paper estimates depth; a prompt without a photo has no prior that would make a picture's embedding of it.

    Args:
        config: of the adapter.
        width: of the image encoder's embedding.
        context: of text states.
        channels: of latents.
        entering: of the denoiser's first features.
    """

    sees: Sees = "embedding"
    steadies = True

    def __init__(self, config: Gen1Config, width: int, context: int, channels: int, entering: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context
        self.still_share = config.still_share
        self.content = nn.Linear(width, context)
        # The first layer's own weights for these channels; nothing at first.
        self.entering = nn.Conv2d(channels + 1, entering, 3, padding=1, bias=False)
        nn.init.zeros_(self.entering.weight)
        self.inside = (FullAdapter("reference", FullConfig(components=("denoiser", "motion"))),)

    @classmethod
    def untrained(cls, config: Gen1Config, backbone: AbstractBackbone, reading: Reading, seed: int) -> "Gen1":
        """The model is the base's."""
        entering = backbone.denoiser.conv_in.weight.shape[0]
        return cls(config, reading.width, context_width(backbone), backbone.latent_channels, entering)

    @property
    def tracking(self) -> Tracking:
        """See `AbstractClipReference.tracking`: maps."""
        return Tracking(structure=self.config.structure)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("gen-1", self.context, backbone)

    def prepared(self, shown: ShownWithLatents, generator: torch.Generator) -> ShownWithLatents:
        """See `AbstractClipReference.prepared`: how coarse each clip's maps are."""
        assert shown.directions is not None, "its training clips have maps"
        drawn = torch.randint(self.config.halvings + 1, (len(shown.latents),), generator=generator)
        return dataclasses.replace(shown, directions=dataclasses.replace(shown.directions, coarseness=drawn))

    def structure(self, backbone: AnimateDiffBackbone, maps: Tensor, coarseness: Tensor) -> Tensor:
        """Latents of maps `b 3 f h w` and how coarse they are, a channel in [0, 1]: `b c+1 f h/k w/k`."""
        rows = zip(maps, coarseness.tolist(), strict=True)
        coarse = torch.stack([coarser(own[None], int(times))[0] for own, times in rows])
        with torch.no_grad():
            latents = backbone.encode_clips(coarse.to(backbone.device, backbone.dtype)).float()
        level = coarseness.to(latents)[:, None, None, None, None] / max(1, self.config.halvings)
        return torch.cat([latents, level.expand(-1, 1, *latents.shape[2:])], dim=1)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Embeddings of several pictures are averaged; rows without a
        picture keep their prompt, and all have their structure."""
        shown, like = asked.shown, next(self.parameters())
        assert isinstance(shown, ShownWithLatents), "clips are drawn over maps"
        directions = shown.directions
        assert directions is not None, "clips are drawn over maps"
        assert directions.maps is not None, "clips are drawn over maps"
        coarseness = directions.coarseness
        coarseness = torch.zeros(len(directions.maps)) if coarseness is None else coarseness
        beside = self.structure(clip_model(asked.backbone), directions.maps, coarseness)
        content = self.content(shown.sight.features.mean(1).to(like))[:, None]
        strength = (asked.scale * asked.seen).to(like)[:, None, None]
        told = asked.encoded().with_states(lambda states: torch.lerp(states, content.to(states), strength.to(states)))
        guidance = 1.0 if directions.temporal_guidance is None else directions.temporal_guidance
        read = {
            _STRUCTURE: asked.scale * beside.flatten(2),
            _GUIDANCE: torch.full((len(beside), 1, 1), guidance, device=beside.device),
        }
        return dataclasses.replace(told, shown={**(told.shown or {}), **read})

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: clips with structure are denoised over it."""
        with super().inserted(backbone, scale), answering(backbone, _STRUCTURE, self._answered(clip_model(backbone))):
            yield

    def _answered(self, backbone: AnimateDiffBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            read = conditioning.shown or {}
            if _STRUCTURE not in read:
                return predict(noisy, timesteps, conditioning)
            frames = noisy.shape[2] if noisy.dim() == 5 else 1
            beside = to_frames(read[_STRUCTURE].unflatten(2, (frames, *noisy.shape[-2:])))
            with adding(backbone.denoiser.conv_in, self.entering(beside.to(self.entering.weight))):
                told = predict(noisy, timesteps, conditioning)
                extra = (read[_GUIDANCE] - 1).unsqueeze(-1).unsqueeze(-1).to(told)
                if self.training or noisy.dim() == 4 or not bool(extra.any()):
                    return told
                nothing = backbone.encode_prompt([""] * len(noisy))
                together = predict(noisy, timesteps, nothing)
                with backbone.frame_by_frame():
                    apart = predict(noisy, timesteps, nothing)
            # The same for rows with and without content, so that guidance by content leaves it as it is.
            return told + extra * (together - apart)

        return answered
