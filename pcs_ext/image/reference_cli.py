"""Commands of reference adapters: parse, call, report. Heavy modules are imported inside the functions."""

from pathlib import Path

from tyro.conf import Positional

from pcs_ext.command_options import MACHINE, Machine, Output, console_reporter, print_paths


def learn(
    pairs: Positional[Path],
    output: Output,
    base: str = "toybox",
    encoder: str = "",
    steps: int = 0,
    config: Path | None = None,
    seed: int = 0,
    machine: Machine = MACHINE,
    overwrite: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Train an adapter for `image --reference` (IP-Adapter) on photos of many subjects.

    It is trained once for a base and then sees any subject. The base stays as it is.

    Args:
        pairs: folder with a subfolder for each subject: two photos or more, a caption NAME.txt beside every photo.
        output: folder for the adapter; diffusers' load_ip_adapter reads it, too.
        base: toybox, a hub id, a diffusers folder or a .safetensors file.
        encoder: toybox/dino or toybox/clip, a transformers folder or a hub id of the image encoder.
        steps: optimiser steps in all; 0 takes the settings'.
        config: settings as JSON (`ReferenceTraining`) instead of the paper's.
        seed: of everything random.
        overwrite: replace an existing adapter at the output path.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.reference.learn import learn_reference

    learn_reference(
        pairs, output, base=base, encoder=encoder, steps=steps or None, config=config, seed=seed, **machine.loading,
        overwrite=overwrite, reporter=console_reporter(jsonl),
    )  # fmt: skip
    print_paths([output])
