"""Commands for ledgers: parse, call, report. Heavy modules are imported inside the functions."""

import sys
from pathlib import Path

from tyro.conf import Positional

from pcs_ext.command_options import (
    MACHINE,
    PICTURES,
    Device,
    Machine,
    Pictures,
    console_reporter,
    hush_libraries,
    print_paths,
)


def add(
    ledger: Positional[Path],
    photos: Positional[tuple[Path, ...]],
    name: str,
    noun: str,
    base: str = "",
    steps: int = 0,
    seed: int = 0,
    machine: Machine = MACHINE,
    jsonl: Path | None = None,
) -> None:
    """Learn one more subject without spoiling earlier ones.

    By C-LoRA; interrupted, the same command goes on.

    Args:
        ledger: folder of the subjects; made for the first one.
        photos: photo files, or one folder of them.
        name: how prompts call the subject: {name}. Small letters, digits and hyphens.
        noun: what the subject is, one or two words.
        base: of the first subject (default toybox); later ones take the same.
        steps: optimiser steps; 0 takes the recipe's.
        seed: of everything random.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.ledger import Ledger

    book = Ledger(ledger)
    found = photos[0] if len(photos) == 1 else list(photos)
    book.add(found, name=name, noun=noun, base=base, steps=steps or None, seed=seed, **machine.loading,
             reporter=console_reporter(jsonl))  # fmt: skip
    sys.stdout.write(f"{ledger / name}  subjects: {', '.join(book.names)}\n")


def image(
    ledger: Positional[Path],
    prompts: Positional[tuple[str, ...]],
    pictures: Pictures = PICTURES,
    machine: Machine = MACHINE,
) -> None:
    """Generate images of one or several subjects of a ledger.

    Args:
        ledger: folder of the subjects.
        prompts: texts with {name} where a subject goes: "a photo of {rex} on the beach".
    """
    from pcs_ext.image.ledger import Ledger
    from pcs_ext.image.subject import save_images

    made = Ledger(ledger).generate(
        prompts, seeds=pictures.seeds_for(prompts), **machine.loading, reporter=console_reporter()
    )
    print_paths(save_images(made, pictures.output))


def report(ledger: Positional[Path], device: Device = "auto") -> None:
    """Say how much each subject of a ledger changed the weights.

    And whether it made way for earlier ones.

    Args:
        ledger: folder of the subjects.
        device: where to run.
    """
    from pcs_ext.image.ledger import Ledger

    hush_libraries()
    book = Ledger(ledger)
    backbone = book.base(device=device)
    sys.stdout.write("subject           size of update  share where earlier updates are large (0.50 is chance)\n")
    for row in book.plasticity(backbone):
        sys.stdout.write(f"{row.name:16}  {row.update:14.3f}  {row.overlap:.2f}\n")
