"""Commands of the image core: parse, call, report. Heavy modules are imported inside the functions."""

import itertools
import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Output = Annotated[Path, arg(aliases=["-o"])]


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
    device: Device = "auto",
    precision: Precision = "auto",
    dry_run: bool = False,
    overwrite: bool = False,
    previews: int = 0,
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
        device: where to run.
        precision: of the frozen weights and of autocast.
        dry_run: print the resolved recipe and what would be trained, then stop.
        overwrite: replace an existing learned subject at the output path.
        previews: write a sheet of preview images to OUTPUT.previews/ every so many steps; 0 writes none.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.learn import learn as run
    from pcs_ext.image.learn import plan

    if dry_run:
        request = {"noun": noun, "recipe": recipe, "base": base, "token": token}
        _print_json(plan(photos, **request, steps=steps or None, config=config))
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
        device=device,
        precision=precision,
        overwrite=overwrite,
        previews=previews,
        reporter=console_reporter(jsonl),
    )
    sys.stdout.write(f"{output}\n")


def image(
    subject: Positional[Path],
    prompts: Positional[tuple[str, ...]],
    output: Output = Path("images"),
    seeds: tuple[int, ...] = (0, 1, 2, 3),
    negative_prompt: str = "",
    steps: int = 0,
    guidance_scale: float = 0.0,
    scale: float = 1.0,
    base: str = "",
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Generate images of a learned subject.

    Args:
        subject: folder written by `learn`.
        prompts: texts with {subject} where the subject goes.
        output: folder for the PNG files; existing files are kept, new ones get the next number.
        seeds: one image per prompt and seed.
        negative_prompt: what to stay away from.
        steps: denoising steps; 0 takes the recipe's.
        guidance_scale: strength of the prompt, 1 = off; 0 takes the recipe's.
        scale: strength of the learned subject, 1 as trained.
        base: generate with another base of the same family than the one it was learned on.
        device: where to run.
        precision: of the weights.
    """
    from pcs_ext.errors import UsageError
    from pcs_ext.image.subject import Artifact, save_images

    if not prompts:
        raise UsageError('image needs prompts after the subject, got none: "a photo of {subject} on the beach".')
    artifact = Artifact.load(subject)
    images = artifact.generate(
        prompts,
        seeds=seeds,
        negative_prompt=negative_prompt,
        steps=steps or None,
        guidance_scale=guidance_scale or None,
        scale=scale,
        base=base or None,
        device=device,
        precision=precision,
        reporter=console_reporter(None),
    )
    for path in save_images(images, output):
        sys.stdout.write(f"{path}\n")


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
        output: file, or folder for the formats that are one.
        format: kohya (ComfyUI, A1111, Forge, InvokeAI), diffusers, peft, textual-inversion, or the merged model.
        precision: of the weights in the file.
        training_metadata: how it was trained, told in the file; --no-training-metadata leaves it out.
        title: name that tools show; empty takes the file's.
        overwrite: replace what is there.
    """
    from pcs_ext.image.export import ExportOptions, export_artifact
    from pcs_ext.image.subject import Artifact

    artifact = Artifact.load(subject)
    options = ExportOptions(precision=precision, training_metadata=training_metadata, title=title, overwrite=overwrite)
    backbone = artifact.backbone() if format == "diffusers-model" else None
    for path in export_artifact(artifact.data, format, output, options, backbone=backbone):
        sys.stdout.write(f"{path}\n")


def recipes(json: bool = False) -> None:
    """List the recipes `learn` knows.

    Args:
        json: print JSON instead of lines.
    """
    from pcs_ext.image.recipes import RECIPES

    if json:
        fields = ("id", "summary", "paper", "system", "scope")
        _print_json([{name: getattr(entry, name) for name in fields} for entry in RECIPES.values()])
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


def hush_libraries() -> None:
    """Keep the libraries' own progress bars off the terminal."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def console_reporter(jsonl: Path | None):
    """A console reporter; the libraries' own progress bars would only stand in its way."""
    hush_libraries()
    from pcs_ext.reporter import ConsoleReporter, JsonlReporter, TeeReporter

    console = ConsoleReporter()
    return console if jsonl is None else TeeReporter(console, JsonlReporter(jsonl))


def _print_json(value: object) -> None:
    sys.stdout.write(json_module.dumps(value, indent=2, ensure_ascii=False) + "\n")
