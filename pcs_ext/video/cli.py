"""Commands for clips: parse, call, report. Heavy modules are imported inside the functions."""

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Output = Annotated[Path, arg(aliases=["-o"])]


def learn(
    sources: Positional[tuple[Path, ...]],
    output: Output,
    recipe: str = "motion-director",
    base: str = "toybox",
    motion_module: str = "",
    prompts: tuple[str, ...] = (),
    prior: tuple[Path, ...] = (),
    image_encoder: Path | None = None,
    noun: str = "",
    frames: int = 0,
    size: int = 0,
    steps: int = 0,
    seed: int = 0,
    config: Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    dry_run: bool = False,
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Learn a motion from clips, or with some recipes a subject for clips from photos.

    Args:
        sources: clips (videos, animations, folders of frames), or a folder of clips; photos where the recipe learns a
            subject.
        output: folder for what is learned.
        recipe: how to learn (`pcs-ext video recipes` lists them).
        base: a text-to-video folder or hub id; or an image base (toybox, folder, hub id, .safetensors file).
        motion_module: AnimateDiff's motion adapter for an image base, a folder or a .safetensors file.
        prompts: what the clips show, one for all or one each; without any, NAME.txt beside every clip is read.
            Where a recipe learns a word for the motion, {motion} stands for it.
        prior: clips of the same kind of actors that do something else, with NAME.txt beside each, for recipes that keep
            what the model knows by them.
        image_encoder: transformers folder of CLIP, for recipes that tell what a clip looks like; toybox has its own.
        noun: what the subject is, for recipes that learn one.
        frames: frames of a training clip; 0 takes the recipe's.
        size: side in pixels that clips are learned at; 0 takes the base's.
        steps: optimiser steps in all; 0 takes the recipe's.
        seed: of everything random.
        config: a recipe as JSON (`--dry-run` prints one) instead of the recipe's own values.
        device: where to run.
        precision: of the frozen weights and of autocast.
        dry_run: print the resolved recipe and what would be learned from, then stop.
        overwrite: replace what is at the output path.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.cli import console_reporter
    from pcs_ext.video.learn_request import LearnRequest

    request = LearnRequest(
        sources=sources,
        recipe=recipe,
        base=base,
        motion_module=motion_module or None,
        prompts=prompts,
        prior=prior,
        image_encoder=image_encoder,
        noun=noun,
        frames=frames or None,
        size=size or None,
        steps=steps or None,
        config=config,
        device=device,
        precision=precision,
    )
    if dry_run:
        _print_json(request.plan())
        return
    request.run(output, seed=seed, overwrite=overwrite, reporter=console_reporter(jsonl))
    sys.stdout.write(f"{output}\n")


def make(
    prompts: Positional[tuple[str, ...]],
    output: Output,
    subject: Path | None = None,
    motion: Path | None = None,
    base: str = "",
    motion_module: str = "",
    seeds: tuple[int, ...] = (0,),
    negative_prompt: str = "",
    frames: int = 0,
    size: int = 0,
    fps: float = 8.0,
    steps: int = 0,
    guidance_scale: float = 0.0,
    subject_scale: float = 1.0,
    motion_scale: float = 1.0,
    reference: Path | None = None,
    reference_share: float = 0.0,
    picture: Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Make clips, of any learned subject and with any learned motion; neither is learned again.

    Args:
        prompts: texts, with {subject} where a learned subject goes, and {motion} where the motion has a word.
        output: the clip to write (.mp4, .webm, .gif, .webp), or a folder for several; a preview, a sheet of frames and
            a record of the making lie beside each.
        subject: folder written by `learn`, or by `video learn` from photos.
        motion: folder written by `video learn` from clips.
        base: empty takes the one that the motion, or else the subject, was learned on.
        motion_module: AnimateDiff's motion adapter for an image base; empty takes the motion's.
        seeds: one clip per prompt and seed.
        negative_prompt: what to stay away from.
        frames: how many; 0 takes what the motion was learned with, or what the base makes.
        size: side in pixels; 0 takes the base's.
        fps: frames per second of the written clip.
        steps: denoising steps; 0 takes the recipe's.
        guidance_scale: strength of the prompt, 1 = off; 0 takes the recipe's.
        subject_scale: strength of the subject, 1 as trained.
        motion_scale: strength of the motion, 1 as trained.
        reference: start from this clip's inverted noise, for instance the one the motion was learned from.
        reference_share: share of it in the start, up to 1; 0 takes the recipe's.
        picture: what clips start from (recipe lamp) or look like (dreamvideo-motion); without one the base makes it.
        device: where to run.
        precision: of the weights.
        overwrite: replace a clip of the same name.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.cli import console_reporter
    from pcs_ext.video.make import MakeRequest, make_clips

    request = MakeRequest(
        prompts=prompts,
        seeds=seeds,
        subject=subject,
        motion=motion,
        base=base,
        motion_module=motion_module or None,
        negative_prompt=negative_prompt,
        frames=frames or None,
        size=size or None,
        fps=fps,
        steps=steps or None,
        guidance_scale=guidance_scale or None,
        subject_scale=subject_scale,
        motion_scale=motion_scale,
        reference=reference,
        reference_share=reference_share or None,
        picture=picture,
        device=device,
        precision=precision,
    )
    for path in make_clips(request, output, overwrite=overwrite, reporter=console_reporter(jsonl)):
        sys.stdout.write(f"{path}\n")


def recipes(json: bool = False) -> None:
    """List the recipes `video learn` knows: what they learn, and from what.

    Args:
        json: print JSON instead of lines.
    """
    from pcs_ext.video.recipes import MOTIONS, RECIPES

    rows = [
        {
            "id": entry.id,
            "learns": "motion" if entry.id in MOTIONS else "subject",
            "summary": entry.summary,
            "paper": entry.paper,
            "system": entry.system,
        }
        for entry in RECIPES.values()
    ]
    if json:
        _print_json(rows)
        return
    for row in rows:
        sys.stdout.write(f"{row['id']:20} {row['learns']:8} {row['summary']}  ({row['paper']})\n")


def _print_json(value: object) -> None:
    sys.stdout.write(json_module.dumps(value, indent=2, ensure_ascii=False) + "\n")
