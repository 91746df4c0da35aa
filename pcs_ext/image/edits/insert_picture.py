"""A subject placed into a scene of any size; what is not near it keeps its pixels."""

import dataclasses

from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import Box
from pcs_ext.image.edits.insert import InsertConfig, collage, insert, region_of
from pcs_ext.image.edits.region import whole
from pcs_ext.image.levels import to_pil
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter


def insert_picture(
    scene: Tensor,
    picture: Tensor,
    mask: Tensor,
    box: Box,
    *,
    scene_prompt: str,
    prompt: str,
    config: InsertConfig,
    base: AbstractBackbone,
    reporter: Reporter | None = None,
) -> GeneratedImage:
    """A picture as large as the scene.

    Args:
        scene: `3 h w` in [-1, 1].
        picture: shows the subject, `3 h2 w2`.
        mask: where, `1 h2 w2`.
        box: where it goes.
        scene_prompt: describes the scene as it is.
        prompt: describes what shall come out.
        config: how.
        base: the backbone.
        reporter: hears the progress.

    Raises:
        UsageError: an empty prompt.
        InputError: the mask marks nothing.
    """
    if not scene_prompt.strip() or not prompt.strip():
        raise UsageError("insert needs a description of the scene and one of what shall come out; one is empty.")
    pasted, where = collage(scene[None], picture[None], mask[None], box)
    allowed = region_of(where, box, config.growth)
    region = whole(scene[None], base)
    edited = insert(
        base, region.cut(scene[None]), region.cut(pasted), region.cut_mask(allowed), scene_prompt=scene_prompt,
        prompt=prompt, config=config, reporter=reporter,
    )  # fmt: skip
    result = region.paste(scene[None], edited, allowed, config.feather)
    facts = {
        "edit": config.id, "base": base.name, "scene_prompt": scene_prompt,
        "box": [box.left, box.top, box.right, box.bottom], **dataclasses.asdict(config.sampling),
    }  # fmt: skip
    return GeneratedImage(to_pil(result[0]), prompt, facts)
