"""Pictures of a cast in one style: that of the first, or of a given picture."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.edits.cast import Cast
from pcs_ext.image.edits.region import as_sampled
from pcs_ext.image.edits.style_aligned import Reference, StyleAlignedConfig, sample_aligned
from pcs_ext.image.levels import to_pil
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter


def draw_aligned(
    cast: Cast,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    config: StyleAlignedConfig,
    reference: Tensor | None = None,
    reference_prompt: str = "",
    negative_prompt: str = "",
    base: AbstractBackbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> list[GeneratedImage]:
    """Images of prompts in one style: for each seed, one per prompt, in that order.

    Args:
        cast: who may be named.
        prompts: texts.
        seeds: every seed makes a set of its own.
        config: how.
        reference: `3 h w` in [-1, 1], a picture to take the style from; the largest part in its middle that has the
            shape of what is sampled counts.
        reference_prompt: describes it.
        negative_prompt: what to stay away from.
        base: already loaded.
        device, precision: of a base that is loaded here.
        reporter: hears the progress.

    Raises:
        UsageError: no seed, too few prompts, a reference without a description, or a size that the base cannot make.
    """
    if not seeds:
        raise UsageError("a shared style needs at least one seed, got none.")
    if (reference is None) != (not reference_prompt.strip()):
        raise UsageError("a reference picture and the prompt that describes it go together; one of them is missing.")
    texts = [cast.words(prompt) for prompt in prompts]
    backbone = base if base is not None else load_backbone(cast.base_name, device=device, precision=precision)
    given = None
    if reference is not None:
        given = Reference(as_sampled(reference, backbone, config.sampling), reference_prompt.strip())
    facts = {
        "edit": config.id, "base": backbone.name, "negative_prompt": negative_prompt,
        "artifacts": cast.hashes(), "reference": reference_prompt.strip(),
        "set": list(prompts), **dataclasses.asdict(config.sampling),
    }  # fmt: skip
    made = []
    with cast.applied(backbone):
        for seed in seeds:
            images = sample_aligned(
                backbone, texts, seed=seed, config=config, reference=given,
                negative_prompt=cast.negative(negative_prompt),
                reporter=reporter,
            )  # fmt: skip
            made += [
                GeneratedImage(to_pil(image), prompt, {"seed": seed, **facts})
                for image, prompt in zip(torch.unbind(images), prompts, strict=True)
            ]
    return made
