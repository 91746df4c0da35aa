"""Pairs that the base draws itself: one it knows by name, in several prompts (DreamIdentity's self-augmentation).

A base that draws somebody alike whenever it reads a name can make its own pairs for learning to edit: a face, and the
same face elsewhere or in another style (arXiv 2307.00300). Captions say the noun in the name's place.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from pcs_ext.config_io import atomic_folder, atomic_write_bytes, check_place
from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.learn import preset_of
from pcs_ext.image.levels import to_pil
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.reference.albums import NOUN_FILE
from pcs_ext.image.sample import sample
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import seed_for

PLACE = "{subject}"
PROMPTS = (
    "a photo of {subject}",
    "a photo of {subject} on the beach",
    "a photo of {subject} in the snow",
    "a painting of {subject}",
)
"""Where nobody says otherwise; ours."""


def invent_pairs(
    names: Sequence[str],
    output: Path,
    *,
    noun: str,
    prompts: Sequence[str] = PROMPTS,
    seed: int = 0,
    base: str | AbstractBackbone = "toybox",
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> Path:
    """A folder of pairs for `learn_reference`, an album for each name; those that are there already are kept.

    Args:
        names: that the base knows, "Albert Einstein"; of toybox phrases like "red striped robot".
        output: the folder.
        noun: the class word that captions have in the names' place.
        prompts: two or more, with `{subject}` where the name goes.
        seed: of the noise, with the name and the prompt.
        base: toybox, a hub id, a folder, a file, or a loaded backbone.
        device: auto, cuda, mps or cpu.
        precision: auto, fp32, bf16 or fp16.
        reporter: hears the progress.

    Raises:
        UsageError: no name, fewer than two prompts, one without `{subject}`, or names that are one as folders.
    """
    folders = _checked(names, noun, prompts)
    check_place(output)
    reporter = reporter or SilentReporter()
    if not isinstance(base, AbstractBackbone):
        base = load_backbone(base, device=device, precision=precision, reporter=reporter)
    for number, (name, folder) in enumerate(zip(names, folders, strict=True)):
        if not (output / folder).is_dir():
            _album(output / folder, name, noun, prompts, seed, base)
        reporter.progress("invent", number + 1, len(names))
    return output


def _checked(names: Sequence[str], noun: str, prompts: Sequence[str]) -> list[str]:
    """Names of the albums' folders."""
    if not names or not noun or len(prompts) < 2:
        raise UsageError(
            f"expected one name or more, a noun, and two prompts or more, got {len(names)}, {noun!r}, {len(prompts)}."
        )
    bare = [prompt for prompt in prompts if PLACE not in prompt]
    if bare:
        raise UsageError(f'{bare[0]!r} has no {PLACE}; expected it where the name goes: "a photo of {PLACE}".')
    folders = [re.sub(r"\W+", "-", name.lower()).strip("-") for name in names]
    if "" in folders or len(set(folders)) < len(folders):
        raise UsageError(f"names must be different words, each an album of its own; got {', '.join(names)}.")
    return folders


@torch.inference_mode()
def _album(folder: Path, name: str, noun: str, prompts: Sequence[str], seed: int, backbone: AbstractBackbone) -> None:
    texts = [prompt.replace(PLACE, name) for prompt in prompts]
    seeds = [seed_for(seed, text) % 2**31 for text in texts]
    config = SAMPLING[preset_of(backbone)]
    images = sample(backbone, texts, seeds=seeds, config=config)
    with atomic_folder(folder) as made:
        atomic_write_bytes(made / NOUN_FILE, f"{noun}\n".encode())
        for number, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            facts = {"seed": seeds[number], "base": backbone.name, "name": name}
            GeneratedImage(to_pil(image), texts[number], facts).save(made / f"{number}.png")
            atomic_write_bytes(made / f"{number}.txt", prompt.replace(PLACE, noun).encode())
