"""Pictures of a cast with its words in boxes."""

import dataclasses
from collections.abc import Sequence

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.edits.boxes import Box, check_boxes
from pcs_ext.image.edits.cast import Cast
from pcs_ext.image.edits.cones_2 import Cones2Config, sample_cones_2
from pcs_ext.image.edits.layout import LayoutConfig, sample_layout
from pcs_ext.image.subject import GeneratedImage, to_pil
from pcs_ext.reporter import Reporter


def draw_layouts(
    cast: Cast,
    prompts: Sequence[str],
    boxes: Sequence[Box],
    *,
    seeds: Sequence[int],
    config: LayoutConfig | Cones2Config,
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
        seeds, config, negative_prompt: see `sample_layout` and `sample_cones_2`.
        base: already loaded.
        device, precision: of a base that is loaded here.
        reporter: hears the progress.

    Raises:
        UsageError: no prompt, no seed, no box, or one whose phrase does not stand in a prompt.
    """
    check_boxes(boxes)
    if not prompts or not seeds:
        raise UsageError("a layout needs at least one prompt and one seed, got none.")
    texts = [cast.words(prompt) for prompt in prompts]
    meant = [dataclasses.replace(box, phrase=cast.phrase(box.phrase)) for box in boxes]
    backbone = base if base is not None else load_backbone(cast.base_name, device=device, precision=precision)
    facts = {
        "edit": config.id, "base": backbone.name, "artifacts": cast.hashes(), **dataclasses.asdict(config.sampling),
        "boxes": [dataclasses.asdict(box) for box in boxes],
    }  # fmt: skip
    made = []
    with cast.applied(backbone):
        for prompt, text in zip(prompts, texts, strict=True):
            common = {"seeds": seeds, "negative_prompt": negative_prompt, "reporter": reporter}
            if isinstance(config, LayoutConfig):
                images = sample_layout(backbone, text, meant, config=config, **common)
            else:
                images = sample_cones_2(backbone, text, meant, config=config, **common)
            made += [
                GeneratedImage(to_pil(image), prompt, {"seed": seed, **facts})
                for image, seed in zip(images, seeds, strict=True)
            ]
    return made
