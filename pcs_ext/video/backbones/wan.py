"""Wan 2.1 (arXiv 2503.20314): one transformer over space and time, sampled along a flow, as diffusers lays it out."""

import contextlib
import html
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcs_ext.errors import UsageError
from pcs_ext.image.backbones.unet import fingerprint, per_layer_states
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbone import AbstractVideoBackbone, LayerKind, Targets, per_frame, to_clips, to_frames

_PROJECTIONS = r"\.(to_q|to_k|to_v|to_out\.0)$"
_JOINT = r"^blocks\.\d+\.attn1" + _PROJECTIONS
_CROSS = r"^blocks\.\d+\.attn2" + _PROJECTIONS
_FF = r"^blocks\.\d+\.ffn\.net\.(0\.proj|2)$"
_MOST_TOKENS = 512
"""Length of text that Wan was trained with."""


class WanBackbone(AbstractVideoBackbone):
    """Wan's text-to-video transformer, its causal autoencoder of clips and its UMT5 text encoder.

    A picture is a clip of one frame. Every self-attention looks at space and time together: there are no temporal
    layers, so `targets` gives spatial and temporal kinds the same ones, and a motion recipe made for separate layers
    is an adaptation here: two adapters on the same layers, told apart by their passes.

    Args:
        name: what the user typed.
        denoiser: `WanTransformer3DModel` for text to video.
        vae: `AutoencoderKLWan`; kept in float32, as Wan is run.
        text_encoder: `UMT5EncoderModel`, in its final precision.
        tokenizer: of the text encoder.
        schedule: the flow.
        resolution: side in pixels when none is asked for.
        device, dtype: of the denoiser; what diffusers keeps in float32 stays so.
    """

    family = "wan"
    joint = True
    schedule: FlowSchedule  # pyright: ignore[reportIncompatibleVariableOverride] - never assigned after __init__

    def __init__(
        self,
        *,
        name: str,
        denoiser: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        schedule: FlowSchedule,
        device: torch.device,
        dtype: torch.dtype,
        resolution: int = 480,
    ) -> None:
        self.name, self.schedule, self.resolution, self.device, self.dtype = name, schedule, resolution, device, dtype
        # Without the text encoder: it has billions of weights, is loaded in its precision, and nothing trains it.
        self._fingerprint = fingerprint([denoiser, vae])
        self.denoiser = _cast(denoiser, device, dtype)
        self.vae = nn.Module.to(vae, device, torch.float32)
        self.text_encoders = (nn.Module.to(text_encoder, device),)
        self.tokenizers = (tokenizer,)
        self.vae_factor: int = vae.config["scale_factor_spatial"]
        self.time_factor: int = vae.config["scale_factor_temporal"]
        self.latent_channels: int = vae.config["z_dim"]
        self.frames = 20 * self.time_factor + 1
        self.max_frames: int = (denoiser.config["rope_max_seq_len"] - 1) * self.time_factor + 1
        self._bypassed = False
        for module in (self.denoiser, self.vae, *self.text_encoders):
            module.requires_grad_(False).eval()

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the transformer's and the autoencoder's weights as loaded, in float32."""
        return self._fingerprint

    def encode_images(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `AbstractBackbone.encode_images`."""
        return self.encode_clips(images.unsqueeze(2), generator)[:, :, 0]

    def encode_posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `AbstractBackbone.encode_posterior`."""
        mean, deviation = self._posterior(images.unsqueeze(2))
        return mean[:, :, 0], deviation[:, :, 0]

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents of pictures `b c h w`, or of clips `b c f h w`, as `decode_clips` decodes them."""
        return self.decode_clips(latents.unsqueeze(2))[:, :, 0] if latents.dim() == 4 else self.decode_clips(latents)

    def encode_clips(self, clips: Tensor, generator: torch.Generator | None = None, *, chunk: int = 16) -> Tensor:
        """Clips `b 3 f h w` in [-1, 1] -> scaled latents `b c (f - 1) / 4 + 1 h/8 w/8`. Differentiable.

        Args:
            clips: `time_factor` k + 1 frames; sides are multiples of `vae_factor`.
            generator: draws from the posterior; None takes its mean.
            chunk: not used: the autoencoder goes through time by itself, a latent after another.

        Raises:
            UsageError: another number of frames.
        """
        frames = clips.shape[2]
        if self.whole_frames(frames) != frames:
            raise UsageError(
                f"{self.name} encodes a multiple of {self.time_factor} frames and one more, got {frames}; cut the clip "
                f"to {self.whole_frames(frames)}."
            )
        mean, deviation = self._posterior(clips)
        if generator is None:
            return mean
        return mean + deviation * torch.randn(mean.shape, generator=generator).to(mean)

    def decode_clips(self, latents: Tensor, *, chunk: int = 16) -> Tensor:
        """Scaled latents `b c f h w` -> clips `b 3 (f - 1) * 4 + 1 h*8 w*8`.

        Differentiable where values stay inside [-1, 1]: unlike the other families' autoencoders this one clamps.

        Args:
            latents: of clips.
            chunk: not used, see `encode_clips`.
        """
        mean, deviation = self._statistics(latents)
        with self._own_precision():
            return self.vae.decode(latents.float() * deviation + mean).sample

    def _posterior(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        sides = clips.shape[-2:]
        assert not any(side % self.vae_factor for side in sides), f"{tuple(sides)} is no multiple of {self.vae_factor}"
        with self._own_precision():
            posterior = self.vae.encode(clips.to(self.device, torch.float32)).latent_dist
        mean, deviation = self._statistics(posterior.mean)
        return (posterior.mean - mean) / deviation, posterior.std / deviation

    def _own_precision(self) -> torch.autocast:
        """Of the autoencoder, whatever autocast says around it."""
        return torch.autocast(self.device.type, enabled=False)

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the autoencoder's latents over its training data, by channel, `1 c 1 1 1`."""
        values = (self.vae.config["latents_mean"], self.vae.config["latents_std"])
        mean, deviation = (torch.tensor(v, device=latents.device).view(1, -1, 1, 1, 1) for v in values)
        return mean, deviation

    def encode_prompt(self, prompts: Sequence[str], *, size: tuple[int, int] | None = None) -> Conditioning:
        """See `AbstractBackbone.encode_prompt`. States behind a prompt's end are zero, as the transformer learned.

        Args:
            prompts: white space is collapsed and HTML entities are read; broken Unicode is not repaired.
            size: not used by this family.
        """
        tokenizer, encoder = self.tokenizers[0], self.text_encoders[0]
        tokens = tokenizer(
            [_clean(prompt) for prompt in prompts],
            padding="max_length",
            max_length=min(tokenizer.model_max_length, _MOST_TOKENS),
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        states = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return Conditioning(states=states * tokens.attention_mask.unsqueeze(-1).to(states.dtype))

    def token_count(self, prompt: str) -> int:
        """See `AbstractBackbone.token_count`."""
        return len(self.tokenizers[0](_clean(prompt), truncation=False, verbose=False).input_ids) - 1

    def cross_attention_paths(self) -> tuple[str, ...]:
        """See `AbstractBackbone.cross_attention_paths`."""
        return tuple(f"blocks.{index}.attn2" for index in range(len(self.denoiser.blocks)))

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The velocity, shaped like the latents.

        Args:
            noisy_latents: clips `b c f h w`, or pictures `b c h w`; `f` counts latents along time.
            timesteps: `b`, share of noise times T, fractional ones too.
            conditioning: of `b` clips; of their `b * f` latents only inside `frame_by_frame`.

        Raises:
            UsageError: sides that do not divide into patches, or conditioning of another count.
        """
        if noisy_latents.dim() == 4:
            return self._denoise(noisy_latents.unsqueeze(2), timesteps, conditioning)[:, :, 0]
        clips, frames = noisy_latents.shape[0], noisy_latents.shape[2]
        if self._bypassed:
            single = to_frames(noisy_latents).unsqueeze(2)
            states, levels = per_frame(conditioning, clips, frames), timesteps.repeat_interleave(frames)
            return to_clips(self._denoise(single, levels, states)[:, :, 0], clips)
        if conditioning.batch_size != clips:
            raise UsageError(
                f"{self.name} takes one prompt per clip, got {conditioning.batch_size} for {clips} clips; "
                "prompts by frame need frame_by_frame()."
            )
        return self._denoise(noisy_latents, timesteps, conditioning)

    def _denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        patch = self.denoiser.config["patch_size"]
        if any(side % length for side, length in zip(noisy.shape[2:], patch, strict=True)):
            sides = tuple(length * self.vae_factor for length in patch[1:])
            raise UsageError(f"height and width must be multiples of {sides} pixels for {self.name}; choose others.")
        projected = self._projected(conditioning)
        with per_layer_states(self.denoiser, self.cross_attention_paths, timesteps, projected, self.dtype):
            states = conditioning.states.to(self.dtype)
            return self.denoiser(noisy.to(self.dtype), timesteps, states, return_dict=False)[0]

    def _projected(self, conditioning: Conditioning) -> Conditioning:
        """States by layer, if there are any, as attention gets them: behind the transformer's projection of text."""
        by_layer, project = conditioning.per_layer, self.denoiser.condition_embedder.text_embedder
        if by_layer is None:
            return conditioning

        def projected(timesteps: Tensor, path: str) -> tuple[Tensor, Tensor]:
            keys, values = by_layer(timesteps, path)
            return project(keys.to(self.dtype)), project(values.to(self.dtype))

        return Conditioning(states=conditioning.states, per_layer=projected)

    @contextlib.contextmanager
    def frame_by_frame(self) -> Iterator[None]:
        """Inside, every latent along time is a picture of its own, which no attention joins with another.

        There are no temporal layers to pass by; an adapter for motion must be inactive in such a pass, or it learns
        appearance.
        """
        before, self._bypassed = self._bypassed, True
        try:
            yield
        finally:
            self._bypassed = before

    def targets(self, kind: LayerKind) -> Targets:
        """See `AbstractVideoBackbone.targets`: spatial and temporal kinds are the same layers here."""
        patterns = {
            "spatial": (_JOINT, _FF),
            "spatial_self": (_JOINT,),
            "cross_attention": (_CROSS,),
            "temporal": (_JOINT, _FF),
            "temporal_attention": (_JOINT,),
            "temporal_weights": (_JOINT, _FF),
        }
        modules = {"cross_attention": (r"^blocks\.\d+\.attn2$",), "temporal": (r"^blocks\.\d+\.(attn1|ffn)$",)}
        return Targets("denoiser", patterns[kind], modules.get(kind, ()))


def _clean(prompt: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(html.unescape(prompt))).strip()


def _cast(denoiser: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The transformer on its device, in `dtype` but for the modules that diffusers keeps in float32."""
    nn.Module.to(denoiser, device)
    kept = set(denoiser._keep_in_fp32_modules or ())
    for name, parameter in denoiser.named_parameters():
        if not kept & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    return denoiser
