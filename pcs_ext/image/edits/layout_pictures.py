"""Pictures of a cast with its words in boxes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.edits.boxes import Box, check_boxes
from pcs_ext.image.edits.cast import Cast
from pcs_ext.image.edits.cones_2 import Cones2Config, cones_2_hooks
from pcs_ext.image.edits.layout import LayoutConfig, layout_hooks
from pcs_ext.image.edits.one_by_one import one_by_one
from pcs_ext.image.edits.pacgen import PacgenConfig, compose_regionally, lone_member
from pcs_ext.image.levels import to_pil
from pcs_ext.image.subject import Artifact, GeneratedImage
from pcs_ext.reporter import Reporter


def draw_layouts(
    cast: Cast,
    prompts: Sequence[str],
    boxes: Sequence[Box],
    *,
    seeds: Sequence[int],
    config: LayoutConfig | Cones2Config | PacgenConfig,
    negative_prompt: str = "",
    base: AbstractBackbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> list[GeneratedImage]:
    """Images of prompts with their words in boxes: for each prompt, one per seed, in that order.

    Args:
        cast: who may be named.
        prompts: texts, with `{subject}`, or the `{name}` of one of several, where a subject goes.
        boxes: of phrases that stand in every prompt, likewise.
        seeds, config, negative_prompt: see `one_by_one` and, for one learned subject and its box, `compose_regionally`.
        base: already loaded.
        device, precision: of a base that is loaded here.
        reporter: hears the progress.

    Raises:
        UsageError: no prompt, no seed, no box, one whose phrase does not stand in a prompt, or another than the
            subject's for PACGen.
    """
    check_boxes(boxes)
    if not prompts or not seeds:
        raise UsageError("a layout needs at least one prompt and one seed, got none.")
    texts = [cast.words(prompt) for prompt in prompts]
    meant = [dataclasses.replace(box, phrase=cast.phrase(box.phrase)) for box in boxes]
    backbone = base if base is not None else load_backbone(cast.base_name, device=device, precision=precision)
    facts = {
        "edit": config.id, "base": backbone.name, "negative_prompt": negative_prompt,
        "artifacts": cast.hashes(), **dataclasses.asdict(config.sampling),
        "boxes": [dataclasses.asdict(box) for box in boxes],
    }  # fmt: skip
    common = {"seeds": seeds, "negative_prompt": cast.negative(negative_prompt), "reporter": reporter}
    made = []
    for prompt, text in zip(prompts, texts, strict=True):
        if isinstance(config, PacgenConfig):
            images = _filled(backbone, cast, prompt, boxes, config=config, **common)
        else:
            with cast.applied(backbone):
                images = _placed(backbone, text, meant, config=config, **common)
        made += [
            GeneratedImage(to_pil(image), prompt, {"seed": seed, **facts})
            for image, seed in zip(images, seeds, strict=True)
        ]
    return made


def _placed(
    backbone: AbstractBackbone, text: str, boxes: Sequence[Box], *, config: LayoutConfig | Cones2Config, **common: Any
) -> Tensor:
    if isinstance(config, LayoutConfig):
        hooks = layout_hooks(backbone, text, boxes, config)
    else:
        hooks = cones_2_hooks(backbone, text, boxes, config)
    return one_by_one(backbone, text, hooks, sampling=config.sampling, task="layout", **common)


def _filled(
    backbone: AbstractBackbone,
    cast: Cast,
    prompt: str,
    boxes: Sequence[Box],
    *,
    seeds: Sequence[int],
    config: PacgenConfig,
    negative_prompt: str,
    reporter: Reporter | None,
) -> Tensor:
    if not isinstance(cast.who, Artifact) or [box.phrase for box in boxes] != [SUBJECT]:
        raise UsageError(
            f'pacgen fills the box of one learned subject: --subject FOLDER --box "{SUBJECT}: 0.1 0.2 0.5 0.9". For '
            "several take `image together --method pacgen`."
        )
    member = lone_member(backbone, cast.who, prompt, boxes[0])
    plain, images = cast.who.concept.class_prompt(prompt), []
    for index, seed in enumerate(seeds):
        made = compose_regionally(backbone, plain, [member], seed=seed, config=config, negative_prompt=negative_prompt)
        images.append(made.picture)
        if reporter is not None:
            reporter.progress("layout", index + 1, len(seeds))
    return torch.cat(images)
