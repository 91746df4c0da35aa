"""A subject whose attributes are changed in a style space before it is drawn (W+ adapter, arXiv 2311.17461)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.files import OpenedAdapter
from pcs_ext.image.reference.reference import draw, seen_by, show, with_facts
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter, SilentReporter


def restyle(
    prompts: Sequence[str],
    references: Sequence[Path | str],
    *,
    toward: Sequence[Path | str],
    away: Sequence[Path | str] = (),
    strength: float = 1.0,
    rows: Sequence[int] = (),
    adapter: str,
    encoder: str = "",
    scale: float = 1.0,
    seeds: Sequence[int] = (0,),
    negative_prompt: str = "",
    steps: int | None = None,
    guidance_scale: float | None = None,
    base: str | AbstractBackbone = "toybox",
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> list[GeneratedImage]:
    """Images of prompts beside a subject whose code was moved along a direction, for each prompt one per seed.

    The direction is the difference of the mean codes of two groups of photos.

    Args:
        prompts: texts.
        references: photos of the subject; their codes are averaged.
        toward: photos that have the attribute.
        away: photos that do not; none: the subject's own.
        strength: how far along the direction, 1 being as far as the groups lie apart; negative: the other way.
        rows: of the code that are moved, first and last in the order of the generator's layers, coarse ones first,
            counted from 1; none: all.
        adapter: see `open_adapter`; one that reads a style space.
        encoder: see `open_adapter`.
        scale: see `show`.
        seeds: an image depends on its own.
        negative_prompt: what to stay away from; only with guidance.
        steps: denoising steps; None takes the base's.
        guidance_scale: 1 = off; None likewise.
        base: toybox, a hub id, a folder, a file, or a loaded backbone.
        device: auto, cuda, mps or cpu.
        precision: auto, fp32, bf16 or fp16.
        reporter: hears the progress.

    Raises:
        UsageError: no prompt, seed or photo, rows that the code has not, or an adapter that reads no style space.
        PhotoError, ModelError, ArtifactError: see `show`.
    """
    if not prompts or not seeds or not references or not toward:
        raise UsageError("restyle needs a prompt, a seed, a photo to show and one to go toward, or more, got none.")
    groups = [find_photos(given) for given in (references, toward, away or references)]
    reporter = reporter or SilentReporter()
    if not isinstance(base, AbstractBackbone):
        base = load_backbone(base, device=device, precision=precision, reporter=reporter)
    reference = show(base, groups[0], adapter=adapter, encoder=encoder, scale=scale)
    reference.check(prompts)
    opened = reference.opened
    if opened.adapter.sees != "codes":
        raise UsageError(
            f"{adapter} reads no style space, in which attributes are directions; pass an adapter of w-plus-adapter."
        )
    there, here = (_mean(opened, seen_by(opened, own, scale=scale, nouns=()).sight.object) for own in groups[1:])
    sight = reference.sight.map(lambda codes: moved(codes, there - here, strength, rows))
    moved_reference = dataclasses.replace(reference, sight=sight)
    images = draw(base, moved_reference, prompts, seeds, negative_prompt, steps, guidance_scale, reporter)
    facts = {"restyle_strength": strength, "restyle_rows": list(rows)}
    made = [dataclasses.replace(image, facts={**image.facts, **facts}) for image in images]
    return with_facts(made, reference, {text: text for text in prompts}, len(groups[0]), None, reporter)


def _mean(opened: OpenedAdapter, codes: Tensor) -> Tensor:
    """Of some photos' codes, `1 styles width`."""
    return codes.to(opened.encoder.device).mean(0, keepdim=True)


def moved(codes: Tensor, direction: Tensor, strength: float, rows: Sequence[int] = ()) -> Tensor:
    """w + strength d in some rows.

    Args:
        codes: `r styles width`.
        direction: `1 styles width`.
        strength: times the direction.
        rows: first and last, from 1; none: all.

    Raises:
        UsageError: the codes have no such rows.
    """
    count = codes.shape[1]
    first, last = tuple(rows) if len(rows) == 2 else (1, 0 if rows else count)
    if not 1 <= first <= last <= count:
        told = " ".join(str(row) for row in rows)
        raise UsageError(f"--rows {told} are no rows of a code; expected the first and the last, from 1 to {count}.")
    edited = codes.clone()
    edited[:, first - 1 : last] += strength * direction[:, first - 1 : last].to(codes)
    return edited
