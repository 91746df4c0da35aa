"""Commands of the image core: parse, call, report. Heavy modules are imported inside the functions."""

import dataclasses
import itertools
import os
import sys
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from pcs_ext.command_options import (
    MACHINE,
    PICTURES,
    REFERENCES,
    SAMPLING,
    Machine,
    Output,
    Pictures,
    References,
    Sampling,
    console_reporter,
    hush_libraries,
    print_json,
    print_paths,
)


def learn(
    photos: Positional[tuple[Path, ...]],
    noun: str,
    output: Output,
    recipe: str = "dreambooth-lora",
    base: str = "toybox",
    token: str = "",
    steps: int = 0,
    seed: int = 0,
    config: Path | None = None,
    machine: Machine = MACHINE,
    dry_run: bool = False,
    overwrite: bool = False,
    previews: int = 0,
    checkpoint_activations: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Learn a subject from photos.

    Args:
        photos: photo files, or one folder of them (masks NAME_mask.png and captions NAME.txt beside them are used).
        noun: what the subject is, one or two words: dog, toy robot, ceramic mug.
        output: folder for the learned subject.
        recipe: how to learn (`pcs-ext recipes` lists them).
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        token: the word that stands for the subject; empty picks one.
        steps: optimiser steps in all; 0 takes the recipe's.
        seed: of everything random.
        config: a recipe as JSON (`--dry-run` prints one) instead of the recipe's own values.
        dry_run: print the resolved recipe and what would be trained, then stop.
        overwrite: replace an existing learned subject at the output path.
        previews: write a sheet of preview images to OUTPUT.previews/ every so many steps; 0 writes none.
        checkpoint_activations: compute activations again in the backward pass: less memory, more time, equal gradients.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.learn import learn as run
    from pcs_ext.image.learn import plan

    if dry_run:
        request = {"noun": noun, "recipe": recipe, "base": base, "token": token}
        print_json(plan(photos, **request, steps=steps or None, config=config))
        return
    run(
        photos,
        noun=noun,
        recipe=recipe,
        base=base,
        token=token,
        steps=steps or None,
        config=config,
        output=output,
        seed=seed,
        **machine.loading,
        overwrite=overwrite,
        previews=previews,
        checkpoint_activations=checkpoint_activations,
        reporter=console_reporter(jsonl),
    )
    print_paths([output])


def image(
    subject: Positional[Path],
    prompts: Positional[tuple[str, ...]],
    pictures: Pictures = PICTURES,
    negative_prompt: str = "",
    steps: int = 0,
    guidance_scale: float = 0.0,
    scale: float = 1.0,
    references: References = REFERENCES,
    base: str = "",
    machine: Machine = MACHINE,
) -> None:
    """Generate images of a learned subject, of several in one picture, or of what reference photos show.

    With more folders before the prompts, {rex} and {pip} stand for them; `image together` has the settings of that.
    With --reference nothing needs to be learned: pcs-ext image "a photo of a robot on the beach" --reference robot.jpg

    Args:
        subject: folder written by `learn`; with --reference it may be left out.
        prompts: texts with {subject} where the subject goes.
        negative_prompt: what to stay away from.
        steps: denoising steps; 0 takes the recipe's.
        guidance_scale: strength of the prompt, 1 = off; 0 takes the recipe's.
        scale: strength of the learned subject, 1 as trained.
        base: generate with another base of the same family than the one it was learned on; without a subject toybox, a
            hub id, a diffusers folder or a .safetensors file.
    """
    from pcs_ext.errors import UsageError
    from pcs_ext.image.subject import Artifact, save_images

    if references.reference:
        _beside_references(subject, prompts, pictures, references, machine, negative_prompt=negative_prompt,
                           steps=steps or None, guidance_scale=guidance_scale or None, subject_scale=scale,
                           base=base or None)  # fmt: skip
        return
    if references != REFERENCES:
        raise UsageError(
            "--reference-scale, -adapter, -encoder, -noun, -box, -turn, -map and -style go with photos; give some: "
            "--reference PHOTO."
        )
    if not prompts:
        raise UsageError('image needs prompts after the subject, got none: "a photo of {subject} on the beach".')
    if "{" not in prompts[0] and os.path.isdir(prompts[0]):
        if base or scale != 1.0:
            raise UsageError("--base and --scale are for one subject; see `pcs-ext image together --help`.")
        together((str(subject), *prompts), pictures=pictures, negative_prompt=negative_prompt, machine=machine,
                 sampling=dataclasses.replace(SAMPLING, steps=steps, guidance_scale=guidance_scale))  # fmt: skip
        return
    artifact = Artifact.load(subject)
    images = artifact.generate(
        prompts,
        seeds=pictures.seeds_for(prompts),
        negative_prompt=negative_prompt,
        steps=steps or None,
        guidance_scale=guidance_scale or None,
        scale=scale,
        base=base or None,
        **machine.loading,
        reporter=console_reporter(),
    )
    print_paths(save_images(images, pictures.output))


def _beside_references(
    first: Path, rest: tuple[str, ...], pictures: Pictures, references: References, machine: Machine, **asked: Any
) -> None:
    """`image` with --reference: the first word is a learned subject's folder or a prompt."""
    from pcs_ext.errors import UsageError
    from pcs_ext.image.reference.reference import generate
    from pcs_ext.image.subject import Artifact, save_images

    # An empty prompt, which leaves all to the photos, reads as a path like the folder one is in.
    nothing = first == Path() and not (first / "config.json").is_file()
    subject = Artifact.load(first) if os.path.isdir(first) and not nothing else None
    prompts = rest if subject is not None else ("" if nothing else str(first), *rest)
    if any(os.path.isdir(prompt) for prompt in prompts):
        raise UsageError("--reference goes with one learned subject or none; several are drawn without it.")
    if subject is None and asked["subject_scale"] != 1.0:
        raise UsageError(
            "--scale is the strength of a learned subject, and none was given; that of photos is --reference-scale."
        )
    images = generate(
        prompts, subject=subject, seeds=pictures.seeds_for(prompts), **references.asked, **asked, **machine.loading,
        reporter=console_reporter(),
    )  # fmt: skip
    print_paths(save_images(images, pictures.output))


def together(
    arguments: Positional[tuple[str, ...]],
    names: tuple[str, ...] = (),
    box: tuple[str, ...] = (),
    arrange: Literal["columns", "base"] = "columns",
    pictures: Pictures = PICTURES,
    negative_prompt: str = "",
    method: Literal["auto", "cones-2", "omg", "multibooth", "mc2", "pacgen"] = "auto",
    sampling: Sampling = SAMPLING,
    config: Path | None = None,
    machine: Machine = MACHINE,
) -> None:
    """Generate images of several learned subjects, each with its own words and weights in its own region.

    `pcs-ext image rex pip "a photo of {rex} and {pip} on the beach"` is short for this one.

    Args:
        arguments: folders written by `learn`, two or more; then texts with {rex}, {pip} (the folders' names) where
            subjects go, or {subject} for all of them.
        names: other names than the folders', in their order.
        box: "NAME: LEFT TOP RIGHT BOTTOM" in shares of the picture, as "rex: 0.05 0.2 0.5 0.9".
        arrange: without boxes: columns puts subjects side by side in the order of the prompt; base, with omg, where the
            base draws their nouns.
        negative_prompt: what to stay away from.
        method: omg draws each subject by its own weights where the base drew its noun, pacgen in its box; cones-2 draws
            words alone, multibooth words with keys and values, in one pass; mc2 lets subjects find places; auto: what
            fits.
        config: the method's settings as JSON.
    """
    from pcs_ext.image.edits.boxes import parse_box
    from pcs_ext.image.edits.cast import open_cast, split_subjects
    from pcs_ext.image.edits.settings import resolve_edit
    from pcs_ext.image.edits.together import TOGETHER, draw_together, usual_method
    from pcs_ext.image.subject import save_images

    folders, prompts = split_subjects(arguments)
    cast = open_cast(folders, names=names)
    settings = resolve_edit(
        usual_method(cast) if method == "auto" else method, TOGETHER, cast.base_name, config, **sampling.asked,
    )  # fmt: skip
    made = draw_together(
        cast, prompts, seeds=pictures.seeds_for(prompts), config=settings, boxes=[parse_box(text) for text in box],
        arrange=arrange, negative_prompt=negative_prompt, **machine.loading, reporter=console_reporter(),
    )  # fmt: skip
    print_paths(save_images(made, pictures.output))


def export(
    subject: Positional[Path],
    output: Output,
    format: Literal["diffusers", "peft", "kohya", "textual-inversion", "diffusers-model"] = "kohya",
    precision: Literal["fp32", "fp16", "bf16"] = "fp16",
    training_metadata: bool = True,
    title: str = "",
    overwrite: bool = False,
) -> None:
    """Write a learned subject in another tool's format.

    Args:
        subject: folder written by `learn`.
        output: file for kohya and diffusers, folder for the others.
        format: kohya (ComfyUI, A1111, Forge, InvokeAI), diffusers, peft, textual-inversion, or the merged model.
        precision: of the weights in the file.
        training_metadata: how it was trained, told in the file; --no-training-metadata leaves it out.
        title: name that tools show; empty takes the file's.
        overwrite: replace what is there.
    """
    from pcs_ext.image.export import ExportOptions, advice, export_artifact
    from pcs_ext.image.subject import Artifact

    artifact = Artifact.load(subject)
    options = ExportOptions(precision=precision, training_metadata=training_metadata, title=title, overwrite=overwrite)
    # Full precision: what is merged is rounded once, to what is asked for.
    backbone = artifact.backbone(precision="fp32") if format == "diffusers-model" else None
    written = export_artifact(artifact.data, format, output, options, backbone=backbone)
    for sentence in advice(artifact.data, format, written):
        console_reporter().event("advice", sentence)
    print_paths(written)


def recipes(json: bool = False) -> None:
    """List the recipes `learn` knows.

    Args:
        json: print JSON instead of lines.
    """
    from pcs_ext.image.recipes import RECIPES

    if json:
        fields = ("id", "summary", "paper", "system", "scope")
        print_json([{name: getattr(entry, name) for name in fields} for entry in RECIPES.values()])
        return
    width = max(map(len, RECIPES))
    for scope, entries in itertools.groupby(RECIPES.values(), lambda entry: entry.scope):
        sys.stdout.write(f"{scope}\n")
        for entry in entries:
            sys.stdout.write(f"  {entry.id:{width}}  {entry.summary}  ({entry.paper})\n")


def tokens(base: str = "toybox", count: int = 10) -> None:
    """List rare words that are one token of a base.

    With the words that the base takes them for.

    Args:
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        count: how many.
    """
    from pcs_ext.image.backbones.load import load_backbone
    from pcs_ext.image.rare_tokens import pick_rare_tokens

    hush_libraries()
    backbone = load_backbone(base)
    table = backbone.text_encoders[0].get_input_embeddings().weight
    for token in pick_rare_tokens(backbone.tokenizers[0], table, count=count):
        sys.stdout.write(f"{token.word:8} id {token.token_id:6}  near {', '.join(token.neighbours)}\n")
