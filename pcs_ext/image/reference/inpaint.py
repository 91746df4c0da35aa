"""Holes in a photo, filled with what reference photos show (as PVA, arXiv 2312.03556, is used)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import PhotoError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.blended import PutBack
from pcs_ext.image.data import Photo, find_photos, mask_files
from pcs_ext.image.learn import preset_of
from pcs_ext.image.levels import to_pil
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.reference.boxes import boxes_of
from pcs_ext.image.reference.facts import with_facts
from pcs_ext.image.reference.reference import Reference, show
from pcs_ext.image.sample import SampleConfig, Sampling, sample
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter, SilentReporter


def inpaint(
    photo: Path | str,
    prompt: str,
    references: Path | str | Sequence[Path | str],
    *,
    scale: float = 1.0,
    adapter: str = "",
    encoder: str = "",
    nouns: Sequence[str] = (),
    boxes: Sequence[str] = (),
    turns: Sequence[str] = (),
    maps: Sequence[str] = (),
    style: Path | None = None,
    seeds: Sequence[int] = (0,),
    negative_prompt: str = "",
    steps: int | None = None,
    guidance_scale: float | None = None,
    base: str | AbstractBackbone = "toybox",
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> list[GeneratedImage]:
    """A photo with its hole filled, one image per seed, as large as the largest square in its middle is to the base.

    Pixels outside of the hole are the photo's own.

    Args:
        photo: with a mask `NAME_mask.png` beside it, white in the hole; without one, transparent there.
        prompt: of the whole picture.
        references: photos of who or what belongs into the hole; several count together.
        scale: see `show`, and so adapter, encoder and nouns.
        adapter: likewise.
        encoder: likewise.
        nouns: likewise.
        boxes: likewise.
        turns: likewise.
        maps: likewise, of the square that is filled.
        style: likewise.
        seeds: one image each.
        negative_prompt: what to stay away from.
        steps: denoising steps; None takes the base's.
        guidance_scale: 1 = off; None likewise.
        base: toybox, a hub id, a folder, a file, or a loaded backbone.
        device: auto, cuda, mps or cpu.
        precision: auto, fp32, bf16 or fp16.
        reporter: hears the progress.

    Raises:
        UsageError: no prompt, no seed, no reference, or a prompt without the noun or with `{subject}`.
        PhotoError: several photos, or one without a mask, or with one that is empty or leaves nothing.
        ModelError, ArtifactError: see `show`.
    """
    given = [references] if isinstance(references, (str, Path)) else list(references)
    if not prompt or not seeds or not given:
        raise UsageError("inpaint needs a prompt, one seed or more and one reference photo or more, got none.")
    if "{" in prompt:
        raise UsageError(
            f"{prompt!r} names a learned subject, and inpaint fills holes with what references show; say in words what "
            'that is: "a photo of a robot on the beach".'
        )
    whole, photos = _the_photo(photo), find_photos(given)
    reporter = reporter or SilentReporter()
    if not isinstance(base, AbstractBackbone):
        base = load_backbone(base, device=device, precision=precision, reporter=reporter)
    image, hole = _square(whole, base.resolution)
    reference = show(
        base, photos, adapter=adapter, encoder=encoder, scale=scale, nouns=nouns, boxes=boxes, turns=turns, maps=maps,
        style=style,
    )  # fmt: skip
    reference.check([prompt])
    asked = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
    config = dataclasses.replace(SAMPLING[preset_of(base)], **{k: v for k, v in asked.items() if v is not None})
    images = filled(base, reference, image, hole, prompt, seeds, config, negative_prompt, reporter)
    facts = {"base": base.name, "inpainted": whole.path.name, "negative_prompt": negative_prompt}
    pictures = [
        GeneratedImage(to_pil(made), prompt, {"seed": seed, **facts, **dataclasses.asdict(config)})
        for made, seed in zip(images, seeds, strict=True)
    ]
    return with_facts(pictures, reference, {prompt: prompt}, len(photos), style, reporter)


def _the_photo(path: Path | str) -> Photo:
    found = find_photos(path)
    if len(found) != 1:
        raise PhotoError(f"{path} holds {len(found)} photos; expected the one with the hole.")
    photo = found[0]
    if photo.mask is None or mask_files(photo.path):
        return photo
    # Elsewhere what is opaque is the subject; of a photo with a hole, what somebody made transparent is to be filled.
    return dataclasses.replace(photo, mask=1 - photo.mask)


@torch.inference_mode()
def filled(
    backbone: AbstractBackbone,
    reference: Reference,
    image: Tensor,
    hole: Tensor,
    prompt: str,
    seeds: Sequence[int],
    config: SampleConfig,
    negative_prompt: str = "",
    reporter: Reporter | None = None,
) -> Tensor:
    """`n 3 h w` in [-1, 1], float32 on the CPU, one per seed.

    Args:
        backbone: draws.
        reference: what is shown to it.
        image: `3 h w` in [-1, 1], square, as large as the base draws.
        hole: `1 h w`, 1 in the hole and 0 around it.
        prompt: of the whole picture.
        seeds: of the noise.
        config: how to sample.
        negative_prompt: what to stay away from.
        reporter: hears the progress.
    """
    known = backbone.encode_images(image[None].to(backbone.device, backbone.dtype)).float()
    cells = F.adaptive_max_pool2d(hole[None], known.shape[-2:]).to(known)
    if reference.opened.adapter.asks_scene:
        # Around the hole the adapter sees the photo; it fills the hole's own box.
        box = boxes_of(hole)[0].expand(len(reference.sight.features), 4)
        reference = dataclasses.replace(reference, scene=image, boxes=box)
    hooks = reference.hooks(backbone)
    put_back = PutBack(backbone, known, cells, config)

    def started(sampling: Sampling) -> None:
        put_back.started(sampling)
        if hooks.started is not None:
            hooks.started(sampling)

    made = sample(
        backbone,
        [prompt] * len(seeds),
        seeds=seeds,
        config=config,
        negative_prompts=[negative_prompt] * len(seeds),
        hooks=dataclasses.replace(hooks, started=started, on_step=put_back.on_step),
        reporter=reporter,
    )
    return hole * made + (1 - hole) * image


def _square(photo: Photo, side: int) -> tuple[Tensor, Tensor]:
    """The largest square in the middle, resized, and the hole in it."""
    if photo.mask is None:
        raise PhotoError(
            f"{photo.path} has no mask; expected {photo.path.stem}_mask.png beside it, white in the hole to be filled, "
            "or transparency there."
        )
    height, width = photo.size
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    image, mask = (x[None, :, top : top + short, left : left + short] for x in (photo.image, photo.mask))
    small = F.interpolate(image, size=(side, side), mode="bicubic", antialias=True)[0].clamp(-1, 1)
    hole = (F.interpolate(mask, size=(side, side), mode="area")[0] > 0.5).float()
    if not 0 < float(hole.mean()) < 1:
        raise PhotoError(
            f"the mask of {photo.path} leaves {'no hole' if not hole.any() else 'nothing around the hole'} in the "
            "square in its middle; expected white in the hole alone."
        )
    return small, hole
