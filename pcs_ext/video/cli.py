"""Commands for clips: parse, call, report. Heavy modules are imported inside the functions."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from pcs_ext.command_options import MACHINE, Machine, Output, console_reporter, print_json, print_paths
from pcs_ext.video.cli_options import (
    CLIP,
    EDITING,
    LEARNED,
    MODEL,
    REFERENCE,
    SHOWN,
    TRAINING,
    Clip,
    Editing,
    Learned,
    Model,
    Reference,
    Shown,
    Training,
)

if TYPE_CHECKING:
    from pcs_ext.video.learn_request import LearnRequest
    from pcs_ext.video.reference.photos import PhotoRequest


def learn(
    sources: Positional[tuple[Path, ...]],
    output: Output,
    shown: OmitArgPrefixes[Shown] = SHOWN,
    training: OmitArgPrefixes[Training] = TRAINING,
    model: OmitArgPrefixes[Model] = MODEL,
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
    request = _learning(sources, shown, training, model)
    if dry_run:
        print_json(request.plan())
        return
    request.run(output, seed=training.seed, overwrite=overwrite, reporter=console_reporter(jsonl))
    print_paths([output])


def learn_motion(
    clips: Positional[tuple[Path, ...]],
    output: Output = Path("motion"),
    shown: OmitArgPrefixes[Shown] = SHOWN,
    training: OmitArgPrefixes[Training] = TRAINING,
    model: OmitArgPrefixes[Model] = MODEL,
    expect: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Learn a motion from one clip or a few that share it; words for what they show help, but need not be there.

    Args:
        clips: videos, animations, folders of frames, or a folder of clips.
        output: folder for the motion.
        shown: what the clips show; what is not said of them may be learned with the motion.
        training: how it is learned.
        model: what makes clips.
        expect: try a few steps, print how many minutes and how much memory each preset (or --steps) takes here, then
            stop.
        dry_run: print the resolved recipe and what would be learned from, then stop.
        overwrite: replace what is at the output path.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.errors import UsageError

    request = dataclasses.replace(_learning(clips, shown, training, model), captioned=False)
    if request.learns_subject:
        raise UsageError(f"{request.recipe} learns a subject from photos: `pcs-ext video learn`.")
    if dry_run:
        print_json(request.plan())
        return
    if expect:
        for found in request.expected(console_reporter(jsonl)):
            name = found.effort or "--steps"
            sys.stdout.write(f"{name:9} {found.steps:6} steps {found.minutes:8.1f} min {found.memory_gb:6.1f} GB\n")
        return
    request.run(output, seed=training.seed, overwrite=overwrite, reporter=console_reporter(jsonl))
    print_paths([output])


def learn_reference(
    clips: Positional[Path],
    output: Output,
    system: str = "id-animator",
    encoder: str = "",
    steps: int = 0,
    frames: int = 0,
    config: Path | None = None,
    seed: int = 0,
    model: OmitArgPrefixes[Model] = MODEL,
    dry_run: bool = False,
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Train an adapter for `video make --reference` on clips of many subjects.

    It is trained once for a base and then sees photos of any subject. The base's files stay as they are.

    Args:
        clips: folder with a subfolder for each subject or style: clips with NAME.txt beside each, and photos, if other
            pictures than the clips' frames shall be shown; for some systems noun.txt with the captions' word for it.
        output: folder for the adapter.
        system: what is trained (`pcs-ext video recipes` lists them).
        encoder: toybox/dino or toybox/clip, a transformers folder or a hub id of the image encoder; empty takes, on
            toybox, the system's.
        steps: optimiser steps in all; 0 takes the settings'.
        frames: of a training clip; 0 takes the settings'.
        config: settings as JSON (`--dry-run` prints them) instead of the paper's.
        seed: of everything random.
        model: what makes clips.
        dry_run: print the settings, then stop.
        overwrite: replace an existing adapter at the output path.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.config_io import to_jsonable
    from pcs_ext.video.reference.learn import ClipReferenceRequest, learn_clip_reference

    request = ClipReferenceRequest(
        clips=clips,
        system=system,
        base=model.base or "toybox",
        motion_module=model.motion_module or None,
        encoder=encoder,
        steps=steps or None,
        frames=frames or None,
        config=config,
        device=model.device,
        precision=model.precision,
    )
    if dry_run:
        print_json(to_jsonable(request.settings()[0]))
        return
    learn_clip_reference(request, output, seed=seed, overwrite=overwrite, reporter=console_reporter(jsonl))
    print_paths([output])


def _learning(sources: tuple[Path, ...], shown: Shown, training: Training, model: Model) -> "LearnRequest":
    from pcs_ext.video.learn_request import LearnRequest, usual_recipe
    from pcs_ext.video.size import parse_size

    base = model.base or "toybox"
    return LearnRequest(
        sources=sources,
        recipe=training.recipe or usual_recipe(base),
        base=base,
        motion_module=model.motion_module or None,
        prompts=shown.prompts,
        prior=shown.prior,
        image_encoder=shown.image_encoder,
        noun=shown.noun,
        frames=training.frames or None,
        size=parse_size(training.size),
        effort=training.preset,
        steps=training.steps or None,
        config=training.config,
        checkpoint_activations=training.checkpoint_activations,
        device=model.device,
        precision=model.precision,
    )


def make(
    prompts: Positional[tuple[str, ...]],
    output: Output = Path("clips"),
    learned: OmitArgPrefixes[Learned] = LEARNED,
    reference: OmitArgPrefixes[Reference] = REFERENCE,
    clip: OmitArgPrefixes[Clip] = CLIP,
    model: OmitArgPrefixes[Model] = MODEL,
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Make clips, of any learned subject and with any learned motion; neither is learned again.

    A folder before the prompts is the subject: `video make rex --motion spin "a photo of {subject} in the snow"`.

    Args:
        prompts: texts, with {subject} where a learned subject goes, and {motion} where the motion has a word.
        output: the clip to write (.mp4, .webm, .gif, .webp), or a folder for several; a preview, a sheet of frames and
            a record of the making lie beside each.
        learned: what goes into the clip.
        reference: photos to show, or a clip to start from.
        clip: its size and sampling.
        model: what makes it.
        overwrite: replace a clip of the same name.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.video.make import make_clips
    from pcs_ext.video.make_request import MakeRequest
    from pcs_ext.video.size import parse_size

    subject, prompts = _subject_first(prompts, learned.subject)
    photos, start = _photos(reference)
    request = MakeRequest(
        prompts=prompts,
        seeds=clip.seeds,
        subject=subject,
        motion=learned.motion,
        base=model.base,
        motion_module=model.motion_module or None,
        negative_prompt=clip.negative_prompt,
        frames=clip.frames or None,
        window=clip.window or None,
        refinements=clip.refine or None,
        size=parse_size(clip.size),
        fps=clip.fps,
        steps=clip.steps or None,
        guidance_scale=clip.guidance_scale or None,
        subject_scale=learned.subject_scale,
        motion_scale=learned.motion_scale,
        reference=start,
        photos=photos,
        reference_share=reference.reference_share or None,
        mask=reference.mask,
        keep=reference.keep,
        picture=learned.picture,
        image_encoder=learned.image_encoder,
        device=model.device,
        precision=model.precision,
    )
    print_paths(make_clips(request, output, overwrite=overwrite, reporter=console_reporter(jsonl)))


def _photos(reference: Reference) -> tuple["PhotoRequest", Path | None]:
    """The photos among what was given, and the clip."""
    from pcs_ext.video.reference.directions import AskedDirections
    from pcs_ext.video.reference.photos import PhotoRequest
    from pcs_ext.video.stills import photos_and_clip

    photos, clip = photos_and_clip(reference.reference)
    asked = PhotoRequest(
        photos=photos,
        adapter=reference.reference_adapter,
        encoder=reference.reference_encoder,
        scale=reference.reference_scale,
        nouns=reference.reference_noun,
        directions=AskedDirections(
            action=reference.action,
            intensity=None if reference.intensity == -1 else reference.intensity,
            structure=reference.structure,
            coarseness=reference.coarseness or None,
            temporal_guidance=None if reference.temporal_guidance == 1 else reference.temporal_guidance,
        ),
    )
    return asked, clip


def _subject_first(words: tuple[str, ...], named: Path | None) -> tuple[Path | None, tuple[str, ...]]:
    """The subject and the prompts, where a folder may stand before them."""
    from pcs_ext.errors import UsageError

    # Unlike Path.is_dir, this takes a prompt of any length for what it is.
    if not words or "{" in words[0] or not os.path.isdir(words[0]):
        return named, words
    if named is not None:
        raise UsageError(f"{words[0]} and --subject {named} are two subjects; a clip takes one.")
    return Path(words[0]), words[1:]


def edit(
    clip: Positional[Path],
    prompts: Positional[tuple[str, ...]],
    output: Output = Path("edits"),
    says: str = "",
    subject: Path | None = None,
    mask: Path | None = None,
    keep: Literal["background", "protagonist"] = "background",
    training: OmitArgPrefixes[Editing] = EDITING,
    seeds: tuple[int, ...] = (0,),
    fps: float | None = None,
    base: str = "toybox",
    machine: Machine = MACHINE,
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Change what a clip shows and keep how it moves (Tune-A-Video and its kin); interrupted, the same command goes on.

    What is learned of the clip lies in OUTPUT.edit and is used again for other prompts.

    Args:
        clip: a video, an animation or a folder of frames; it is only read.
        prompts: what it should show instead, with {subject} where a learned subject goes.
        output: the clip to write (.mp4, .webm, .gif, .webp), or a folder for several.
        says: what the clip shows; else NAME.txt beside it is read.
        subject: folder written by `learn`.
        mask: white where the clip's protagonist is: only there it changes.
        keep: what stays where there is a mask.
        training: how the clip is learned.
        seeds: one clip per prompt and seed.
        fps: frames per second of the written clip; by default those at which it moves as fast as the clip.
        base: an image model: toybox, a folder, a hub id or a .safetensors file.
        overwrite: replace a clip of the same name.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.video.edit import EditRequest, edit_clip
    from pcs_ext.video.size import parse_size

    request = EditRequest(
        clip=clip,
        prompts=prompts,
        says=says,
        recipe=training.recipe,
        effort=training.preset,
        subject=subject,
        mask=mask,
        keep=keep,
        base=base,
        frames=training.frames or None,
        size=parse_size(training.size),
        fps=fps,
        steps=training.steps or None,
        seeds=seeds,
        **machine.loading,
    )
    print_paths(edit_clip(request, output, overwrite=overwrite, reporter=console_reporter(jsonl)))


def export(
    motion: Positional[Path],
    output: Output,
    format: Literal["motion-lora", "motion-module", "spatial-lora"] = "motion-lora",
    precision: Literal["fp32", "fp16", "bf16"] = "fp16",
    title: str = "",
    overwrite: bool = False,
) -> None:
    """Write a learned motion as a file that AnimateDiff and its kin read.

    Args:
        motion: folder written by `video learn-motion` on an image base with a motion module.
        output: the .safetensors file.
        format: motion-lora goes on top of the motion module it was learned on; motion-module is a whole one with the
            motion in it; spatial-lora is what was learned of the clip's looks, apart (ComfyUI, A1111).
        precision: of the weights in the file.
        title: name that tools show.
        overwrite: replace what is there.
    """
    from pcs_ext.command_options import hush_libraries
    from pcs_ext.image.export import ExportOptions
    from pcs_ext.video.backbones.load import load_video_backbone
    from pcs_ext.video.export import export_motion
    from pcs_ext.video.motion import Motion

    learned = Motion.load(motion)
    hush_libraries()
    base, module = learned.origin["base"], learned.origin["motion_module"]
    # The file's weights are those of the base, whatever this machine would compute in.
    whole = format == "motion-module" and learned.recipe.inflation is None
    backbone: Any = load_video_backbone(str(base), module, device="cpu", precision="fp32") if whole else None
    options = ExportOptions(precision=precision, title=title, overwrite=overwrite)
    print_paths([export_motion(learned, format, output, options, backbone=backbone)])


def recipes(json: bool = False) -> None:
    """List the recipes `video learn` knows, what they learn, and the systems of `video learn-reference`.

    Args:
        json: print JSON instead of lines.
    """
    from pcs_ext.video.recipes import MOTIONS, RECIPES
    from pcs_ext.video.reference import REFERENCES

    learns = {name: "motion" if name in MOTIONS else "subject" for name in RECIPES}
    learns |= dict.fromkeys(REFERENCES, "photos")
    told = ("id", "summary", "paper", "system")
    rows = [
        {"learns": learns[entry.id], **{name: getattr(entry, name) for name in told}}
        for entry in (*RECIPES.values(), *REFERENCES.values())
    ]
    if json:
        print_json(rows)
        return
    for row in rows:
        sys.stdout.write(f"{row['id']:20} {row['learns']:8} {row['summary']}  ({row['paper']})\n")
