"""`python -m pcs_ext.toybox.train STAGE`: one stage."""

import importlib
import sys
from typing import Literal

import torch
import tyro

from pcs_ext.errors import PcsError, ResourceError
from pcs_ext.reporter import ConsoleReporter, Reporter
from pcs_ext.toybox.train.settings import PRESETS, Settings

Stage = Literal[
    "adopt",
    "data",
    "tokenizer",
    "vae",
    "clip",
    "dino",
    "oracle",
    "latents",
    "decoder",
    "words",
    "unet",
    "critic",
    "legible",
    "align",
    "export",
    "clips",
    "motion_reader",
    "motion",
    "export_clips",
    "reference",
    "export_reference",
    "views",
    "multiview",
    "export_multiview",
    "photo_views",
    "view_model",
    "panorama",
    "export_panorama",
]
STEPS: dict[str, int] = {
    "vae": 6000,
    "clip": 6000,
    "dino": 3000,
    "oracle": 6000,
    "decoder": 4000,
    "words": 800,
    "unet": 40_000,
    "critic": 6000,
    "legible": 3000,
    "align": 2000,
    "motion_reader": 2000,
    "motion": 2800,
    "reference": 12_000,
    "multiview": 3000,
    "view_model": 12_000,
}
_TRAINED = {
    "vae": ("vae", "train_vae"),
    "decoder": ("vae", "train_decoder"),
    "clip": ("clip", "train_clip"),
    "dino": ("dino", "train_dino"),
    "oracle": ("oracle", "train_oracle"),
    "words": ("words", "train_words"),
    "unet": ("unet", "train_unet"),
    "critic": ("critic", "train_critic"),
    "legible": ("legible", "train_legible"),
    "align": ("clip", "train_alignment"),
    "motion_reader": ("motion_reader", "train_motion_reader"),
    "motion": ("motion", "train_motion"),
    "reference": ("reference", "train_reference"),
    "multiview": ("multiview", "train_multiview"),
    "view_model": ("view_model", "train_view_model"),
}
"""Stage -> module and function, of those that may stop on the way."""
_WHOLE = {
    "adopt": ("adopt", "adopt"),
    "data": ("data", "render_data"),
    "tokenizer": ("tokenizer", "train_tokenizer"),
    "latents": ("unet", "cache_latents"),
    "export": ("export", "export"),
    "clips": ("clips", "render_clips"),
    "export_clips": ("export", "export_clips"),
    "export_reference": ("export", "export_reference"),
    "views": ("views", "render_views"),
    "photo_views": ("photo_views", "render_photo_views"),
    "export_multiview": ("export", "export_multiview"),
    "panorama": ("panorama", "train_panorama"),
    "export_panorama": ("panorama", "export_panorama"),
}
"""Of those that run to their end."""
STAGES = {**_TRAINED, **_WHOLE}


def train(
    stage: tyro.conf.Positional[Stage],
    preset: Literal["cpu", "gpu", "small-gpu"] = "cpu",
    steps: int = 0,
    minutes: float = 0.0,
    threads: int = 0,
) -> None:
    """Make one of toybox's models, or go on making it.

    Args:
        stage: what to make; the order is data, tokenizer, vae, clip, dino, oracle, latents, decoder, words, unet,
            critic, legible, align, export; then, for clips, on the base that ships: clips, motion_reader, motion,
            export_clips; for reference photos, on what ships and on data: reference, export_reference; for 3D, on the
            base that ships: views, multiview, export_multiview, and photo_views, view_model, which is not exported;
            for panoramas, on the base that ships: panorama, export_panorama.
            `adopt` in place of the tokenizer begins with the models that ship: every stage then goes on from its own.
        preset: sizes: 64 pixels for a CPU, 128 for a GPU, or 64 (what ships) on a GPU.
        steps: optimiser steps in all; 0 takes the stage's own number.
        minutes: stop after so many minutes, to go on in a later call; 0 never.
        threads: of the CPU; 0 leaves torch's choice.
    """
    if threads:
        torch.set_num_threads(threads)
    try:
        if PRESETS[preset].device == "cuda" and not torch.cuda.is_available():
            raise ResourceError(f"the preset {preset} needs a GPU with CUDA, which is not there; use --preset cpu.")
        run(stage, PRESETS[preset], steps or STEPS.get(stage, 0), minutes or None, ConsoleReporter())
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def run(stage: str, settings: Settings, steps: int, minutes: float | None, reporter: Reporter) -> None:
    """Run one stage. Modules are imported when their stage is asked for."""
    module, function = STAGES[stage]
    made = getattr(importlib.import_module(f"pcs_ext.toybox.train.{module}"), function)
    if stage in _TRAINED:
        made(settings, steps, minutes, reporter)
    else:
        made(settings, reporter)


if __name__ == "__main__":
    tyro.cli(train)
