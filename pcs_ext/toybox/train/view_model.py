"""The view model (Zero-1-to-3, Liu et al. 2023, arXiv 2303.11328): all of the base's UNet learns to turn a toy.

Two views of one toy at a time: the one is shown, the other is to be drawn. Differs from Zero-1-to-3: the start is a
model of texts, not one of pictures (Stable Diffusion Image Variations).
"""

from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.reference.encoder import open_encoder
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.threed.view_model import Told, ViewModel, pose_numbers, view_errors
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.train.motion import base_to_teach, clip_latents
from pcs_ext.toybox.train.photo_views import SIDES, PhotoViews, load_photo_views
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import rows, run_stage
from pcs_ext.toybox.train.unet import draw_timesteps, loss_weights

_PAIRS = 16
"""Per step."""
_DROPPED = 0.1
"""Share of pairs that are to be drawn without picture and camera."""


def train_view_model(
    settings: Settings,
    steps: int,
    minutes: float | None,
    reporter: Reporter,
    *,
    base: Path | None = None,
    clip: Path | None = None,
) -> None:
    """Train on the base that ships and save to `models/view_model`, a folder for `--view-model`.

    Args:
        settings: of this generation of toybox.
        steps: optimiser steps in all.
        minutes: budget of this call; None: until the steps are done.
        reporter: hears the progress.
        base: pipeline to start from; None: the one in the package.
        clip: image encoder; None: the one in the package.

    Raises:
        InputError: the toys are not rendered yet, or the base draws at another resolution.
    """
    backbone = base_to_teach(settings, base)
    data = load_photo_views(settings)
    path = settings.folder / "models" / "photo_latents.safetensors"
    latents = clip_latents(backbone, data, path, reporter).transpose(1, 2)
    torch.manual_seed(0)
    model = ViewModel.of(backbone, open_encoder(clip or weights_path("clip"), "embedding", settings.device))
    embeddings = _embeddings(model, data)
    if settings.device == "cpu":
        model.denoiser.set_attn_processor(AttnProcessor())

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        chosen = rows(len(data), _PAIRS, generator)
        wanted, shown = torch.rand(_PAIRS, SIDES, generator=generator).argsort(1)[:, :2].unbind(1)
        clean, seen = (latents[chosen, side].float().to(settings.device) for side in (wanted, shown))
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        timesteps = draw_timesteps(_PAIRS, generator).to(clean.device)
        there, here = (data.cameras[SIDES * chosen + side] for side in (wanted, shown))
        poses = pose_numbers(there, here, (0.0, 0.0, 0.0), 1.0)
        told = Told(embeddings[chosen, shown], seen / model.vae.config["scaling_factor"])
        kept = torch.rand(_PAIRS, generator=generator) >= _DROPPED
        errors = view_errors(model, clean, noise, timesteps, told, poses, kept)
        return LossTerms({"v": (errors.mean((1, 2, 3)) * loss_weights(model.schedule, timesteps)).mean()})

    run_stage(
        "view_model",
        {"unet": model.denoiser, "projection": model.projection},
        loss,
        settings,
        FitConfig(steps=steps, lr_schedule="cosine", warmup_steps=100, autocast="bf16", ema_decay=0.999),
        reporter,
        learning_rate=3e-4,
        weight_decay=0.01,
        minutes=minutes,
        finish=lambda: model.save(settings.folder / "models" / "view_model"),
    )


def _embeddings(model: ViewModel, data: PhotoViews) -> Tensor:
    """What the encoder makes of all views, `n v d`."""
    made = [model.encoder(data.pixels(torch.tensor([row]))[0]) for row in range(len(data))]
    return torch.stack(made)
