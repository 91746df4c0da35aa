"""VideoMaker (Wu et al. 2024, arXiv 2412.19645): the clip model itself reads the photo, as one frame more.

The photo's latents go through the denoiser together with the clip's frames. In every spatial self-attention each frame
and the photo attend to both of them, 2 n tokens; the photo's own result is the mean over frames. It passes by the
temporal layers, and does not look at the text. No weight is added: those of the spatial self-attention and of the
motion modules learn. So that the model knows a photo from a frame, it is given a little noise in training, which the
model predicts, too.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig, build_adapter
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.attention import self_attention_paths
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading, Terms
from pcs_ext.image.reference.inside import answering
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.backbones.inflated import InflatedBackbone
from pcs_ext.video.recipes.layers import LayersConfig
from pcs_ext.video.reference.base import AbstractClipReference, attended, clip_model
from pcs_ext.video.reference.photo_rows import PhotoRows

_NAME = "videomaker"


@config
class VideoMakerConfig:
    """The clip model's own weights, and how noisy photos are in training."""

    kind: Literal["videomaker"] = "videomaker"
    """Tag in JSON."""
    noise_share: float = 0.01
    """A photo's timestep in training, as a share of its clip's (alpha, section 3.4); in use it is clean."""
    recognition_weight: float = 0.1
    """Of the error of the photo's noise in the loss (beta, section 3.4)."""

    def __post_init__(self) -> None:
        if not 0 <= self.noise_share <= 1 or self.recognition_weight < 0:
            raise ConfigError(
                "noise_share must be in [0, 1] and recognition_weight not negative, got "
                f"{self.noise_share} and {self.recognition_weight}."
            )


class VideoMaker(AbstractClipReference):
    """Weights in the base alone.

    Differs from VideoMaker in that the photo that is shown is another one than a frame that is drawn. With a mask its
    surroundings are black.

    Args:
        config: of the adapter.
        attention: weights of the spatial self-attention.
        motion: weights of the motion modules.
        width: of the image encoder's embedding, which is not read.
    """

    sees: Sees = "embedding"
    blind = True

    def __init__(
        self, config: VideoMakerConfig, attention: AbstractAdapter, motion: AbstractAdapter, width: int
    ) -> None:
        super().__init__()
        self.config, self.width = config, width
        self.inside = (attention, motion)
        self._recognition: Tensor | None = None

    @classmethod
    def untrained(
        cls, config: VideoMakerConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "VideoMaker":
        """The base's own weights."""
        spatial = LayersConfig(layers="spatial_self", method="full").adapter(_animated(backbone))
        motion = FullAdapter("reference_motion", FullConfig(components=("motion",)))
        return cls(config, build_adapter("reference_attention", spatial), motion, reading.width)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        _animated(backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Of several photos the first is read."""
        counted = asked.scale * torch.tensor(asked.shown.rows, dtype=torch.float32)
        return PhotoRows.of(asked.shown, counted).beside(asked.encoded(), _NAME)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: photos are denoised beside the clips that are shown them."""
        with super().inserted(backbone, scale), answering(backbone, _NAME, self._answered(_animated(backbone))):
            yield
        self._recognition = None

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `recognition`, the squared error of the photos' noise."""

        def terms() -> dict[str, Tensor]:
            assert self._recognition is not None, "a batch shows at least one photo"
            return {"recognition": self.config.recognition_weight * self._recognition}

        yield terms

    def _answered(self, backbone: AnimateDiffBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            rows = PhotoRows.read(conditioning, _NAME, noisy) if noisy.dim() == 5 else None
            if rows is None or not bool(rows.counted.any()):
                return predict(noisy, timesteps, conditioning)
            times = timesteps.expand(len(noisy))
            early = (self.config.noise_share * times).long() if self.training else torch.zeros_like(times).long()
            photo = backbone.schedule.add_noise(rows.photo, rows.noise, early) if self.training else rows.photo
            inside = lambda: self._beside(backbone, rows.counted, noisy.shape[2])  # noqa: E731
            with recomputing_inside(backbone.denoiser, inside), inside():
                clips, seen = backbone.predict_beside(noisy, photo, times, early, conditioning)
            if self.training:
                errors = (seen.float() - backbone.schedule.target(rows.photo, rows.noise, early).float()).square()
                shown = (rows.counted > 0).to(errors)
                self._recognition = (errors.flatten(1).mean(1) * shown).sum() / shown.sum()
            return clips

        return answered

    @contextlib.contextmanager
    def _beside(self, backbone: AnimateDiffBackbone, counted: Tensor, frames: int) -> Iterator[None]:
        """Inside, frames and photos attend to each other; photos stand behind all frames of the batch."""
        together = _Together(counted, frames)
        handles = []
        try:
            for path in self_attention_paths(backbone):
                handles.append(backbone.denoiser.get_submodule(path).register_forward_hook(together.replace))
            for path in backbone.cross_attention_paths():
                handles.append(backbone.denoiser.get_submodule(path).register_forward_hook(together.mute))
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Together:
    """What self-attentions and text attentions do to a batch of frames with a photo for each clip behind them."""

    def __init__(self, counted: Tensor, frames: int) -> None:
        self.counted, self.frames, self.clips = counted, frames, len(counted)

    def replace(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """After a self-attention: frames of clips without a photo keep its output to the bit."""
        states = inputs[0]
        frames = states[: -self.clips].unflatten(0, (self.clips, self.frames))
        photos = states[-self.clips :, None].expand_as(frames)
        both = torch.cat([frames, photos], dim=2).flatten(0, 1)
        mixed = attended(module, module.to_q(both), module.to_k(both), module.to_v(both))
        found = module.to_out[1](module.to_out[0](mixed)).unflatten(0, frames.shape[:2])
        of_frames, of_photos = found.chunk(2, dim=2)
        own = output[: -self.clips].unflatten(0, frames.shape[:2])
        kept = own + self.counted.to(own)[:, None, None, None] * (of_frames.to(own) - own)
        return torch.cat([kept.flatten(0, 1), of_photos.mean(1).to(own)])

    def mute(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """After a text attention: photos find nothing there."""
        return torch.cat([output[: -self.clips], torch.zeros_like(output[-self.clips :])])


def _animated(backbone: AbstractBackbone) -> AnimateDiffBackbone:
    """An image model with motion modules.

    Raises:
        ArtifactError: its frames look at each other already.
    """
    found = clip_model(backbone)
    if isinstance(found, InflatedBackbone):
        raise ArtifactError(
            f"videomaker reads a photo in the frames' own self-attention; in {found.name}, which is inflated, frames "
            "look at each other there. Take an image base with --motion-module."
        )
    return found
