"""Things in boxes that words describe, by adapters that look at no photos (MIGC)."""

from collections.abc import Mapping, Sequence

import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.reference.facts import with_facts
from pcs_ext.image.reference.files import open_adapter
from pcs_ext.image.reference.nouns import names
from pcs_ext.image.reference.reference import Reference, check_scale, draw
from pcs_ext.image.reference.shown import Sight
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter, SilentReporter


def place(
    prompt: str,
    boxes: Mapping[str, Sequence[float]],
    *,
    adapter: str,
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
    """Images of a prompt with things where boxes say, one per seed.

    Args:
        prompt: of the whole picture.
        boxes: phrase of the prompt -> left, top, right and bottom in shares of the picture; one or more.
        adapter: see `open_adapter`.
        scale: strength: 1 as trained, 0 is the plain base.
        seeds: an image depends on its own.
        negative_prompt: what to stay away from; only with guidance.
        steps: denoising steps; None takes the base's.
        guidance_scale: 1 = off; None likewise.
        base: toybox, a hub id, a folder, a file, or a loaded backbone.
        device: auto, cuda, mps or cpu.
        precision: auto, fp32, bf16 or fp16.
        reporter: hears the progress.

    Raises:
        UsageError: no seed, no box, a phrase that is not in the prompt, or an adapter that is shown photos.
        ModelError, ArtifactError: see `open_adapter`.
    """
    check_scale(scale)
    if not prompt or not seeds or not boxes:
        raise UsageError("place needs a prompt, one box and one seed or more, got none.")
    missing = [phrase for phrase in boxes if not names(prompt, phrase)]
    if missing:
        raise UsageError(f"the prompt {prompt!r} does not name the {missing[0]} of a --box; say it there, too.")
    reporter = reporter or SilentReporter()
    if not isinstance(base, AbstractBackbone):
        base = load_backbone(base, device=device, precision=precision, reporter=reporter)
    opened = open_adapter(base, adapter)
    if opened.adapter.sees != "nothing":
        raise UsageError(
            f"{adapter} is an adapter that is shown photos, and places nothing by words alone; take it with image "
            "--reference PHOTO, or one of a system that does (migc)."
        )
    held = Reference(
        opened=opened,
        sight=Sight(features=torch.zeros(len(boxes), 0)),
        nouns=tuple(boxes),
        scale=scale,
        boxes=torch.tensor([list(box) for box in boxes.values()]),
    )
    images = draw(base, held, [prompt], seeds, negative_prompt, steps, guidance_scale, reporter)
    return with_facts(images, held, {prompt: prompt}, 0, None, reporter)
