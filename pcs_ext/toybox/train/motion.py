"""The motion adapter (AnimateDiff, Guo et al. 2023, arXiv 2307.04725): trained on clips, the denoiser frozen.

The base learned from stills, whose captions never name a motion: its text encoder knows those words as noise. Their
rows of the word table learn with the adapter; prompts without them mean to the base what they did, to the bit.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.errors import InputError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone, fingerprint
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import Conditioning, LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.train.clips import ClipData, load_clips
from pcs_ext.toybox.train.graphs import capture_passes
from pcs_ext.toybox.train.groups import Groups
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import generator_on, rows, run_stage
from pcs_ext.toybox.train.tokenizer import MAX_LENGTH
from pcs_ext.toybox.train.unet import draw_timesteps, loss_weights
from pcs_ext.toybox.train.words import VOCABULARIES
from pcs_ext.toybox.world.vocabulary import MOTIONS
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone, identity_motion_adapter
from pcs_ext.video.noise import shared_noise

_BATCH = 4
_MAX_FRAMES = 16
WORDS = "words.safetensors"
"""File beside the trained adapter: rows of the word table."""
_DROP_CAPTION = 0.1
_MOST_SHARED = 0.7
"""Frames start with a random share, up to this, of common noise (after PYoCo, arXiv 2305.10474): from equal noise the
frozen denoiser draws equal frames, and the adapter is left with what moves. Inverted clips start alike, too."""
_WORD_RATE = 20.0
"""Of the rows of words, times the learning rate: their gradient comes a long way through a frozen denoiser."""


def train_motion(
    settings: Settings, steps: int, minutes: float | None, reporter: Reporter, *, base: Path | None = None
) -> None:
    """Train on the base that ships and save to `models/motion`.

    Args:
        settings: of this generation of toybox.
        steps: optimiser steps in all.
        minutes: budget of this call; None: until the steps are done.
        reporter: hears the progress.
        base: pipeline to teach; None: the one in the package.

    Raises:
        InputError: the base draws at another resolution.
    """
    image = base_to_teach(settings, base)
    data = load_clips(settings)
    latents = clip_latents(image, data, settings.folder / "models" / "clip_latents.safetensors", reporter)
    latents = latents.to(settings.device)
    if settings.device == "cpu":
        image.denoiser.set_attn_processor(AttnProcessor())
    torch.manual_seed(0)
    motion = identity_motion_adapter(image.denoiser, max_frames=_MAX_FRAMES)
    backbone, words = AnimateDiffBackbone(image, motion), MotionWords(image)
    batch, moving = _BATCH * settings.batches, _Moving(backbone)
    if settings.device != "cpu":
        moving.motion.train().requires_grad_(True)
        clips = latents[:batch].float().to(settings.device)
        states = torch.zeros(batch, MAX_LENGTH, settings.text_width, device=clips.device, requires_grad=True)
        capture_passes(moving, clips, torch.zeros(batch, dtype=torch.int64, device=clips.device), states)

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        chosen = rows(len(data), batch, generator)
        states = backbone.encode_prompt(_captions(data, chosen, generator)).states.float()
        clean = latents[chosen].float()
        share = _MOST_SHARED * float(torch.rand((), generator=generator))
        noise = shared_noise(clean.shape, share, generator_on(clean.device, generator))
        timesteps = draw_timesteps(batch, generator).to(clean.device)
        noisy = backbone.schedule.add_noise(clean, noise, timesteps)
        predicted = moving(noisy, timesteps, states).float()
        errors = (predicted - backbone.schedule.target(clean, noise, timesteps)).square().mean((1, 2, 3, 4))
        return LossTerms({"v": (errors * loss_weights(backbone.schedule, timesteps)).mean()})

    def finish() -> None:
        backbone.motion.save_pretrained(settings.folder / "models" / "motion")
        words.save(settings.folder / "models" / "motion" / WORDS)

    config = FitConfig(steps=steps, lr_schedule="cosine", warmup_steps=100, autocast="bf16", ema_decay=0.999)
    run_stage(
        "motion",
        {"motion": backbone.motion, "words": words},
        loss,
        settings,
        config,
        reporter,
        learning_rate=5e-4,
        weight_decay=0.01,
        minutes=minutes,
        finish=finish,
    )


def base_to_teach(settings: Settings, base: Path | None) -> AbstractUnetBackbone:
    """The pipeline in the package, or another one, frozen.

    Raises:
        InputError: it draws at another resolution than this generation's data have.
    """
    image = load_backbone(base or weights_path("base"), device=settings.device, precision="fp32")
    assert isinstance(image, AbstractUnetBackbone)
    if image.resolution != settings.resolution:
        raise InputError(
            f"the base draws {image.resolution} pixels, this generation's data have {settings.resolution}; export a "
            "base of this generation first."
        )
    return image


class _Moving(nn.Module):
    """The denoiser with its motion modules, as a function of tensors."""

    def __init__(self, backbone: AnimateDiffBackbone) -> None:
        super().__init__()
        self._backbone, self.motion = backbone, backbone.motion

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """Prediction for clips `b c f h w` under text states `b n d`."""
        states = states.repeat_interleave(noisy.shape[2], 0)
        return self._backbone.predict(noisy, timesteps, Conditioning(states=states))


class MotionWords(nn.Module):
    """Rows of the text encoder's word table that may train: words that captions of clips have and those of stills not.

    Args:
        image: its text encoder reads these rows from now on.
    """

    def __init__(self, image: AbstractUnetBackbone) -> None:
        super().__init__()
        tokenizer, embedding = image.tokenizers[0], image.text_encoders[0].get_input_embeddings()
        self.ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in motion_words()]
        self.ids = sorted({index for ids in self.ids for index in ids})
        self.start = embedding.weight[self.ids].detach().float().clone()
        self.change = nn.Parameter(torch.zeros_like(self.start))
        place = torch.full((embedding.num_embeddings,), -1)
        place[self.ids] = torch.arange(len(self.ids))
        self.place = place.to(image.device)
        embedding.register_forward_hook(self._put)

    @property
    def rows(self) -> Tensor:
        """As they are now, `n d`."""
        return self.start + _WORD_RATE * self.change

    def _put(self, embedding: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        place = self.place[inputs[0]]
        return torch.where((place >= 0)[..., None], self.rows[place.clamp_min(0)].to(output.dtype), output)

    def save(self, path: Path) -> None:
        """Write `rows`, `n d` float16, and `ids`, `n`: which rows of the table these are."""
        tensors = {"rows": self.rows.detach().cpu().half().contiguous(), "ids": torch.tensor(self.ids)}
        atomic_write_bytes(path, save(tensors))


def motion_words() -> list[str]:
    """Words of the world's motions that no other vocabulary of the world has."""
    said = {word for words in VOCABULARIES if words != MOTIONS for phrase in words for word in phrase.split()}
    return sorted({word for motion in MOTIONS for word in motion.split()} - said)


def _captions(data: ClipData, chosen: Tensor, generator: torch.Generator) -> list[str]:
    variants = torch.randint(len(data.captions[0]), (len(chosen),), generator=generator).tolist()
    dropped = (torch.rand(len(chosen), generator=generator) < _DROP_CAPTION).tolist()
    return [
        "" if drop else data.captions[row][variant]
        for row, variant, drop in zip(chosen.tolist(), variants, dropped, strict=True)
    ]


def clip_latents(image: AbstractBackbone, data: Groups, path: Path, reporter: Reporter) -> Tensor:
    """Latents of all clips, `n c f h w` float16, kept in `path` for the same autoencoder and the same clips."""
    mark = f"{autoencoder_digest(image)} {len(data)}"
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("made_of") == mark:
                return file.get_tensor("latents")
    pieces = []
    for first in range(0, len(data), 25):
        clips = data.pixels(torch.arange(first, min(first + 25, len(data)))).to(image.device)
        with torch.inference_mode():
            mean, _ = image.encode_posterior(clips.flatten(0, 1))
        pieces.append(mean.unflatten(0, clips.shape[:2]).transpose(1, 2).half().cpu())
        reporter.progress("latents", min(first + 25, len(data)), len(data))
    latents = torch.cat(pieces).contiguous()
    atomic_write_bytes(path, save({"latents": latents}, metadata={"made_of": mark}))
    return latents


def autoencoder_digest(image: AbstractBackbone) -> str:
    """Of the encoding half: a better decoder leaves latents valid."""
    vae: Any = image.vae  # type: ignore[attr-defined]
    return fingerprint([half for half in (vae.encoder, vae.quant_conv) if half is not None])
