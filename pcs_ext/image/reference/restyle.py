"""A subject whose attributes are changed in a style space before it is drawn (W+ adapter, arXiv 2311.17461)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.data import Photo, find_photos
from pcs_ext.image.reference.facts import with_facts
from pcs_ext.image.reference.files import open_adapter
from pcs_ext.image.reference.reference import Reference, check_scale, draw, seen_by
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

    The direction is the difference of the mean codes of two groups of photos. Masks count where all photos have one,
    the subject's and both groups': else all are seen whole, so that what is around subjects is no part of the
    direction.

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
    check_scale(scale)
    reporter = reporter or SilentReporter()
    groups = [find_photos(given) for given in (references, toward, away or references)]
    photos, attribute, plain = _seen_alike(groups, reporter)
    if not isinstance(base, AbstractBackbone):
        base = load_backbone(base, device=device, precision=precision, reporter=reporter)
    opened = open_adapter(base, adapter, encoder=encoder)
    if opened.adapter.sees != "codes":
        raise UsageError(
            f"{adapter} reads no style space, in which attributes are directions; pass an adapter of w-plus-adapter."
        )
    reference, there, here = (seen_by(opened, own, scale=scale, nouns=()) for own in (photos, attribute, plain))
    reference.check(prompts)
    direction = _mean(there) - _mean(here)
    sight = reference.sight.map(lambda codes: moved(codes, direction, strength, rows))
    moved_reference = dataclasses.replace(reference, sight=sight)
    images = draw(base, moved_reference, prompts, seeds, negative_prompt, steps, guidance_scale, reporter)
    facts = {"restyle_strength": strength, "restyle_rows": list(rows)}
    made = [dataclasses.replace(image, facts={**image.facts, **facts}) for image in images]
    return with_facts(made, reference, {text: text for text in prompts}, len(photos), None, reporter)


def _seen_alike(groups: Sequence[Sequence[Photo]], reporter: Reporter) -> list[list[Photo]]:
    """Groups of photos as they are compared: with their masks, or, where one has none, all without."""
    bare = [photo.path for own in groups for photo in own if photo.mask is None]
    if not bare:
        return [list(own) for own in groups]
    if len(bare) < sum(map(len, groups)):
        reporter.event("masks-left-out", f"{bare[0]} has no mask: all photos are compared whole, without their masks")
    return [[photo.but(mask=None) for photo in own] for own in groups]


def _mean(seen: Reference) -> Tensor:
    """Of some photos' codes, `1 styles width`."""
    return seen.sight.object.to(seen.opened.encoder.device).mean(0, keepdim=True)


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
