"""Pictures of prompts, plain or of learned subjects, with the structure of a given one."""

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.concept import fill
from pcs_ext.image.edits.cast import Cast
from pcs_ext.image.edits.freecontrol import FreeControlConfig, follow_structure
from pcs_ext.image.edits.region import as_sampled
from pcs_ext.image.levels import to_pil
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter


def follow_pictures(
    cast: Cast,
    picture: Tensor,
    prompts: Sequence[str],
    *,
    noun: str,
    picture_prompt: str = "",
    class_noun: str = "",
    seeds: Sequence[int],
    config: FreeControlConfig,
    base: AbstractBackbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> list[GeneratedImage]:
    """Images of prompts with a picture's structure: for each prompt, one per seed, in that order.

    Args:
        cast: who may be named.
        picture: `3 h w` in [-1, 1]; the largest part in its middle that has the shape of what is sampled counts.
        prompts: texts.
        noun: what the picture shows; words of `picture_prompt`.
        picture_prompt: describes it; empty: "a photo of a NOUN".
        class_noun: what the results show; empty: `noun`.
        seeds, config, base, device, precision, reporter: see `follow_structure` and `draw_layouts`.

    Raises:
        UsageError: no noun, prompt or seed, or a size that the base cannot make.
    """
    if not noun.strip() or not prompts or not seeds:
        raise UsageError("following a structure takes a noun, at least one prompt and one seed; one is missing.")
    texts = [cast.words(prompt) for prompt in prompts]
    backbone = base if base is not None else load_backbone(cast.base_name, device=device, precision=precision)
    words = {
        "picture_prompt": picture_prompt or fill("a photo of {subject}", noun.strip()),
        "phrase": noun.strip(),
        "class_prompt": fill("a photo of {subject}", class_noun.strip() or noun.strip()),
    }
    facts = {
        "edit": config.id, "base": backbone.name, "artifacts": cast.hashes(), **words,
        **dataclasses.asdict(config.sampling),
    }  # fmt: skip
    made = []
    with cast.applied(backbone):
        for prompt, text in zip(prompts, texts, strict=True):
            images = follow_structure(
                backbone, as_sampled(picture, backbone, config.sampling), prompt=text, seeds=seeds, config=config,
                negative_prompt=cast.negative(""), reporter=reporter, **words,
            )  # fmt: skip
            made += [
                GeneratedImage(to_pil(image), prompt, {"seed": seed, **facts})
                for image, seed in zip(images, seeds, strict=True)
            ]
    return made
