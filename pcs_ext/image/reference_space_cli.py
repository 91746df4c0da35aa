"""Command line of what reference systems look through: style spaces, what they invent, and landmarks of faces."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from pcs_ext.command_options import (
    MACHINE,
    PICTURES,
    Device,
    Machine,
    Output,
    Pictures,
    console_reporter,
    print_paths,
)


def style_space(
    pairs: Positional[Path],
    output: Output,
    preset: Literal["toybox", "photos"] = "toybox",
    steps: int = 0,
    config: Path | None = None,
    seed: int = 0,
    device: Device = "auto",
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Train a style-based autoencoder on photos, whose codes w-plus-adapter reads (--encoder OUTPUT).

    Its folder has a preview: photos, what their codes give back, and random codes.

    Args:
        pairs: folder of albums, as `reference learn` reads them.
        output: folder of the style space.
        preset: sizes: toybox's (64 px), or StyleGAN2's at 256 px.
        steps: optimiser steps in all; 0 takes the settings'.
        config: settings as JSON (`StyleTraining`).
        seed: of everything random.
        device: where it trains.
        overwrite: replace what is at the output path.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.reference.style_learn import learn_style_space

    learn_style_space(
        pairs, output, preset=preset, steps=steps or None, config=config, seed=seed, device=device,
        overwrite=overwrite, reporter=console_reporter(jsonl),
    )  # fmt: skip
    print_paths([output])


def restyle(
    prompts: Positional[tuple[str, ...]],
    reference: tuple[Path, ...],
    toward: tuple[Path, ...],
    adapter: str,
    encoder: str = "",
    away: tuple[Path, ...] = (),
    strength: float = 1.0,
    rows: tuple[int, ...] = (),
    scale: float = 1.0,
    pictures: Pictures = PICTURES,
    negative_prompt: str = "",
    base: str = "toybox",
    steps: int = 0,
    guidance_scale: float = 0.0,
    machine: Machine = MACHINE,
) -> None:
    """Draw a subject with an attribute changed in a style space, by an adapter of w-plus-adapter.

    Masks NAME_mask.png count where all photos have one.

    pcs-ext reference restyle "a dog on the beach" --reference rex.jpg --toward SPOTTED --away PLAIN --adapter FOLDER

    Args:
        prompts: what the pictures show.
        reference: photos of the subject.
        toward: photos, or folders of them, that have the attribute.
        adapter: folder that `reference learn --system w-plus-adapter` wrote.
        encoder: folder of the style space, where it is not where it was.
        away: photos that do not have it; none: the subject's own.
        strength: how far: 1 as far as the two groups lie apart, negative the other way.
        rows: first and last row of the code that are moved, from 1, coarse ones first; all, if nothing is said.
        scale: how much the subject counts, 1 as trained.
        negative_prompt: what to stay away from.
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        steps: denoising steps; 0 takes the base's.
        guidance_scale: strength of the prompt, 1 = off; 0 takes the base's.
    """
    from pcs_ext.image.reference.restyle import restyle as draw
    from pcs_ext.image.subject import save_images

    images = draw(
        list(prompts), reference, toward=toward, away=away, strength=strength, rows=rows, adapter=adapter,
        encoder=encoder, scale=scale, seeds=pictures.seeds_for(list(prompts)), negative_prompt=negative_prompt,
        base=base, steps=steps or None, guidance_scale=guidance_scale or None, **machine.loading,
        reporter=console_reporter(),
    )  # fmt: skip
    print_paths(save_images(images, pictures.output))


def vary(
    pairs: Positional[Path],
    output: Output,
    space: Path,
    identities: int = 100,
    photos: int = 4,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Add albums of people who do not exist to a folder of pairs, mixed of those who do in a style space.

    Args:
        pairs: folder of albums, as `reference learn` reads them.
        output: folder of the new albums, which may be the same; those that are there are kept.
        space: folder that `reference style-space` wrote.
        identities: how many albums.
        photos: pictures of each.
        seed: of what is mixed.
        device: where pictures are made.
    """
    from pcs_ext.image.reference.vary import vary_pairs

    vary_pairs(
        pairs, output, space=space, identities=identities, photos=photos, seed=seed, device=device,
        reporter=console_reporter(),
    )  # fmt: skip
    print_paths([output])


def landmarks(photos: Positional[tuple[Path, ...]], detector: str, overwrite: bool = False) -> None:
    """Find five points of every face by a detector of yours, and write landmarks/NAME.txt beside each photo.

    Photos are only read, one at a time, and those without a face are named. `reference learn --system instantid` and
    --reference-map landmarks-of=PHOTO look for these files: five lines "x y" a face (eyes, nose, corners of the mouth)
    in shares of the photo.

    Args:
        photos: photos, folders of photos, or folders of albums.
        detector: MODULE:FUNCTION that takes a photo (uint8, 3 h w) and gives points n 2 in pixels, five for each face.
        overwrite: find anew what is there; else it is kept.
    """
    from pcs_ext.image.reference.landmarks import find_landmarks, load_landmark_detector

    finds, reporter = load_landmark_detector(detector), console_reporter()
    print_paths(find_landmarks(photos, finds, overwrite=overwrite, reporter=reporter))
