"""Commands of reference adapters: parse, call, report. Heavy modules are imported inside the functions."""

import sys
from pathlib import Path

from tyro.conf import Positional

from pcs_ext.command_options import (
    MACHINE,
    PICTURES,
    REFERENCES,
    Machine,
    Output,
    Pictures,
    References,
    console_reporter,
    print_json,
    print_paths,
)


def learn(
    pairs: Positional[Path],
    output: Output,
    system: str = "ip-adapter",
    base: str = "toybox",
    encoder: str = "",
    steps: int = 0,
    config: Path | None = None,
    seed: int = 0,
    machine: Machine = MACHINE,
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Train an adapter for `image --reference` on photos of many subjects.

    It is trained once for a base and then sees any subject. The base's files stay as they are.

    Args:
        pairs: folder with a subfolder for each subject: two photos or more, a caption NAME.txt beside every photo; for
            most systems noun.txt with the captions' word for it, for some masks NAME_mask.png or maps KIND/NAME.png.
        output: folder for the adapter; diffusers' load_ip_adapter reads an IP-Adapter's, too.
        system: what is trained (`pcs-ext reference systems` lists them).
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        encoder: toybox/dino or toybox/clip, a transformers folder or a hub id of the image encoder; empty takes, on
            toybox, the system's.
        steps: optimiser steps in all; 0 takes the settings'.
        config: settings as JSON (`ReferenceTraining`) instead of the paper's.
        seed: of everything random.
        overwrite: replace an existing adapter at the output path.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.reference.learn import learn_reference

    learn_reference(
        pairs, output, system=system, base=base, encoder=encoder, steps=steps or None, config=config, seed=seed,
        **machine.loading, overwrite=overwrite, reporter=console_reporter(jsonl),
    )  # fmt: skip
    print_paths([output])


def tune(
    adapter: Positional[Path],
    photos: Positional[tuple[Path, ...]],
    noun: str,
    output: Output,
    steps: int = 15,
    batch_size: int = 16,
    learning_rate: float = 1e-5,
    base: str = "",
    seed: int = 0,
    machine: Machine = MACHINE,
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Tune a trained adapter to one subject in a few steps, from one photo or more (E4T).

    Show the same photos by it afterwards: image PROMPT --reference PHOTO --reference-adapter OUTPUT --reference-noun N

    Args:
        adapter: folder written by `reference learn`, of any system that asks for a noun.
        photos: of the subject.
        noun: what it is: dog, toy robot.
        output: folder for the tuned adapter.
        steps: optimiser steps.
        batch_size: noisy copies of the photos in each.
        learning_rate: of all that trains.
        base: the base it was trained on; empty: as the adapter's folder says.
        seed: of everything random.
        overwrite: replace what is at the output path.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.reference.tune import tune_reference

    tune_reference(
        adapter, photos, output, noun=noun, steps=steps, batch_size=batch_size, learning_rate=learning_rate, base=base,
        seed=seed, **machine.loading, overwrite=overwrite, reporter=console_reporter(jsonl),
    )  # fmt: skip
    print_paths([output])


def predict(
    adapter: Positional[Path],
    photos: Positional[tuple[Path, ...]],
    noun: str,
    output: Output,
    steps: int = 40,
    rank: int = 4,
    learning_rate: float = 0.0,
    encoder: str = "",
    base: str = "",
    seed: int = 0,
    machine: Machine = MACHINE,
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Make a learned subject of a photo by a trained hypernetwork, tuned in a few steps (HyperDreamBooth).

    It is a subject like those of `learn`: image OUTPUT "a photo of {subject} in the snow", export, video, 3d.

    Args:
        adapter: folder written by `reference learn --system hyperdreambooth`.
        photos: of the subject, one or more.
        noun: what it is: dog, toy robot.
        output: folder for the subject.
        steps: of tuning; 0 keeps what the hypernetwork tells, a few numbers for each layer.
        rank: of the low-rank weights that are tuned beside it.
        learning_rate: of these; 0 takes 1e-4, on toybox 1e-3.
        encoder: folder or hub id of the image encoder, where it is not where it was.
        base: the base it was trained on; empty: as the adapter's folder says.
        seed: of everything random.
        overwrite: replace what is at the output path.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.reference.predict import predict_subject

    predict_subject(
        adapter, photos, output, noun=noun, steps=steps, rank=rank, learning_rate=learning_rate or None,
        encoder=encoder, base=base, seed=seed, **machine.loading, overwrite=overwrite,
        reporter=console_reporter(jsonl),
    )  # fmt: skip
    print_paths([output])


def teach(
    pairs: Positional[Path],
    output: Output,
    prompts: tuple[str, ...] = (),
    images: int = 2,
    margin: float = 0.02,
    recipe: str = "dreambooth-lora",
    steps: int = 0,
    clip: Path | None = None,
    base: str = "toybox",
    seed: int = 0,
    machine: Machine = MACHINE,
    jsonl: Path | None = None,
) -> None:
    """Let a model tuned to each album draw its subject in new places, for `reference learn --system suti` (SuTI).

    Args:
        pairs: folder of albums as `reference learn` reads them, noun.txt in each.
        output: folder of the albums with the experts' pictures; albums that are there are kept.
        prompts: what experts draw, with {subject} where theirs goes; empty takes three.
        images: of each prompt.
        margin: by how much more a picture must be like its prompt than every photo is, as a cosine; -2 keeps all.
        recipe: by which experts learn.
        steps: of that; 0 takes the recipe's.
        clip: folder of the CLIP that judges; toybox has its own.
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        seed: of everything random.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.reference.invent import PROMPTS
    from pcs_ext.image.reference.teach import teach_pairs

    teach_pairs(
        pairs, output, prompts=prompts or PROMPTS[1:], images=images, margin=margin, recipe=recipe, steps=steps or None,
        clip=clip, base=base, seed=seed, **machine.loading, reporter=console_reporter(jsonl),
    )  # fmt: skip
    print_paths([output])


def retrieve(folder: Positional[Path], prompt: Positional[str], count: int = 2) -> None:
    """Print the photos whose captions are most like a prompt, to be shown beside it: image --reference (Re-Imagen).

    Args:
        folder: of photos with captions NAME.txt beside them, its subfolders included.
        prompt: what shall be drawn.
        count: how many.
    """
    from pcs_ext.image.reference.retrieve import retrieve as found

    print_paths(found(folder, prompt, count=count))


def invent(
    names: Positional[tuple[str, ...]],
    noun: str,
    output: Output,
    prompts: tuple[str, ...] = (),
    base: str = "toybox",
    seed: int = 0,
    machine: Machine = MACHINE,
) -> None:
    """Let the base draw pairs for `reference learn`: names it knows, each in several prompts (DreamIdentity).

    Args:
        names: "Albert Einstein" "Marie Curie"; of toybox phrases like "red striped robot".
        noun: class word that captions have in the names' place.
        output: folder of the pairs; albums that are there are kept.
        prompts: two or more with {subject} where the name goes; empty takes four of its own.
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        seed: of the noise.
    """
    from pcs_ext.image.reference.invent import PROMPTS, invent_pairs

    invent_pairs(
        names, output, noun=noun, prompts=prompts or PROMPTS, base=base, seed=seed, **machine.loading,
        reporter=console_reporter(),
    )  # fmt: skip
    print_paths([output])


def inpaint(
    photo: Positional[Path],
    prompt: Positional[str],
    pictures: Pictures = PICTURES,
    references: References = REFERENCES,
    negative_prompt: str = "",
    base: str = "toybox",
    steps: int = 0,
    guidance_scale: float = 0.0,
    machine: Machine = MACHINE,
) -> None:
    """Fill a hole in a photo with what reference photos show: pcs-ext reference inpaint PHOTO PROMPT --reference MORE

    Pixels around the hole stay the photo's own.

    Args:
        photo: with NAME_mask.png beside it, white in the hole, or transparent there; the largest square in its middle
            is used.
        prompt: what the whole picture shows.
        negative_prompt: what to stay away from.
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        steps: denoising steps; 0 takes the base's.
        guidance_scale: strength of the prompt, 1 = off; 0 takes the base's.
    """
    from pcs_ext.image.reference.inpaint import inpaint as fill
    from pcs_ext.image.subject import save_images

    images = fill(
        photo, prompt, seeds=pictures.seeds_for([prompt]), negative_prompt=negative_prompt, base=base,
        steps=steps or None, guidance_scale=guidance_scale or None, **references.asked, **machine.loading,
        reporter=console_reporter(),
    )  # fmt: skip
    print_paths(save_images(images, pictures.output))


def place(
    prompt: Positional[str],
    box: tuple[str, ...],
    adapter: str,
    pictures: Pictures = PICTURES,
    scale: float = 1.0,
    negative_prompt: str = "",
    base: str = "toybox",
    steps: int = 0,
    guidance_scale: float = 0.0,
    machine: Machine = MACHINE,
) -> None:
    """Draw things where boxes say, by an adapter that was trained to (MIGC); no photos are shown.

    pcs-ext reference place "a robot and a dog" --box "robot: 0 0 0.5 1" "dog: 0.5 0 1 1" --adapter FOLDER -o out

    Args:
        prompt: what the whole picture shows, with every phrase of a box in it.
        box: "PHRASE: LEFT TOP RIGHT BOTTOM" in shares of the picture, one or more.
        adapter: folder that `reference learn --system migc` wrote.
        scale: strength of the boxes, 1 as trained, 0 is the plain base.
        negative_prompt: what to stay away from.
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        steps: denoising steps; 0 takes the base's.
        guidance_scale: strength of the prompt, 1 = off; 0 takes the base's.
    """
    from pcs_ext.image.edits.boxes import check_boxes, parse_box
    from pcs_ext.image.reference.place import place as draw
    from pcs_ext.image.subject import save_images

    boxes = [parse_box(text) for text in box]
    check_boxes(boxes)
    placed = {own.phrase: (own.left, own.top, own.right, own.bottom) for own in boxes}
    images = draw(
        prompt, placed, adapter=adapter, scale=scale, seeds=pictures.seeds_for([prompt]),
        negative_prompt=negative_prompt, base=base, steps=steps or None, guidance_scale=guidance_scale or None,
        **machine.loading, reporter=console_reporter(),
    )  # fmt: skip
    print_paths(save_images(images, pictures.output))


def systems(config: str = "") -> None:
    """List what `reference learn --system` can train, or print one's settings as JSON to edit and pass with --config.

    Args:
        config: a system, whose settings for toybox are printed.
    """
    from pcs_ext.config_io import to_jsonable
    from pcs_ext.errors import UsageError
    from pcs_ext.image.reference import REFERENCES as LISTED

    if not config:
        width = 2 + max(map(len, LISTED))
        lines = [f"{entry.id:<{width}}{entry.paper:<18}{entry.summary}" for entry in LISTED.values()]
        sys.stdout.write("\n".join(lines) + "\n")
        return
    if config not in LISTED:
        raise UsageError(f"--config {config} is no system; expected one of {', '.join(LISTED)}.")
    print_json(to_jsonable(LISTED[config].settings("toybox")))
