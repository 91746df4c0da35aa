"""DreaMoving (Feng et al. 2023, arXiv 2312.05107): who and in what, by a content guider; how it moves, by maps.

The *content guider* puts two more attentions beside every one to the text, one to a face and one to clothes:

    out = TextAttention(Q) + a_face FaceAttention(Q) + a_cloth ClothAttention(Q).

The *Video ControlNet*, a copy of the denoiser's downward half with the motion modules between its layers, reads a map
of every frame, of poses or depth. They learn one after the other: the guider from single frames, the motion modules
from clips, the ControlNet, and the motion modules once more under it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading, check_context
from pcs_ext.image.reference.inside import answering, beside, read_of
from pcs_ext.image.reference.projection import LinearProjection, Resampler
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning, Decoupled
from pcs_ext.video.backbone import per_frame, to_frames
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.backbones.inflated import InflatedBackbone
from pcs_ext.video.reference.base import AbstractClipReference, ClipStage, ShownWithLatents, clip_model
from pcs_ext.video.reference.directions import Structure
from pcs_ext.video.reference.token_maps import TokenMaps
from pcs_ext.video.reference.tracks import Tracking
from pcs_ext.video.reference.video_controlnet import VideoControlNet, framewise, led, weighed

_MAPS = "dreamoving_maps"
_HEAD = 64


@config
class DreaMovingConfig:
    """The guider, the maps, and the four stages."""

    kind: Literal["dreamoving"] = "dreamoving"
    """Tag in JSON."""
    structure: Structure = "pose"
    """What the maps show."""
    face_tokens: int = 4
    """Made of the face's global vector. Ours (IP-Adapter's), as are the numbers of the clothes'."""
    cloth_tokens: int = 16
    """Queries that read the patches of what is worn."""
    inner: int = 768
    """Width in which they do."""
    heads: int = 12
    """Of 64 numbers each."""
    depth: int = 4
    """Their blocks."""
    face_strength: float = 1.0
    """a_face."""
    cloth_strength: float = 1.0
    """a_cloth."""
    shares: tuple[float, float, float, float] = (100 / 155, 10 / 155, 25 / 155, 20 / 155)
    """Of the steps for each stage: 100,000, 10,000, 25,000 and 20,000 in the paper."""

    def __post_init__(self) -> None:
        if min(self.face_tokens, self.cloth_tokens, self.inner, self.heads, self.depth) < 1:
            raise ConfigError("tokens, inner, heads and depth must be at least 1.")
        if min(self.face_strength, self.cloth_strength) < 0 or min(self.shares) <= 0:
            raise ConfigError("strengths must not be negative, and shares above 0.")
        if abs(sum(self.shares) - 1) > 1e-6:
            raise ConfigError(f"the stages' shares must sum to 1, got {self.shares}.")


class DreaMoving(AbstractClipReference):
    """The guider's networks and maps, the Video ControlNet, and the motion modules.

    Differs from DreaMoving: any image encoder's class token stands for a face recogniser's vector; nothing finds a face
    or clothes, but the first photo is the face and the last what is worn (one photo is both), and in training they are
    two pictures of the subject; maps of one kind at a time; stages share clips and their size; motion modules keep
    their number of positions.

    Args:
        config: of the adapter.
        width: of the image encoder's vectors.
        maps: to keys and values, of face and clothes.
        control: the ControlNet.
    """

    sees: Sees = "layers"
    depths = (1.0,)

    def __init__(
        self, config: DreaMovingConfig, width: int, maps: tuple[TokenMaps, TokenMaps], control: VideoControlNet
    ) -> None:
        super().__init__()
        self.config, self.width, self.controlled = config, width, True
        self.face_maps, self.cloth_maps = maps
        context = self.face_maps.context
        self.face = LinearProjection(width, context, config.face_tokens)
        self.cloth = Resampler(
            width, context, config.cloth_tokens, inner=config.inner, attention=_HEAD * config.heads, depth=config.depth
        )
        self.control = control
        self.inside = (FullAdapter("reference_motion", FullConfig(components=("motion",))),)

    @classmethod
    def untrained(
        cls, config: DreaMovingConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "DreaMoving":
        """Maps begin as the text's own, the ControlNet as the denoiser, adding nothing."""
        maps = (TokenMaps.as_text(backbone), TokenMaps.as_text(backbone))
        return cls(config, reading.width, maps, VideoControlNet(_animated(backbone)))

    @property
    def tracking(self) -> Tracking:
        """See `AbstractClipReference.tracking`: maps."""
        return Tracking(structure=self.config.structure)

    @property
    def stages(self) -> tuple[ClipStage, ...]:
        """The guider on single frames, the motion, the ControlNet, and the motion under it."""
        content, motion, control, expression = self.config.shares
        return (
            ClipStage(name="content", share=content, trains=("content",), still=True),
            ClipStage(name="motion", share=motion, trains=("base",)),
            ClipStage(name="control", share=control, trains=("control",)),
            ClipStage(name="expression", share=expression, trains=("base",)),
        )

    def begin_stage(self, name: str) -> None:
        """See `AbstractReferenceAdapter.begin_stage`: maps are read from the third on."""
        super().begin_stage(name)
        self.controlled = name in ("control", "expression")

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """`content`, `control`, `base`."""
        parts = (self.face, self.cloth, self.face_maps, self.cloth_maps)
        return {
            "content": tuple(parameter for part in parts for parameter in part.parameters()),
            "control": tuple(self.control.parameters()),
            "base": super().groups()["base"],
        }

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        _animated(backbone)
        check_context("dreamoving", self.face_maps.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. The first picture is the face, the last what is worn; rows
        without pictures are led by their maps all the same."""
        shown, like, told = asked.shown, next(self.parameters()), asked.encoded()
        features = shown.to(like).sight.features[:, :, 0]
        seen = asked.scale * asked.seen.to(like)[:, None, None]
        parts = (
            (self.face_maps, self.face(features[:, 0, 0]), self.config.face_strength),
            (self.cloth_maps, self.cloth(features[:, -1, 1:]), self.config.cloth_strength),
        )
        for maps, tokens, strength in parts:
            pairs = {path: (keys, strength * seen * values) for path, (keys, values) in maps(tokens).items()}
            told = told.beside(Decoupled(pairs=pairs))
        if not self.controlled:
            return told
        assert isinstance(shown, ShownWithLatents), "clips are drawn over maps"
        assert shown.directions is not None, "clips are drawn over maps"
        assert shown.directions.maps is not None, "clips are drawn over maps"
        drawn = shown.directions.maps.to(like)
        return beside(told, _MAPS, drawn.flatten(2), torch.full((len(drawn),), asked.scale, device=drawn.device))

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: clips with maps are led by them."""
        with super().inserted(backbone, scale), answering(backbone, _MAPS, self._answered(_animated(backbone))):
            yield

    def _answered(self, backbone: AnimateDiffBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            read = read_of(conditioning, _MAPS)
            if read is None:
                return predict(noisy, timesteps, conditioning)
            clips, frames = len(noisy), noisy.shape[2] if noisy.dim() == 5 else 1
            side = [length * backbone.vae_factor for length in noisy.shape[-2:]]
            maps, like = to_frames(read.vectors.unflatten(2, (frames, *side))), next(self.control.parameters())
            states = per_frame(conditioning, clips, frames).states
            flat = to_frames(noisy) if noisy.dim() == 5 else noisy
            times = framewise(timesteps.expand(clips), frames)
            skips, middle = self.control(
                backbone, flat.to(like), times, states.to(like), maps.to(like), frames if noisy.dim() == 5 else 1
            )
            *skips, middle = weighed([*skips, middle], framewise(read.strength, frames))
            dtype = backbone.dtype
            with led(backbone.denoiser, [skip.to(dtype) for skip in skips], middle.to(dtype)):
                return predict(noisy, timesteps, conditioning)

        return answered


def _animated(backbone: AbstractBackbone) -> AnimateDiffBackbone:
    """An image model with motion modules.

    Raises:
        ArtifactError: its temporal layers are none.
    """
    found = clip_model(backbone)
    if isinstance(found, InflatedBackbone):
        raise ArtifactError(
            f"dreamoving copies motion modules, and {found.name}, which is inflated, has none. Take an image base with "
            "--motion-module."
        )
    return found
