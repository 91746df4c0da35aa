"""Commands for clips: parse, call, report. Heavy modules are imported inside the functions."""

import dataclasses
import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Output = Annotated[Path, arg(aliases=["-o"])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """What makes clips, and where it runs."""

    base: str = ""
    """A text-to-video folder or hub id; or an image base (toybox, folder, hub id, .safetensors file). Empty: toybox for
    learning; for making the one that the motion, or else the subject, was learned on."""
    motion_module: str = ""
    """AnimateDiff's motion adapter for an image base, a folder or a .safetensors file; for making, empty takes the
    motion's."""
    device: Device = "auto"
    """Where to run."""
    precision: Precision = "auto"
    """Of the frozen weights and of autocast."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """What the clips or photos show."""

    prompts: tuple[str, ...] = ()
    """What the clips show, one for all or one each; without any, NAME.txt beside every clip is read. Where a recipe
    learns a word for the motion or for who does it, {motion} and {protagonist} stand for them."""
    noun: str = ""
    """What the subject is, or who does the motion, for recipes that learn a word for it; one per subject, with commas,
    for those that learn several."""
    prior: tuple[Path, ...] = ()
    """Clips of the same kind of actors that do something else, with NAME.txt beside each, for recipes that keep what
    the model knows by them."""
    image_encoder: Path | None = None
    """Transformers folder of CLIP, for recipes that look at pictures; toybox has its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How it is learned; 0 and nothing take the recipe's."""

    recipe: str = "motion-director"
    """How to learn (`pcs-ext video recipes` lists them)."""
    frames: int = 0
    """Frames of a training clip."""
    size: str = ""
    """Pixels that clips are learned at: 512, or 512x320 for width x height; empty takes the base's square."""
    steps: int = 0
    """Optimiser steps in all."""
    seed: int = 0
    """Of everything random."""
    config: Path | None = None
    """A recipe as JSON (`--dry-run` prints one) instead of the recipe's own values."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned:
    """What was learned and goes into the clip."""

    subject: Path | None = None
    """Folder written by `learn`, or by `video learn` from photos."""
    motion: Path | None = None
    """Folder written by `video learn` from clips."""
    subject_scale: float = 1.0
    """Strength of the subject, 1 as trained."""
    motion_scale: float = 1.0
    """Strength of the motion, 1 as trained."""
    picture: Path | None = None
    """What clips start from (recipe lamp) or look like (dreamvideo-motion); without one the base makes it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """A clip to start from, or to change a part of."""

    reference: Path | None = None
    """Start from this clip's inverted noise, for instance the one the motion was learned from."""
    reference_share: float = 0.0
    """Share of it in the start, up to 1; 0 takes the recipe's."""
    mask: Path | None = None
    """White where the reference's protagonist is (a clip, a folder of frames, or a picture): only there it changes."""
    keep: Literal["background", "protagonist"] = "background"
    """What stays where there is a mask: what is around the protagonist, or the protagonist."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """Size of the clip and how it is sampled; 0 and nothing take the recipe's."""

    seeds: tuple[int, ...] = (0,)
    """One clip per prompt and seed."""
    frames: int = 0
    """How many; else what the motion was learned with, or what the base makes."""
    size: str = ""
    """Pixels: 512, or 512x320 for width x height; empty takes what was learned, or the base's square."""
    fps: float = 8.0
    """Frames per second of the written clip."""
    steps: int = 0
    """Denoising steps."""
    guidance_scale: float = 0.0
    """Strength of the prompt, 1 = off."""
    negative_prompt: str = ""
    """What to stay away from."""


def learn(
    sources: Positional[tuple[Path, ...]],
    output: Output,
    shown: OmitArgPrefixes[Shown] = Shown(),
    training: OmitArgPrefixes[Training] = Training(),
    model: OmitArgPrefixes[Model] = Model(),
    dry_run: bool = False,
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Learn a motion from clips, or with some recipes a subject for clips from photos.

    Args:
        sources: clips (videos, animations, folders of frames), or a folder of clips; photos where the recipe learns a
            subject, a folder for each where it learns several.
        output: folder for what is learned.
        shown: what the clips or photos show.
        training: how it is learned.
        model: what makes clips.
        dry_run: print the resolved recipe and what would be learned from, then stop.
        overwrite: replace what is at the output path.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.cli import console_reporter
    from pcs_ext.video.learn_request import LearnRequest
    from pcs_ext.video.size import parse_size

    request = LearnRequest(
        sources=sources,
        recipe=training.recipe,
        base=model.base or "toybox",
        motion_module=model.motion_module or None,
        prompts=shown.prompts,
        prior=shown.prior,
        image_encoder=shown.image_encoder,
        noun=shown.noun,
        frames=training.frames or None,
        size=parse_size(training.size),
        steps=training.steps or None,
        config=training.config,
        device=model.device,
        precision=model.precision,
    )
    if dry_run:
        _print_json(request.plan())
        return
    request.run(output, seed=training.seed, overwrite=overwrite, reporter=console_reporter(jsonl))
    sys.stdout.write(f"{output}\n")


def make(
    prompts: Positional[tuple[str, ...]],
    output: Output,
    learned: OmitArgPrefixes[Learned] = Learned(),
    reference: OmitArgPrefixes[Reference] = Reference(),
    clip: OmitArgPrefixes[Clip] = Clip(),
    model: OmitArgPrefixes[Model] = Model(),
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Make clips, of any learned subject and with any learned motion; neither is learned again.

    Args:
        prompts: texts, with {subject} where a learned subject goes, and {motion} where the motion has a word.
        output: the clip to write (.mp4, .webm, .gif, .webp), or a folder for several; a preview, a sheet of frames and
            a record of the making lie beside each.
        learned: what goes into the clip.
        reference: a clip to start from.
        clip: its size and sampling.
        model: what makes it.
        overwrite: replace a clip of the same name.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.cli import console_reporter
    from pcs_ext.video.make import make_clips
    from pcs_ext.video.make_request import MakeRequest
    from pcs_ext.video.size import parse_size

    request = MakeRequest(
        prompts=prompts,
        seeds=clip.seeds,
        subject=learned.subject,
        motion=learned.motion,
        base=model.base,
        motion_module=model.motion_module or None,
        negative_prompt=clip.negative_prompt,
        frames=clip.frames or None,
        size=parse_size(clip.size),
        fps=clip.fps,
        steps=clip.steps or None,
        guidance_scale=clip.guidance_scale or None,
        subject_scale=learned.subject_scale,
        motion_scale=learned.motion_scale,
        reference=reference.reference,
        reference_share=reference.reference_share or None,
        mask=reference.mask,
        keep=reference.keep,
        picture=learned.picture,
        device=model.device,
        precision=model.precision,
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
