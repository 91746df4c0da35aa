"""Commands for classes of learned words: parse, call, report. Heavy modules are imported inside the functions."""

import sys
from pathlib import Path

from tyro.conf import Positional

from pcs_ext.command_options import MACHINE, Device, Machine, Output, console_reporter


def learn(
    folder: Positional[Path],
    noun: str,
    output: Output,
    recipe: str = "mc-ti",
    base: str = "toybox",
    clip: Path | None = None,
    steps: int = 0,
    seed: int = 0,
    machine: Machine = MACHINE,
    jsonl: Path | None = None,
) -> None:
    """Learn a word for every class, each told from the others (MC-TI); interrupted, run it again to go on.

    Args:
        folder: one folder of photos per class in it.
        noun: what all of them are, one or two words: person, dog, toy.
        output: folder of the learned words, one per class; classes that are there already are kept.
        recipe: mc-ti, or another one of `pcs-ext recipes` to compare with.
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        clip: transformers folder of the CLIP whose text tower the base has; toybox has its own.
        steps: per class; 0 takes the recipe's.
        seed: of everything random.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.classes import clip_for, learn_classes

    names = learn_classes(
        folder, noun=noun, output=output, clip=clip_for(base, clip), recipe=recipe, base=base, steps=steps or None,
        seed=seed, **machine.loading, reporter=console_reporter(jsonl),
    )  # fmt: skip
    sys.stdout.write(f"{output}  classes: {', '.join(names)}\n")


def read(
    photos: Positional[tuple[Path, ...]], classes: Path, clip: Path | None = None, device: Device = "auto"
) -> None:
    """Say which learned word each photo goes to.

    Args:
        photos: photo files, or one folder of them.
        classes: folder of `classes learn`, or any folder of learned subjects of one base.
        clip: as for `classes learn`.
        device: where to run.
    """
    from pcs_ext.image.classes import clip_for, load_classifier
    from pcs_ext.image.data import find_photos

    found = find_photos(photos)
    classifier = load_classifier(classes, lambda base: clip_for(base, clip), device=device)
    for photo, shares in zip(found, classifier.probabilities(found), strict=True):
        best = int(shares.argmax())
        sys.stdout.write(f"{photo.path}  {classifier.names[best]}  {float(shares[best]):.2f}\n")


def report(folder: Positional[Path], classes: Path, clip: Path | None = None, device: Device = "auto") -> None:
    """Measure how many photos go to the word of their class.

    Args:
        folder: one folder of photos per class in it, other photos than those learned from.
        classes: as for `classes read`.
        clip: as for `classes learn`.
        device: where to run.
    """
    from pcs_ext.image.classes import class_photos, clip_for, load_classifier
    from pcs_ext.image.classify import accuracy

    photos = class_photos(folder)
    classifier = load_classifier(classes, lambda base: clip_for(base, clip), device=device)
    counts = classifier.confusion(photos)
    for name, row in zip(classifier.names, counts.tolist(), strict=True):
        taken = ", ".join(f"{other} {n}" for other, n in zip(classifier.names, row, strict=True) if n and other != name)
        if sum(row):
            right = row[classifier.names.index(name)]
            sys.stdout.write(f"{name:20} {right} of {sum(row)}{f'  taken for {taken}' if taken else ''}\n")
    sys.stdout.write(f"accuracy {accuracy(counts):.3f} of {int(counts.sum())} photos\n")
