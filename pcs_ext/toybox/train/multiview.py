"""The multi-view adapter (MVDream, Shi et al. 2023, arXiv 2308.16512): trained on sets of four views, the base frozen.

Captions name no view: the cameras say it. One timestep for all views of a set, as guidance takes them. Differs from
MVDream: with one view the model is the base itself, so no single pictures are shown to keep it what it was.
"""

from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.threed.multiview import MultiViewAdapter, set_errors
from pcs_ext.toybox.train.motion import base_to_teach, clip_latents
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import rows, run_stage
from pcs_ext.toybox.train.unet import cell_weights, draw_timesteps, loss_weights
from pcs_ext.toybox.train.views import VIEWS, ViewData, load_views

_SETS = 4
"""Per step."""
_DROP_CAPTION = 0.1


def train_multiview(
    settings: Settings, steps: int, minutes: float | None, reporter: Reporter, *, base: Path | None = None
) -> None:
    """Train on the base that ships and save to `models/multiview`.

    Args:
        settings: of this generation of toybox.
        steps: optimiser steps in all.
        minutes: budget of this call; None: until the steps are done.
        reporter: hears the progress.
        base: pipeline to teach; None: the one in the package.

    Raises:
        InputError: the sets are not rendered yet, or the base draws at another resolution.
    """
    backbone = base_to_teach(settings, base)
    data = load_views(settings)
    path = settings.folder / "models" / "view_latents.safetensors"
    latents = clip_latents(backbone, data, path, reporter).transpose(1, 2)
    weights = cell_weights(data.coverage.flatten(0, 1)).unflatten(0, (-1, VIEWS))
    if settings.device == "cpu":
        backbone.denoiser.set_attn_processor(AttnProcessor())
    torch.manual_seed(0)
    adapter, schedule = MultiViewAdapter.of(backbone), backbone.schedule

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        chosen = rows(len(data), _SETS, generator)
        with torch.no_grad():
            conditioning = backbone.encode_prompt(_captions(data, chosen, generator))
        clean = latents[chosen].flatten(0, 1).float().to(settings.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        timesteps = draw_timesteps(_SETS, generator).repeat_interleave(VIEWS).to(clean.device)
        told = conditioning[[row for row in range(_SETS) for _ in range(VIEWS)]]
        errors = set_errors(backbone, adapter, clean, noise, timesteps, told, data.cameras_of(chosen), VIEWS)
        errors = (errors * weights[chosen].flatten(0, 1).float().to(errors.device)).mean((1, 2, 3))
        return LossTerms({"v": (errors * loss_weights(schedule, timesteps)).mean()})

    def finish() -> None:
        adapter.save(settings.folder / "models" / "multiview")

    run_stage(
        "multiview",
        {"multiview": adapter},
        loss,
        settings,
        FitConfig(steps=steps, lr_schedule="cosine", warmup_steps=100, autocast="bf16", ema_decay=0.999),
        reporter,
        learning_rate=6e-4,
        weight_decay=0.01,
        minutes=minutes,
        finish=finish,
    )


def _captions(data: ViewData, chosen: torch.Tensor, generator: torch.Generator) -> list[str]:
    variants = torch.randint(len(data.captions[0]), (len(chosen),), generator=generator).tolist()
    dropped = (torch.rand(len(chosen), generator=generator) < _DROP_CAPTION).tolist()
    return [
        "" if drop else data.captions[row][variant]
        for row, variant, drop in zip(chosen.tolist(), variants, dropped, strict=True)
    ]
