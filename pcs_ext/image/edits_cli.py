"""Commands that edit or guide pictures: parse, call, report. Heavy modules are imported inside the functions."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from pcs_ext.image.cli import Device, Precision, console_reporter

Output = Annotated[Path, arg(aliases=["-o"])]


def swap(
    picture: Positional[Path],
    subject: Positional[Path],
    noun: str,
    output: Output,
    method: Literal["photoswap", "swapanything"] = "swapanything",
    prompt: str = "a photo of {subject}",
    mask: Path | None = None,
    steps: int = 0,
    guidance_scale: float = 0.0,
    config: Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: bool = False,
) -> None:
    """Put a learned subject where something else is in a picture; the rest of the picture keeps its pixels.

    A mask that was found is written beside the output as NAME_mask.png: correct it and give it with --mask.

    Args:
        picture: photo in any readable format; it stays as it is.
        subject: folder written by `learn`.
        noun: what shall go: cat, toy car.
        output: the PNG to write, as large as the picture.
        method: photoswap takes the whole picture's attention for the first steps; swapanything works in the mask alone.
        prompt: describes the picture, with {subject} where the thing to swap stands; more words find better masks.
        mask: white where the picture may change; by default NOUN is looked for by the base's attention.
        steps: of inversion and of sampling; 0 takes the method's.
        guidance_scale: strength of the prompt, 1 = off; 0 takes the method's.
        config: the method's settings as JSON.
        device: where to run.
        precision: of the weights.
        overwrite: replace an existing output.
    """
    from pcs_ext.image.data import read_mask, read_photo
    from pcs_ext.image.edits.settings import resolve_edit
    from pcs_ext.image.edits.swap import SwapConfig
    from pcs_ext.image.edits.swap_picture import swap_picture
    from pcs_ext.image.subject import Artifact, save_mask

    _check_output(output, picture, overwrite)
    artifact = Artifact.load(subject)
    settings = resolve_edit(
        method, SwapConfig, artifact.data.base_name, config, steps=steps, guidance_scale=guidance_scale
    )
    photo = read_photo(picture)
    made = swap_picture(
        artifact,
        photo.image,
        noun=noun,
        config=settings,
        prompt=prompt,
        mask=read_mask(mask, photo) if mask is not None else None,
        device=device,
        precision=precision,
        reporter=console_reporter(None),
    )
    made.picture.save(output)
    sys.stdout.write(f"{output}\n")
    if mask is None:
        found = output.with_name(f"{output.stem}_mask.png")
        save_mask(made.mask, found)
        sys.stdout.write(f"{found}  where {noun} was found\n")


def layout(
    prompts: Positional[tuple[str, ...]],
    box: tuple[str, ...] = (),
    boxes: Path | None = None,
    subject: Path | None = None,
    output: Output = Path("images"),
    seeds: tuple[int, ...] = (0, 1, 2, 3),
    negative_prompt: str = "",
    method: Literal["layout-control"] = "layout-control",
    steps: int = 0,
    guidance_scale: float = 0.0,
    base: str = "",
    config: Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Generate images with words of the prompt in boxes.

    Args:
        prompts: texts; with --subject, {subject} stands for it, or {name} for each subject of a ledger.
        box: "PHRASE: LEFT TOP RIGHT BOTTOM" in shares of the picture, as "robot: 0.1 0.2 0.5 0.9".
        boxes: the same as a JSON file, {"robot": [0.1, 0.2, 0.5, 0.9]}.
        subject: folder written by `learn`, or a ledger of `continual add`.
        output: folder for the PNG files; existing files are kept, new ones get the next number.
        seeds: one image per prompt and seed.
        negative_prompt: what to stay away from.
        method: how boxes are kept.
        steps: denoising steps; 0 takes the method's.
        guidance_scale: strength of the prompt, 1 = off; 0 takes the method's.
        base: without --subject: toybox (default), a hub id, a diffusers folder or a .safetensors file.
        config: the method's settings as JSON.
        device: where to run.
        precision: of the weights.
    """
    from pcs_ext.image.edits.boxes import parse_box, read_boxes
    from pcs_ext.image.edits.layout import LayoutConfig
    from pcs_ext.image.edits.layout_pictures import draw_layouts, open_cast
    from pcs_ext.image.edits.settings import resolve_edit
    from pcs_ext.image.subject import save_images

    asked = [*(read_boxes(boxes) if boxes is not None else []), *(parse_box(text) for text in box)]
    cast = open_cast(subject, base)
    settings = resolve_edit(method, LayoutConfig, cast.base_name, config, steps=steps, guidance_scale=guidance_scale)
    made = draw_layouts(
        cast,
        prompts,
        asked,
        seeds=seeds,
        config=settings,
        negative_prompt=negative_prompt,
        device=device,
        precision=precision,
        reporter=console_reporter(None),
    )
    for path in save_images(made, output):
        sys.stdout.write(f"{path}\n")


def insert(
    scene: Positional[Path],
    picture: Positional[Path],
    prompt: Positional[str],
    box: str,
    scene_prompt: str,
    output: Output,
    mask: Path | None = None,
    method: Literal["tigic"] = "tigic",
    base: str = "toybox",
    steps: int = 0,
    guidance_scale: float = 0.0,
    config: Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: bool = False,
) -> None:
    """Place a subject of another picture into a scene and change it by a prompt, without learning it.

    Args:
        scene: the picture to place it into; it stays as it is.
        picture: shows the subject.
        prompt: describes what shall come out: "a photo of a red dog on the beach".
        box: where the subject goes, "LEFT TOP RIGHT BOTTOM" in shares of the scene.
        scene_prompt: describes the scene as it is: "a photo of a beach".
        output: the PNG to write, as large as the scene; what is not near the subject keeps its pixels.
        mask: white where the subject is in its picture; by default PICTURE_mask.png or the alpha channel.
        method: how it is placed.
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        steps: of inversion and of sampling; 0 takes the method's.
        guidance_scale: strength of the prompt, 1 = off; 0 takes the method's.
        config: the method's settings as JSON.
        device: where to run.
        precision: of the weights.
        overwrite: replace an existing output.
    """
    from pcs_ext.errors import InputError
    from pcs_ext.image.backbones.load import load_backbone
    from pcs_ext.image.data import find_photos, read_mask, read_photo
    from pcs_ext.image.edits.boxes import parse_box
    from pcs_ext.image.edits.insert import InsertConfig
    from pcs_ext.image.edits.insert_picture import insert_picture
    from pcs_ext.image.edits.settings import resolve_edit

    _check_output(output, scene, overwrite)
    place = parse_box(f"subject: {box}")
    settings = resolve_edit(method, InsertConfig, base, config, steps=steps, guidance_scale=guidance_scale)
    shown = find_photos([picture])[0]
    outline = read_mask(mask, shown) if mask is not None else shown.mask
    if outline is None:
        raise InputError(f"{picture} has no mask; give --mask, or put {picture.stem}_mask.png beside it.")
    photo = read_photo(scene)
    made = insert_picture(
        photo.image, shown.image, outline, place, scene_prompt=scene_prompt, prompt=prompt, config=settings,
        base=load_backbone(base, device=device, precision=precision), reporter=console_reporter(None),
    )  # fmt: skip
    made.save(output)
    sys.stdout.write(f"{output}\n")


def follow(
    picture: Positional[Path],
    prompts: Positional[tuple[str, ...]],
    noun: str,
    picture_prompt: str = "",
    class_noun: str = "",
    subject: Path | None = None,
    output: Output = Path("images"),
    seeds: tuple[int, ...] = (0, 1, 2, 3),
    method: Literal["freecontrol"] = "freecontrol",
    base: str = "",
    steps: int = 0,
    guidance_scale: float = 0.0,
    config: Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Generate images with the structure of a picture: a photo, a sketch, a rendering.

    Args:
        picture: whose structure; the largest square in its middle is used.
        prompts: texts; with --subject, {subject} stands for it.
        noun: what the picture shows: dog.
        picture_prompt: describes the picture; empty: "a photo of a NOUN".
        class_noun: what the result shows, in plain words; empty: NOUN. Pictures of it are made to learn its parts.
        subject: folder written by `learn`, or a ledger of `continual add`.
        output: folder for the PNG files; existing files are kept, new ones get the next number.
        seeds: one image per prompt and seed.
        method: how the structure is followed.
        base: without --subject: toybox (default), a hub id, a diffusers folder or a .safetensors file.
        steps: denoising steps; 0 takes the method's.
        guidance_scale: strength of the prompt, 1 = off; 0 takes the method's.
        config: the method's settings as JSON.
        device: where to run.
        precision: of the weights.
    """
    from pcs_ext.image.data import read_photo
    from pcs_ext.image.edits.follow_pictures import follow_pictures
    from pcs_ext.image.edits.freecontrol import FreeControlConfig
    from pcs_ext.image.edits.layout_pictures import open_cast
    from pcs_ext.image.edits.settings import resolve_edit
    from pcs_ext.image.subject import save_images

    cast = open_cast(subject, base)
    settings = resolve_edit(
        method, FreeControlConfig, cast.base_name, config, steps=steps, guidance_scale=guidance_scale
    )
    made = follow_pictures(
        cast, read_photo(picture).image, prompts, noun=noun, picture_prompt=picture_prompt, class_noun=class_noun,
        seeds=seeds, config=settings, device=device, precision=precision, reporter=console_reporter(None),
    )  # fmt: skip
    for path in save_images(made, output):
        sys.stdout.write(f"{path}\n")


def _check_output(output: Path, picture: Path, overwrite: bool) -> None:
    from pcs_ext.errors import UsageError

    if output.suffix.lower() != ".png":
        raise UsageError(f"--output is {output}; expected a name that ends in .png, which keeps every pixel.")
    if output.resolve() == picture.resolve():
        raise UsageError(f"--output {output} is the picture itself; originals are never touched, choose another name.")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists already; choose another --output or pass --overwrite to replace it.")
