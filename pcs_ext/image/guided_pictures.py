"""Pictures in which each of several learned subjects stands in a region of its own (recipe `matsuda`)."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pcs_ext.config_io import from_jsonable
from pcs_ext.errors import PhotoError, UsageError
from pcs_ext.image.adapters import AdapterConfig
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.guide import GuideAdapter, GuideConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.data.photos import open_image
from pcs_ext.image.edits.boxes import Box
from pcs_ext.image.subject import Artifact, GeneratedImage

_SIDE = 64
"""Cells along a side of a map that is made of boxes; finer than the latents of a picture of 512 pixels."""


def draw_guided(
    subjects: Artifact,
    prompts: Sequence[str],
    regions: Mapping[str, Tensor],
    *,
    seeds: Sequence[int],
    base: str | AbstractBackbone | None = None,
    **how: Any,
) -> list[GeneratedImage]:
    """For each prompt, one image per seed, in that order.

    Args:
        subjects: learned with a guide.
        prompts: see `Artifact.generate`.
        regions: where each subject shall be, `h w` in [0, 1], by its word, the word without brackets, or `subject` for
            the only one. Who is not named has no region.
        seeds: of the noise.
        base: see `Artifact.generate`.
        how: its other settings.

    Raises:
        UsageError: the subjects were learned without a guide, no region is given, or one is nobody's.
    """
    maps = region_maps(_guide_of(subjects), regions)

    def steering(adapters: Sequence[AbstractAdapter]) -> contextlib.AbstractContextManager[Any]:
        stack = contextlib.ExitStack()
        for adapter in adapters:
            if isinstance(adapter, GuideAdapter):
                stack.enter_context(adapter.guiding(maps))
        return stack

    made = subjects.generate(prompts, seeds=seeds, base=base, steering=steering, **how)
    return [dataclasses.replace(image, facts={**image.facts, "regions": sorted(regions)}) for image in made]


def _guide_of(subjects: Artifact) -> GuideConfig:
    configs = [from_jsonable(AdapterConfig, value, where="adapter") for value in subjects.data.adapters.values()]
    found = [config for config in configs if isinstance(config, GuideConfig)]
    if not found:
        raise UsageError(
            f"this subject was learned by {subjects.data.recipe['id']}, which has no regions; learn it with "
            "--recipe matsuda."
        )
    return found[0]


def region_maps(guide: GuideConfig, regions: Mapping[str, Tensor]) -> Tensor:
    """The segmentation map `1 k h w` of regions by name, as a guide reads it.

    Raises:
        UsageError: no region, or one of a subject that is not there.
    """
    names = {word: index for index, word in enumerate(guide.regions)}
    names |= {word.strip("<>"): index for word, index in names.items()}
    names |= {SUBJECT: 0, "subject": 0} if len(guide.regions) == 1 else {}
    unknown = regions.keys() - names.keys()
    if unknown or not regions:
        raise UsageError(
            f"regions are of {', '.join(sorted(unknown)) or 'nobody'}; expected some of "
            f'{", ".join(word.strip("<>") for word in guide.regions)}, as in --box "robot: 0.1 0.2 0.5 0.9".'
        )
    side = max(max(region.shape) for region in regions.values())
    maps = torch.zeros(1, len(guide.regions), side, side)
    for name, region in regions.items():
        one = torch.nn.functional.interpolate(region[None, None].float(), size=(side, side), mode="area")
        maps[:, names[name]] = torch.maximum(maps[:, names[name]], one[:, 0])
    return maps


def box_regions(boxes: Sequence[Box]) -> list[tuple[str, Tensor]]:
    """Phrases and regions of boxes."""
    return [(box.phrase, box.coverage(_SIDE, _SIDE)) for box in boxes]


def united(regions: Sequence[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Regions by name, `h w`; several of one name are one region."""
    found: dict[str, Tensor] = {}
    for name, region in regions:
        side = max(*region.shape, *found.get(name, region).shape)
        both = [
            torch.nn.functional.interpolate(one[None, None].float(), size=(side, side), mode="area")[0, 0]
            for one in (region, found.get(name, region))
        ]
        found[name] = torch.maximum(*both)
    return found


def read_region(text: str) -> tuple[str, Tensor]:
    """Name and region of "NAME=FILE", white where the subject shall be.

    Raises:
        UsageError: it is not of that form.
        PhotoError: the file cannot be read, or is black.
    """
    name, equals, file = text.partition("=")
    if not (name.strip() and equals and file.strip()):
        raise UsageError(f"{text!r} is no region; expected NAME=FILE, as in robot=left.png.")
    gray = ImageOps.exif_transpose(open_image(Path(file.strip()))).convert("L")
    side = min(max(gray.size), 512)
    values = np.asarray(gray.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    if values.max() <= 0.5:
        raise PhotoError(f"{file} is black; expected white where {name.strip()} shall be.")
    return name.strip(), torch.from_numpy(values)
