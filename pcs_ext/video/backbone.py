"""A frozen video diffusion model behind the core's interface, with its temporal layers apart from the spatial ones."""

import abc
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters.low_rank_config import Component
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.types import Conditioning

LayerKind = Literal["spatial", "spatial_self", "cross_attention", "temporal", "temporal_attention", "temporal_weights"]
"""spatial: self-attention and feed-forward of the picture's own layers (MotionDirector's spatial set); spatial_self:
its self-attention alone; cross_attention: attention to the text; temporal: attention and feed-forward over frames;
temporal_attention: without the feed-forward; temporal_weights: all attention and feed-forward over frames, and
convolutions where there are any; on AnimateDiff without its projections in and out and its norms."""


@dataclasses.dataclass(frozen=True)
class Targets:
    """Layers of one component, as adapters take them."""

    component: Component
    """A key of the backbone's `components()`."""
    patterns: tuple[str, ...]
    """Regular expressions searched in paths of linear layers and convolutions."""
    modules: tuple[str, ...] = ()
    """The same for the attention and feed-forward modules these lie in; of kinds `temporal` and `cross_attention`."""


class AbstractVideoBackbone(AbstractBackbone, abc.ABC):
    """Text encoders, autoencoder, denoiser of clips and noise schedule.

    `predict` takes latents of clips `b c f h w`, and of pictures `b c h w`: those pass by every temporal layer, so an
    image objective and the core's sampler work on it unchanged.
    """

    frames: int
    """Frames of a clip that the temporal layers were made for; what sampling takes when not told."""
    max_frames: int | None
    """Most frames the temporal layers can take; None: any number."""
    noise_share: float = 0.0
    """Share of common noise that the frames of a clip began with when it was trained (`noise.shared_noise`)."""
    joint: bool = False
    """Space and time share every layer: spatial and temporal kinds then name the same ones, and only the pass tells
    appearance (frame by frame) from motion (whole clips)."""
    time_factor: int = 1
    """Frames that one latent stands for, the first of a clip excepted, which has one of its own."""

    @property
    def origin(self) -> dict[str, str | None]:
        """`base` and `motion_module` as `load_video_backbone` takes them, to find the same model again."""
        return {"base": self.name, "motion_module": None}

    @property
    def subject_families(self) -> tuple[str, ...]:
        """Families of bases whose learned subjects fit into the spatial layers."""
        return (self.family,)

    @property
    def spatial_fingerprint(self) -> str:
        """Of the weights that a subject is learned on."""
        return self.fingerprint

    def latent_frames(self, frames: int) -> int:
        """Latents along time of a clip of `frames` frames, those left out that `whole_frames` leaves out."""
        return (frames - 1) // self.time_factor + 1

    def whole_frames(self, frames: int) -> int:
        """Most frames, at most `frames`, that latents stand for exactly: k times `time_factor`, and 1."""
        return (self.latent_frames(frames) - 1) * self.time_factor + 1

    @abc.abstractmethod
    def targets(self, kind: LayerKind) -> Targets:
        """The layers of a kind. Kinds that differ in a word before `_` share no layer, unless `joint`."""

    @abc.abstractmethod
    @contextlib.contextmanager
    def frame_by_frame(self) -> Iterator[None]:
        """Inside, every temporal layer is passed by and frames are pictures of their own.

        Temporal adapters get exactly no gradient. With activation checkpointing keep it until after the backward pass:
        that runs the forward pass again.
        """

    def windowed(self, window: int, stride: int) -> contextlib.AbstractContextManager[None]:
        """Inside, temporal layers see longer clips in windows (FreeNoise, `video.long_clips`).

        Args:
            window: frames.
            stride: frames from one window to the next.

        Raises:
            UsageError: this model's temporal layers are no modules of their own.
        """
        raise UsageError(f"{self.name} sees a clip as a whole; windows are for image bases with a motion module.")

    def encode_clips(self, clips: Tensor, generator: torch.Generator | None = None, *, chunk: int = 16) -> Tensor:
        """Clips `b 3 f h w` in [-1, 1] -> scaled latents `b c f h/k w/k`, k = `vae_factor`. Differentiable.

        Args:
            clips: height and width must be multiples of `vae_factor`.
            generator: draws from the posterior; None takes its mean.
            chunk: frames encoded at once.
        """
        frames = to_frames(clips)
        latents = torch.cat([self.encode_images(part, generator) for part in frames.split(chunk)])
        return to_clips(latents, len(clips))

    def decode_clips(self, latents: Tensor, *, chunk: int = 16) -> Tensor:
        """Scaled latents `b c f h w` -> clips `b 3 f h*k w*k`, not clamped. Differentiable."""
        frames = [self.decode_latents(part) for part in to_frames(latents).split(chunk)]
        return to_clips(torch.cat(frames), len(latents))


def to_frames(clips: Tensor) -> Tensor:
    """Clips `b c f ...` -> frames `b*f c ...`, clip by clip."""
    return clips.transpose(1, 2).flatten(0, 1)


def to_clips(frames: Tensor, count: int) -> Tensor:
    """Inverse of `to_frames` for `count` clips."""
    return frames.unflatten(0, (count, -1)).transpose(1, 2)


def per_frame(conditioning: Conditioning, clips: int, frames: int) -> Conditioning:
    """Conditioning of clips, or of all their frames already, as conditioning of frames `clips * frames`."""
    if conditioning.batch_size == clips * frames:
        return conditioning
    assert conditioning.batch_size == clips, f"conditioning of {conditioning.batch_size} rows for {clips} clips"
    return conditioning[torch.arange(clips).repeat_interleave(frames)]
