"""The frozen parts of a diffusion model behind one interface."""

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcs_ext.image.noise import NoiseSchedule
from pcs_ext.image.types import Conditioning


class AbstractBackbone(abc.ABC):
    """Text encoders, image autoencoder, denoiser and noise schedule of one latent diffusion model.

    Nothing here is decorated with `no_grad`: protection and score distillation differentiate through
    `encode_images` and `predict`, so the caller decides. All parameters start with `requires_grad=False` and all
    modules in eval mode; adapters make their own parameters trainable.
    """

    name: str
    """What the user typed: `toybox`, a hub id, a folder or a file."""
    family: str
    """`sd` or `sdxl`: which export keys, presets and conditioning apply."""
    denoiser: Any
    """`diffusers.UNet2DConditionModel` (or what another family denoises with)."""
    vae: Any
    """`diffusers.AutoencoderKL`."""
    text_encoders: tuple[Any, ...]
    """`transformers.CLIPTextModel`, for SDXL also `CLIPTextModelWithProjection`."""
    tokenizers: tuple[Any, ...]
    """One `transformers.CLIPTokenizer` per text encoder. Embedding adapters replace them by extended copies and put
    the originals back on eject."""
    schedule: NoiseSchedule
    resolution: int
    """Side in pixels of the square images the model was trained on."""
    vae_factor: int
    """Pixels per latent cell and side."""
    latent_channels: int
    device: torch.device
    dtype: torch.dtype

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """16 hex digits that identify the frozen weights; stored in artifacts and in cache keys."""

    @abc.abstractmethod
    def encode_images(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images `b 3 h w` in [-1, 1] -> scaled latents `b c h/f w/f`. Differentiable.

        Args:
            images: height and width must be multiples of `vae_factor`.
            generator: draws from the posterior; None takes its mean.
        """

    @abc.abstractmethod
    def encode_posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `b c h/f w/f` of the scaled latents' distribution. Differentiable.

        Args:
            images: as for `encode_images`, which draws from this distribution.
        """

    @abc.abstractmethod
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents `b c h w` -> images `b 3 h*f w*f`, not clamped. Differentiable."""

    @abc.abstractmethod
    def encode_prompt(self, prompts: Sequence[str], *, size: tuple[int, int] | None = None) -> Conditioning:
        """Prompts -> conditioning. Differentiable with respect to text encoder parameters that require it.

        Args:
            prompts: longer ones are cut at the encoder's limit (the caller may ask `token_count`).
            size: height and width in pixels, for families conditioned on size; None: `resolution`.
        """

    def encode_negative(self, prompts: Sequence[str], *, size: tuple[int, int] | None = None) -> Conditioning:
        """What guidance goes away from; as `encode_prompt`, unless a family says "nothing" otherwise than by empty
        prompts.

        Args:
            prompts: negative ones, or empty ones where there are none.
            size: as for `encode_prompt`.
        """
        return self.encode_prompt(prompts, size=size)

    def encode_pair(self, negative: str | None, prompt: str, *, size: tuple[int, int] | None = None) -> Conditioning:
        """`[negative, positive]` as guidance asks for them; the positive alone where `negative` is None."""
        told = self.encode_prompt([prompt], size=size)
        return told if negative is None else Conditioning.cat([self.encode_negative([negative], size=size), told])

    @abc.abstractmethod
    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's raw output (`schedule.prediction_type`), `b c h w` like `noisy_latents`. Differentiable.

        Args:
            noisy_latents: `b c h w`.
            timesteps: `b` integers in [0, schedule.num_train_timesteps).
            conditioning: of batch `b`.
        """

    @abc.abstractmethod
    def token_count(self, prompt: str) -> int:
        """Tokens the prompt takes, without start and end marks (largest over the encoders)."""

    @abc.abstractmethod
    def cross_attention_paths(self) -> tuple[str, ...]:
        """Module paths of the text cross-attentions inside `denoiser`, in forward order."""

    def components(self) -> dict[str, nn.Module]:
        """Modules an adapter may target: `denoiser`, `text_encoder`, `text_encoder_2`."""
        names = ["text_encoder"] + [f"text_encoder_{i}" for i in range(2, len(self.text_encoders) + 1)]
        return {"denoiser": self.denoiser, **dict(zip(names, self.text_encoders, strict=True))}
