"""A learned subject in a picture of any size: mask, region, swap, and the rest of the picture untouched."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from pcs_ext.errors import InputError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import fill
from pcs_ext.image.edits.region import Region, around, whole
from pcs_ext.image.edits.swap import SwapConfig, swap
from pcs_ext.image.levels import to_pil
from pcs_ext.image.locate import locate
from pcs_ext.image.subject import Artifact, GeneratedImage
from pcs_ext.reporter import Reporter


@dataclasses.dataclass(frozen=True)
class Swapped:
    """What came of a swap."""

    picture: GeneratedImage
    """As large as the original; outside of the mask its 8-bit pixels are the original's."""
    mask: Tensor
    """`1 h w`, 1 where the picture may have changed: the one that was given, or the one that was found."""


def swap_picture(
    artifact: Artifact,
    picture: Tensor,
    *,
    noun: str,
    config: SwapConfig,
    prompt: str = "a photo of {subject}",
    mask: Tensor | None = None,
    base: AbstractBackbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> Swapped:
    """Put a learned subject where `noun` is in a picture.

    Args:
        artifact: the subject.
        picture: `3 h w` in [-1, 1].
        noun: what shall go: "cat".
        config: how.
        prompt: describes the picture, with `{subject}` where the thing to swap stands.
        mask: `1 h w`, above 0.5 where the picture may change; None finds `noun` by cross-attention.
        base: already loaded; None loads the artifact's.
        device: where to run, when the base is loaded here.
        precision: of the base's weights.
        reporter: hears the progress.

    Raises:
        UsageError: an empty noun, or a prompt without `{subject}`.
        InputError: a mask of another size, or one that covers nothing or everything; nothing found.
    """
    if not noun.strip():
        raise UsageError("--noun is empty; say in one or two words what shall go, such as cat or toy car.")
    source_prompt, target_prompt = fill(prompt, noun.strip()), artifact.concept.prompt(prompt)
    if mask is not None:
        check_mask(mask, picture)
    backbone = base if base is not None else artifact.backbone(device=device, precision=precision)
    image = picture[None]
    if mask is not None:
        given = (mask[None] > 0.5).float()
    else:
        given = _found(backbone, image, source_prompt, noun.strip(), config)
    region = around(given, config.margin, backbone) if config.crop else whole(image, backbone)
    with artifact.applied(backbone):
        edited = swap(
            backbone,
            region.cut(image),
            region.cut_mask(given),
            source_prompt=source_prompt,
            target_prompt=target_prompt,
            config=config,
            negative_prompt=artifact.concept.negative_prompt(),
            reporter=reporter,
        )
    result = region.paste(image, edited, given, config.feather if mask is None else 0.0)
    facts: dict[str, Any] = {
        "edit": config.id, "noun": noun.strip(), "base": backbone.name, "artifact": artifact.data.content_hash,
        **dataclasses.asdict(config.sampling),
    }  # fmt: skip
    return Swapped(GeneratedImage(to_pil(result[0]), prompt, facts), given[0])


def check_mask(mask: Tensor, picture: Tensor) -> None:
    """A mask `1 h w` that can be used with a picture `3 h w`.

    Raises:
        InputError: it cannot.
    """
    if mask.shape[-2:] != picture.shape[-2:]:
        raise InputError(
            f"the mask is {mask.shape[-1]} x {mask.shape[-2]} pixels, the picture {picture.shape[-1]} x "
            f"{picture.shape[-2]}; expected the same size."
        )
    inside = mask > 0.5
    if not inside.any() or inside.all():
        what = "nothing" if not inside.any() else "everything"
        raise InputError(f"the mask marks {what}; expected white where the picture may change and black elsewhere.")


def _found(backbone: AbstractBackbone, image: Tensor, prompt: str, noun: str, config: SwapConfig) -> Tensor:
    """The plain base looks for the noun: the subject is not in the picture yet."""
    region: Region = whole(image, backbone)
    found = locate(backbone, region.cut(image), prompt, noun, config.locate)
    size = (image.shape[-2], image.shape[-1])
    return torch.nn.functional.interpolate(found, size=size, mode="nearest")
