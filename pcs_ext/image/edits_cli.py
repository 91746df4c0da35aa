"""Commands that edit or guide pictures: parse, call, report. Heavy modules are imported inside the functions."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from pcs_ext.command_options import (
    MACHINE,
    PICTURES,
    SAMPLING,
    Machine,
    Picture,
    Pictures,
    Sampling,
    console_reporter,
    print_paths,
)


def swap(
    picture: Positional[Path],
    subject: Positional[Path],
    noun: str,
    written: Picture,
    method: Literal["photoswap", "swapanything"] = "swapanything",
    prompt: str = "a photo of {subject}",
    mask: Path | None = None,
    sampling: Sampling = SAMPLING,
    config: Path | None = None,
    machine: Machine = MACHINE,
) -> None:
    """Put a learned subject where something else is in a picture; the rest of the picture keeps its pixels.

    A mask that was found is written beside the output as NAME_mask.png: correct it and give it with --mask.

    Args:
        picture: photo in any readable format; it stays as it is.
        subject: folder written by `learn`.
        noun: what shall go: cat, toy car.
        method: photoswap takes the whole picture's attention for the first steps; swapanything works in the mask alone.
        prompt: describes the picture, with {subject} where the thing to swap stands; more words find better masks.
        mask: white where the picture may change; by default NOUN is looked for by the base's attention.
        config: the method's settings as JSON.
    """
    from pcs_ext.image.data import read_mask, read_photo
    from pcs_ext.image.edits.settings import resolve_edit
    from pcs_ext.image.edits.swap import SwapConfig
    from pcs_ext.image.edits.swap_picture import swap_picture
    from pcs_ext.image.subject import Artifact, save_mask

    found = written.output.with_name(f"{written.output.stem}_mask.png")
    written.check(picture, *([mask] if mask is not None else []))
    if mask is None:
        dataclasses.replace(written, output=found).check()  # a mask made by hand may lie there
    artifact = Artifact.load(subject)
    settings = resolve_edit(
        method,
        SwapConfig,
        artifact.data.base_name,
        config,
        steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
    )
    photo = read_photo(picture)
    made = swap_picture(
        artifact,
        photo.image,
        noun=noun,
        config=settings,
        prompt=prompt,
        mask=read_mask(mask, photo) if mask is not None else None,
        **machine.loading,
        reporter=console_reporter(),
    )
    made.picture.save(written.output)
    print_paths([written.output])
    if mask is None:
        save_mask(made.mask, found)
        sys.stdout.write(f"{found}  where {noun} was found\n")


def layout(
    prompts: Positional[tuple[str, ...]],
    box: tuple[str, ...] = (),
    boxes: Path | None = None,
    subject: tuple[Path, ...] = (),
    pictures: Pictures = PICTURES,
    negative_prompt: str = "",
    method: Literal["layout-control", "cones-2", "pacgen"] = "layout-control",
    sampling: Sampling = SAMPLING,
    base: str = "",
    config: Path | None = None,
    machine: Machine = MACHINE,
) -> None:
    """Generate images with words of the prompt in boxes.

    Args:
        prompts: texts; with --subject, {subject} stands for it, or {name} for each of several.
        box: "PHRASE: LEFT TOP RIGHT BOTTOM" in shares of the picture, as "robot: 0.1 0.2 0.5 0.9".
        boxes: the same as a JSON file, {"robot": [0.1, 0.2, 0.5, 0.9]}.
        subject: folder written by `learn`, a ledger of `continual add`, or several subjects that are words alone.
        negative_prompt: what to stay away from.
        method: how boxes are kept: layout-control moves the latents (on toybox attention), cones-2 biases attention,
            pacgen lets one learned subject's weights act in its box alone.
        base: without --subject: toybox (default), a hub id, a diffusers folder or a .safetensors file.
        config: the method's settings as JSON.
    """
    from pcs_ext.image.edits.boxes import parse_box, read_boxes
    from pcs_ext.image.edits.cast import open_cast
    from pcs_ext.image.edits.cones_2 import Cones2Config
    from pcs_ext.image.edits.layout import LayoutConfig
    from pcs_ext.image.edits.layout_pictures import draw_layouts
    from pcs_ext.image.edits.pacgen import PacgenConfig
    from pcs_ext.image.edits.settings import resolve_edit
    from pcs_ext.image.subject import save_images

    asked = [*(read_boxes(boxes) if boxes is not None else []), *(parse_box(text) for text in box)]
    cast = open_cast(subject, base)
    settings = resolve_edit(
        method,
        (LayoutConfig, Cones2Config, PacgenConfig),
        cast.base_name,
        config,
        steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
    )
    made = draw_layouts(
        cast,
        prompts,
        asked,
        seeds=pictures.seeds_for(prompts),
        config=settings,
        negative_prompt=negative_prompt,
        **machine.loading,
        reporter=console_reporter(),
    )
    print_paths(save_images(made, pictures.output))


def insert(
    scene: Positional[Path],
    picture: Positional[Path],
    prompt: Positional[str],
    box: str,
    scene_prompt: str,
    written: Picture,
    mask: Path | None = None,
    method: Literal["tigic"] = "tigic",
    base: str = "toybox",
    sampling: Sampling = SAMPLING,
    config: Path | None = None,
    machine: Machine = MACHINE,
) -> None:
    """Place a subject of another picture into a scene and change it by a prompt, without learning it.

    Args:
        scene: the picture to place it into; it stays as it is.
        picture: shows the subject.
        prompt: describes what shall come out: "a photo of a red dog on the beach".
        box: where the subject goes, "LEFT TOP RIGHT BOTTOM" in shares of the scene.
        scene_prompt: describes the scene as it is: "a photo of a beach".
        mask: white where the subject is in its picture; by default PICTURE_mask.png or the alpha channel.
        method: how it is placed.
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        config: the method's settings as JSON.
    """
    from pcs_ext.errors import InputError
    from pcs_ext.image.backbones.load import load_backbone
    from pcs_ext.image.data import one_photo, read_photo
    from pcs_ext.image.edits.boxes import parse_place
    from pcs_ext.image.edits.insert import InsertConfig
    from pcs_ext.image.edits.insert_picture import insert_picture
    from pcs_ext.image.edits.settings import resolve_edit

    written.check(scene, picture, *([mask] if mask is not None else []))
    place = parse_place(box)
    settings = resolve_edit(method, InsertConfig, base, config, **sampling.asked)
    shown = one_photo(picture, mask)
    if shown.mask is None:
        raise InputError(f"{picture} has no mask; give --mask, or put {picture.stem}_mask.png beside it.")
    photo = read_photo(scene)
    made = insert_picture(
        photo.image, shown.image, shown.mask, place, scene_prompt=scene_prompt, prompt=prompt, config=settings,
        base=load_backbone(base, **machine.loading), reporter=console_reporter(),
    )  # fmt: skip
    made.save(written.output)
    print_paths([written.output])


def follow(
    picture: Positional[Path],
    prompts: Positional[tuple[str, ...]],
    noun: str,
    picture_prompt: str = "",
    class_noun: str = "",
    subject: tuple[Path, ...] = (),
    pictures: Pictures = PICTURES,
    method: Literal["freecontrol"] = "freecontrol",
    base: str = "",
    sampling: Sampling = SAMPLING,
    config: Path | None = None,
    machine: Machine = MACHINE,
) -> None:
    """Generate images with the structure of a picture: a photo, a sketch, a rendering.

    Args:
        picture: whose structure; the largest part in its middle that has the results' shape is used.
        prompts: texts; with --subject, {subject} stands for it.
        noun: what the picture shows: dog.
        picture_prompt: describes the picture; empty: "a photo of a NOUN".
        class_noun: what the result shows, in plain words; empty: NOUN. Pictures of it are made to learn its parts.
        subject: folder written by `learn`, a ledger of `continual add`, or several subjects that are words alone.
        method: how the structure is followed.
        base: without --subject: toybox (default), a hub id, a diffusers folder or a .safetensors file.
        config: the method's settings as JSON.
    """
    from pcs_ext.image.data import read_photo
    from pcs_ext.image.edits.cast import open_cast
    from pcs_ext.image.edits.follow_pictures import follow_pictures
    from pcs_ext.image.edits.freecontrol import FreeControlConfig
    from pcs_ext.image.edits.settings import resolve_edit
    from pcs_ext.image.subject import save_images

    cast = open_cast(subject, base)
    settings = resolve_edit(method, FreeControlConfig, cast.base_name, config, **sampling.asked)
    made = follow_pictures(
        cast, read_photo(picture).image, prompts, noun=noun, picture_prompt=picture_prompt, class_noun=class_noun,
        seeds=pictures.seeds_for(prompts), config=settings, **machine.loading, reporter=console_reporter(),
    )  # fmt: skip
    print_paths(save_images(made, pictures.output))


def heed(
    subject: Positional[Path],
    prompts: Positional[tuple[str, ...]],
    method: Literal["dci", "freecure", "concept-centric"] = "dci",
    words: str = "",
    pictures: Pictures = PICTURES,
    negative_prompt: str = "",
    sampling: Sampling = SAMPLING,
    config: Path | None = None,
    machine: Machine = MACHINE,
) -> None:
    """Generate images of a learned subject that heed what else the prompt says, with the base's help.

    Args:
        subject: folder written by `learn`.
        prompts: texts with {subject} where the subject goes; concept-centric takes others, too.
        method: dci lets the base lay out the picture in the first steps; freecure brings words back from the base's
            picture; concept-centric, for subjects of that recipe, lets the base alone read the prompt.
        words: with freecure, what of the prompt got lost: "a red hat".
        negative_prompt: what to stay away from.
        config: the method's settings as JSON.
    """
    from pcs_ext.image.edits.heeding_pictures import HEEDING, draw_heeding
    from pcs_ext.image.edits.settings import resolve_edit
    from pcs_ext.image.subject import Artifact, save_images

    artifact = Artifact.load(subject)
    settings = resolve_edit(method, HEEDING, artifact.data.base_name, config, **sampling.asked)
    made = draw_heeding(
        artifact, prompts, words=words, seeds=pictures.seeds_for(prompts), config=settings,
        negative_prompt=negative_prompt, **machine.loading, reporter=console_reporter(),
    )  # fmt: skip
    print_paths(save_images(made, pictures.output))


def style(
    prompts: Positional[tuple[str, ...]],
    reference: Path | None = None,
    reference_prompt: str = "",
    subject: tuple[Path, ...] = (),
    pictures: Pictures = PICTURES,
    negative_prompt: str = "",
    method: Literal["style-aligned", "sag"] = "style-aligned",
    sampling: Sampling = SAMPLING,
    base: str = "",
    config: Path | None = None,
    machine: Machine = MACHINE,
) -> None:
    """Generate images in one style: that of the first prompt's image, or of a picture.

    Args:
        prompts: texts, best with the style named in each: "a toy car, flat vector art".
        reference: a picture to take the style from; the largest part in its middle that has the results' shape is used.
        reference_prompt: describes it: "a toy dog, flat vector art".
        subject: folder written by `learn`, a ledger of `continual add`, or several subjects that are words alone.
        negative_prompt: what to stay away from.
        method: style-aligned shares attention; sag leads each picture to the reference by gradients through a CLIP.
        base: without --subject: toybox (default), a hub id, a diffusers folder or a .safetensors file.
        config: the method's settings as JSON.
    """
    from pcs_ext.errors import UsageError
    from pcs_ext.image.data import read_photo
    from pcs_ext.image.edits.aligned_pictures import draw_aligned
    from pcs_ext.image.edits.cast import open_cast
    from pcs_ext.image.edits.led_pictures import draw_led
    from pcs_ext.image.edits.sag import SagConfig
    from pcs_ext.image.edits.settings import resolve_edit
    from pcs_ext.image.edits.style_aligned import StyleAlignedConfig
    from pcs_ext.image.subject import save_images

    cast = open_cast(subject, base)
    settings = resolve_edit(method, (StyleAlignedConfig, SagConfig), cast.base_name, config, **sampling.asked)
    given = read_photo(reference).image if reference is not None else None
    common = {"seeds": pictures.seeds_for(prompts), "negative_prompt": negative_prompt, **machine.loading}
    if isinstance(settings, SagConfig):
        if given is None or reference_prompt:
            raise UsageError("sag leads pictures to a --reference, which needs no --reference-prompt.")
        made = draw_led(cast, prompts, given, config=settings, **common, reporter=console_reporter())
    else:
        made = draw_aligned(
            cast, prompts, config=settings, reference=given, reference_prompt=reference_prompt, **common,
            reporter=console_reporter(),
        )  # fmt: skip
    print_paths(save_images(made, pictures.output))


def restyle(
    picture: Positional[Path],
    style: Positional[Path],
    written: Picture,
    prompt: str = "head",
    method: Literal["portrait-diffusion"] = "portrait-diffusion",
    base: str = "toybox",
    steps: int = 0,
    config: Path | None = None,
    machine: Machine = MACHINE,
) -> None:
    """Paint a picture in the manner of another one; nothing is learned.

    Where both have a mask (NAME_mask.png or an alpha channel), what is inside takes its manner from what is inside.

    Args:
        picture: what is painted; it stays as it is.
        style: the manner.
        prompt: what both show, in a word or two: head, a dog.
        method: how.
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        steps: of inversion and of sampling; 0 takes the method's.
        config: the method's settings as JSON.
    """
    from pcs_ext.image.backbones.load import load_backbone
    from pcs_ext.image.data import one_photo
    from pcs_ext.image.edits.portrait_diffusion import PortraitDiffusionConfig
    from pcs_ext.image.edits.restyle_picture import restyle_picture
    from pcs_ext.image.edits.settings import resolve_edit

    written.check(picture, style)
    settings = resolve_edit(method, PortraitDiffusionConfig, base, config, steps=steps)
    painted, manner = one_photo(picture), one_photo(style)
    made = restyle_picture(
        painted, manner, prompt=prompt, config=settings, base=load_backbone(base, **machine.loading),
        reporter=console_reporter(),
    )  # fmt: skip
    made.save(written.output)
    print_paths([written.output])
