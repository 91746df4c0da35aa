"""`evaluate`: a learned subject measured with what fits its base, on the command line and in Python."""

from collections.abc import Sequence
from pathlib import Path

import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.hub import model_folder
from pcs_ext.image.data import LEARNED_SIDE, find_photos
from pcs_ext.image.evaluate import (
    PROMPT_SETS,
    UNRELATED_PROMPTS,
    Judges,
    Prompt,
    Report,
    evaluate_artifact,
    load_image_encoder,
    load_image_text_encoder,
    prompt_set,
    read_prompts,
)
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import choose_device


def evaluate(
    subject: Artifact | Path | str,
    photos: Sequence[Path | str] | Path | str,
    output: Path | str,
    *,
    name: str = "",
    prompts: str | Path | Sequence[str | Prompt] = "auto",
    seeds: Sequence[int] = (0, 1, 2, 3),
    base: str | AbstractBackbone = "",
    clip: Path | str | None = None,
    dino: Path | str | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> tuple[Report, Report]:
    """Measure likeness to the subject and how well prompts work, beside the plain class word with the same seeds.

    Images and reports stay in `output`; an interrupted call goes on from what is there. Subjects of the same class noun
    may share it under different names, and with it the class word's images.

    Args:
        subject: what `learn` gave, or its folder.
        photos: those it was learned from, or others of it: a folder or files.
        output: folder for `images/`, `unrelated/` and `reports/`.
        name: of the subject there; empty: its folder's name, or its recipe's.
        prompts: a set (auto, toybox, object, live), a text file with a prompt per line, or prompts; each with
            `{subject}`. auto takes toybox for toybox, else object.
        seeds: one image of each prompt per seed.
        base: another base of the same family than the one it was learned on, or one already loaded; empty: that one.
        clip: transformers folder or hub id of a CLIP model; toybox has its own.
        dino: transformers folder or hub id of a DINO, ViT or ResNet image encoder; toybox has its own.
        device: of the base and of what judges: auto, cuda, mps or cpu.
        precision: of the base's weights.
        reporter: hears the progress.

    Returns:
        The subject's report and the class word's; `Report.figures` has value, spread, interval and encoder of each.

    Raises:
        ArtifactError, PhotoError, ModelError: something is missing or unreadable.
        UsageError: no prompt, no seed, no photo, or no encoder for a base other than toybox.
        Interrupted: Ctrl-C; images made so far are kept.
    """
    asked = None if prompts == "auto" else _prompts(prompts)
    artifact = subject if isinstance(subject, Artifact) else Artifact.load(subject)
    known = str(artifact.data.recipe["id"]) if isinstance(subject, Artifact) else Path(subject).resolve().name
    found = [photo.path for photo in find_photos(photos, short_side=LEARNED_SIDE)]
    named = base.name if isinstance(base, AbstractBackbone) else base or artifact.data.base_name
    usual = "toybox" if named == "toybox" else "object"
    loaded = isinstance(base, AbstractBackbone)
    judges = _judges(named, clip, dino, base.device if loaded else choose_device(device))
    backbone = base if loaded else artifact.backbone(base or None, device=device, precision=precision)
    return evaluate_artifact(
        artifact,
        found,
        Path(output),
        name=name or known,
        prompts=asked or prompt_set(usual),
        unrelated=UNRELATED_PROMPTS[prompts if isinstance(prompts, str) and prompts in PROMPT_SETS else usual],
        seeds=seeds,
        judges=judges,
        backbone=backbone,
        reporter=reporter,
    )


def _prompts(prompts: str | Path | Sequence[str | Prompt]) -> tuple[Prompt, ...]:
    if isinstance(prompts, str) and prompts in PROMPT_SETS:
        return prompt_set(prompts)
    if isinstance(prompts, (str, Path)):
        return read_prompts(Path(prompts))
    if not prompts:
        raise UsageError("evaluate needs at least one prompt, got none.")
    return tuple(one if isinstance(one, Prompt) else Prompt(text=one, kind="other") for one in prompts)


def _judges(base: str, clip: Path | str | None, dino: Path | str | None, device: torch.device) -> Judges:
    """Toybox brings its own judges; a real base is judged by the encoders that are named, on its device."""
    if base == "toybox" and clip is None and dino is None:
        from pcs_ext.toybox.judges import toybox_judges

        return toybox_judges(device)
    if clip is None and dino is None:
        raise UsageError(
            f"judging {base} needs encoders: give --clip and --dino with transformers folders or hub ids, "
            "such as openai/clip-vit-base-patch32 and facebook/dino-vits16."
        )
    return Judges(
        clip=None if clip is None else load_image_text_encoder(model_folder(clip), device),
        dino=None if dino is None else load_image_encoder(model_folder(dino), device),
    )
