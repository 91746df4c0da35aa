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
    """What makes clips, and where it runs.

    Args:
        base: a text-to-video folder or hub id; or an image base (toybox, folder, hub id, .safetensors file). Empty:
            toybox for learning; for making the one that the motion, or else the subject, was learned on.
        motion_module: AnimateDiff's motion adapter for an image base, a folder or a .safetensors file; for making,
            empty takes the motion's.
        device: where to run.
        precision: of the frozen weights and of autocast.
    """

    base: str = ""
    motion_module: str = ""
    device: Device = "auto"
    precision: Precision = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """What the clips or photos show.

    Args:
        prompts: what the clips show, one for all or one each; without any, NAME.txt beside every clip is read. Where a
            recipe learns a word for the motion or for who does it, {motion} and {protagonist} stand for them.
        noun: what the subject is, or who does the motion, for recipes that learn a word for it; one per subject, with
            commas, for those that learn several.
        prior: clips of the same kind of actors that do something else, with NAME.txt beside each, for recipes that keep
            what the model knows by them.
        image_encoder: transformers folder of CLIP, for recipes that look at pictures; toybox has its own.
    """

    prompts: tuple[str, ...] = ()
    noun: str = ""
    prior: tuple[Path, ...] = ()
    image_encoder: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How it is learned; 0 and nothing take the recipe's.

    Args:
        recipe: how to learn (`pcs-ext video recipes` lists them).
        frames: frames of a training clip.
        size: pixels that clips are learned at: 512, or 512x320 for width x height; empty takes the base's square.
        steps: optimiser steps in all.
        seed: of everything random.
        config: a recipe as JSON (`--dry-run` prints one) instead of the recipe's own values.
    """

    recipe: str = "motion-director"
    frames: int = 0
    size: str = ""
    steps: int = 0
    seed: int = 0
    config: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned:
    """What was learned and goes into the clip.

    Args:
        subject: folder written by `learn`, or by `video learn` from photos.
        motion: folder written by `video learn` from clips.
        subject_scale: strength of the subject, 1 as trained.
        motion_scale: strength of the motion, 1 as trained.
        picture: what clips start from (recipe lamp) or look like (dreamvideo-motion); without one the base makes it.
    """

    subject: Path | None = None
    motion: Path | None = None
    subject_scale: float = 1.0
    motion_scale: float = 1.0
    picture: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """A clip to start from, or to change a part of.

    Args:
        reference: start from this clip's inverted noise, for instance the one the motion was learned from.
        reference_share: share of it in the start, up to 1; 0 takes the recipe's.
        mask: white where the reference's protagonist is (a clip, a folder of frames, or a picture): only there it
            changes.
        keep: what stays where there is a mask: what is around the protagonist, or the protagonist.
    """

    reference: Path | None = None
    reference_share: float = 0.0
    mask: Path | None = None
    keep: Literal["background", "protagonist"] = "background"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """Size of the clip and how it is sampled; 0 and nothing take the recipe's.

    Args:
        seeds: one clip per prompt and seed.
        frames: how many; else what the motion was learned with, or what the base makes.
        size: pixels: 512, or 512x320 for width x height; empty takes what was learned, or the base's square.
        fps: frames per second of the written clip.
        steps: denoising steps.
        guidance_scale: strength of the prompt, 1 = off.
        negative_prompt: what to stay away from.
    """

    seeds: tuple[int, ...] = (0,)
    frames: int = 0
    size: str = ""
    fps: float = 8.0
    steps: int = 0
    guidance_scale: float = 0.0
    negative_prompt: str = ""


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
