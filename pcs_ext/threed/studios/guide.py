"""A base with a subject or a LoRA in it, as the guidance of another trainer."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.subject import Artifact
from pcs_ext.image.types import Conditioning
from pcs_ext.threed.distillation import DistillationConfig, distillation_loss


@config
class Source:
    """Where the score comes from."""

    base: str = ""
    """Hub id, diffusers folder, .safetensors file or toybox; empty: what the subject was learned on."""
    subject: str = ""
    """Folder of a learned subject; empty: none."""
    lora: str = ""
    """A .safetensors LoRA in diffusers' or kohya's keys; not together with a subject."""
    strength: float = 1.0
    """Of the subject: 1 as trained, 0 the plain base."""
    device: str = "auto"
    """auto, cuda, mps or cpu."""
    precision: str = "auto"
    """auto, fp32, bf16 or fp16."""

    def __post_init__(self) -> None:
        if not self.base and not self.subject:
            raise ConfigError("the guidance has no model; expected a base, or the folder of a learned subject.")
        if self.subject and self.lora:
            raise ConfigError("expected a subject or a LoRA, got both; export one into the other's base first.")
        if self.lora and not (self.base and self.lora.endswith(".safetensors") and Path(self.lora).is_file()):
            raise ConfigError(f"expected a base and an existing .safetensors file as its LoRA, got {self.lora!r}.")


@dataclasses.dataclass
class SourceFields:
    """`Source` as the plain, mutable dataclass that other trainers' configurations are made of."""

    base: str = ""
    """Hub id, diffusers folder, .safetensors file or toybox; empty: what the subject was learned on."""
    subject: str = ""
    """Folder of a learned subject; empty: none."""
    lora: str = ""
    """A .safetensors LoRA in diffusers' or kohya's keys; not together with a subject."""
    strength: float = 1.0
    """Of the subject: 1 as trained, 0 the plain base."""
    device: str = "auto"
    """auto, cuda, mps or cpu."""
    precision: str = "auto"
    """auto, fp32, bf16 or fp16."""


def source_of(fields: Any) -> Source:
    """The source that an object with the attributes of `SourceFields` describes.

    Raises:
        ConfigError: no model, or a subject and a LoRA.
    """
    return Source(**{field.name: getattr(fields, field.name) for field in dataclasses.fields(SourceFields)})


class Guide:
    """The model of a source, frozen, ready to encode prompts and to judge renders.

    The adapters stay in until `close`. Prompts are encoded by the model as it is now; nothing is cached on disk, so a
    subject learned again under the same name is never mixed up with the old one.
    """

    def __init__(self, source: Source) -> None:
        self.artifact = Artifact.load(source.subject) if source.subject else None
        base = source.base or (self.artifact.data.base_name if self.artifact is not None else "")
        self.backbone: AbstractBackbone = load_backbone(base, device=source.device, precision=source.precision)
        self._applied = contextlib.ExitStack()
        if self.artifact is not None:
            self._applied.enter_context(self.artifact.applied(self.backbone, scale=source.strength))
        if source.lora:
            load_lora(self.backbone, Path(source.lora))
        for module in (self.backbone.denoiser, self.backbone.vae, *self.backbone.text_encoders):
            module.requires_grad_(False).eval()

    def words(self, prompt: str) -> str:
        """The prompt with the subject's words for `{subject}`; without a subject it must be free of it.

        Raises:
            UsageError: `{subject}` without a subject, or the reverse.
        """
        if self.artifact is not None:
            return self.artifact.concept.prompt(prompt)
        if "{subject}" in prompt:
            raise UsageError(f"{prompt!r} names a subject, but the guidance has none; write the words, or give one.")
        return prompt

    def away(self, negative_prompt: str) -> str:
        """What to stay away from: that, and the words that the subject learned for it."""
        return negative_prompt if self.artifact is None else self.artifact.concept.negative_prompt(negative_prompt)

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """Conditioning of texts, without a graph."""
        with torch.no_grad():
            return self.backbone.encode_prompt(texts)

    def loss(
        self,
        images: Tensor,
        prompts: tuple[Conditioning, Conditioning],
        settings: DistillationConfig,
        *,
        progress: float,
        generator: torch.Generator,
    ) -> Tensor:
        """The SDS loss of renders `b h w 3` in [0, 1], 0-d, on the renders' device.

        Args:
            images: with a graph back to what trains.
            prompts: negative and positive conditioning, `b` rows each.
            settings: guidance scale, noise levels, weighting.
            progress: share of training done, in [0, 1].
            generator: on the CPU.
        """
        # Trainers of mixed precision call this inside autocast; base and autoencoder have precisions of their own.
        with torch.autocast(images.device.type, enabled=False):
            pictures = (images.permute(0, 3, 1, 2).float() * 2 - 1).to(self.backbone.device)
            loss = distillation_loss(
                self.backbone, pictures, prompts, settings, progress=min(max(progress, 0.0), 1.0), generator=generator
            )
        return loss.to(images.device)

    def close(self) -> None:
        """Take the subject out of the base again."""
        self._applied.close()


def load_lora(backbone: AbstractBackbone, file: Path) -> None:
    """Put a LoRA file into a backbone's denoiser and text encoder, by diffusers' own readers.

    Raises:
        ConfigError: the backbone is no Stable Diffusion 1.x or 2.x, or the file holds no LoRA of one.
    """
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    if backbone.family != "sd":
        raise ConfigError(
            f"a LoRA file goes into a base of family sd, got {backbone.family}; learn the subject instead."
        )
    state, alphas = Loader.lora_state_dict(str(file.parent), weight_name=file.name)[:2]
    if not any(key.startswith(("unet.", "text_encoder.")) for key in state):
        raise ConfigError(f"{file} holds no LoRA of a denoiser or text encoder; expected diffusers' or kohya's keys.")
    Loader.load_lora_into_unet(state, network_alphas=alphas, unet=backbone.denoiser)
    if any(key.startswith("text_encoder.") for key in state):
        Loader.load_lora_into_text_encoder(state, alphas, backbone.text_encoders[0])
