"""Model cards of toybox: how each model was made, and how good it was measured to be."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcs_ext.config_io import atomic_write_text

_BEGIN, _END = "<!-- quality: written by pcs_ext.toybox.quality -->", "<!-- end of quality -->"
_METRICS = {
    "base": ("vae/", "generated/"),
    "clip": ("clip/",),
    "dino": ("dino/",),
    "oracle": ("oracle/",),
    "motion": ("clips/",),
    "motion_reader": ("reader/",),
    "multiview": ("views/", "words/"),
}

ABOUT: Mapping[str, str] = {
    "base": "Stable Diffusion at a quarter of its scale (v-prediction) for pictures of the toy world.",
    "clip": "A CLIP pair of the toy world: measures how well pictures and prompts agree.",
    "dino": "A self-supervised image encoder (SimCLR on pairs): measures how alike two pictures of toys are.",
    "oracle": "Reads class, colour, pattern, accessory, context, style and view off a picture of one toy.",
    "motion": "An AnimateDiff motion adapter: makes the base draw clips of moving toys.",
    "motion_reader": "Reads off a clip which of the world's motions it shows, or that nothing moves.",
    "multiview": "A multi-view adapter (after MVDream): makes the base draw four sides of one toy together.",
    "reference": "An IP-Adapter that reads `dino`: shows the base a picture of a toy beside the prompt.",
    "panorama": "A LoRA (after StitchDiffusion): makes the base draw what is all around.",
}
"""What each shipped folder is."""
_SAMPLES = "![64 generated pictures, uncurated](../../../../docs/images/toybox_samples.png)"
"""As a repository shows a card; the picture is made with the card's figures."""
_BEFORE = {"motion": ("clips",), "motion_reader": ("clips",), "multiview": ("views",), "reference": ("data",),
           "panorama": ()}  # fmt: skip
"""Stages that go before a model's own, where those are not `data` and `tokenizer`: it learns on the base that ships."""
_EXPORT = {"motion": "clips", "motion_reader": "clips", "multiview": "multiview", "reference": "reference",
           "panorama": "panorama"}  # fmt: skip
"""What the stage that writes a model is called after `export_`, where it is not `export`."""


def write_card(
    folder: Path,
    name: str,
    stages: Mapping[str, int],
    facts: Mapping[str, Any],
    *,
    preset: str = "cpu",
    adopted: bool = False,
) -> None:
    """Write `README.md` beside a model's weights.

    Args:
        folder: of the model.
        name: key in `ABOUT`.
        stages: training stage -> optimiser steps; 0: its own number.
        facts: further lines, by what they state.
        preset: that the stages were run with.
        adopted: the stages went on from models that shipped before.
    """
    own = [f"{stage} --steps {steps}" if steps else stage for stage, steps in stages.items()]
    export = f"export_{_EXPORT[name]}" if name in _EXPORT else "export"
    begin = ("adopt", "data") if adopted else ("data", "tokenizer")
    steps = [*_BEFORE.get(name, begin), *own, export]
    with_preset = "" if preset == "cpu" else f" --preset {preset}"
    lines = [
        f"# toybox {name}",
        "",
        ABOUT[name],
        "",
        "A demonstration surrogate: it knows nothing but the toy world of pcs_ext, and perturbations computed on it",
        "protect nothing against public models. Weights are safetensors, float16 unless said. License: Apache-2.0.",
        "",
        "## Made by",
        "",
        "```sh",
        *(f"python -m pcs_ext.toybox.train {step}{with_preset}" for step in steps),
        "```",
        "",
        *[f"- {key}: {value}" for key, value in facts.items()],
        *(["", "## Samples", "", _SAMPLES] if name == "base" else []),
        "",
        "## Quality",
        "",
        _BEGIN,
        "Not measured yet.",
        _END,
        "",
    ]
    atomic_write_text(folder / "README.md", "\n".join(lines))


def write_quality(weights: Path, rows: Sequence[Mapping[str, Any]], command: str) -> None:
    """Put measured figures into the cards of a weights folder.

    Args:
        weights: folder with `base`, `clip`, `dino` and `oracle`; those without a card are left out.
        rows: as in `results/toybox_quality.json`.
        command: that printed them.
    """
    for name, prefixes in _METRICS.items():
        path = weights / name / "README.md"
        mine = [row for row in rows if str(row["metric"]).startswith(prefixes)]
        if not path.is_file() or not mine:
            continue
        table = ["| what | value | ± | n |", "| --- | --- | --- | --- |"]
        table += [f"| {row['metric']} | {row['value']:.3f} | {row['spread']:.3f} | {row['n']} |" for row in mine]
        text = "\n".join([_BEGIN, *table, "", f"Printed by `{command}`; ± is half the 95 % interval.", _END])
        card = path.read_text(encoding="utf-8")
        pattern = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)
        atomic_write_text(path, pattern.sub(lambda _, text=text: text, card))
