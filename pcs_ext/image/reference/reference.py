"""Pictures that are shown to a base beside prompts: by name, in the command line and in Python."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.data import Photo, find_photos
from pcs_ext.image.learn import preset_of
from pcs_ext.image.levels import to_pil
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.reference import REFERENCES
from pcs_ext.image.reference.boxes import read_boxes
from pcs_ext.image.reference.details import with_details
from pcs_ext.image.reference.encoder import masks_of
from pcs_ext.image.reference.facts import with_facts
from pcs_ext.image.reference.files import OpenedAdapter, open_adapter
from pcs_ext.image.reference.interleaved import check_marks, has_marks
from pcs_ext.image.reference.kinds import adapter_class
from pcs_ext.image.reference.latents import with_latents
from pcs_ext.image.reference.looks import look_of
from pcs_ext.image.reference.maps import Given, MapKind, read_given, stacked
from pcs_ext.image.reference.nouns import check_named
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.views import read_turns
from pcs_ext.image.sample import SampleHooks, Sampling, sample
from pcs_ext.image.subject import Artifact, GeneratedImage, check_length
from pcs_ext.image.types import Conditioning
from pcs_ext.reporter import Reporter, SilentReporter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """Pictures as an adapter sees them, ready to be shown beside any prompts."""

    opened: OpenedAdapter
    sight: Sight
    """Of `r` pictures, which are shown together beside every prompt."""
    nouns: tuple[str, ...] = ()
    """By which word prompts name what each picture shows; empty where the adapter asks for none."""
    scale: float = 1.0
    """Strength, 1 as trained, 0 the plain base."""
    boxes: Tensor | None = None
    """`r 4`: see `Shown.boxes`."""
    scene: Tensor | None = None
    """`3 h w`: see `Shown.scene`."""
    turns: Tensor | None = None
    """`r 3`: see `Shown.turns`."""
    maps: Mapping[MapKind, Given] = dataclasses.field(default_factory=dict)
    """Condition maps of every picture that is drawn, beside negative prompts, too."""
    style: Tensor | None = None
    """`1 ...`: how the encoder sees the style picture; None: there is none."""
    captions: tuple[str, ...] = ()
    """What is said of each; empty where the adapter does not ask."""

    def hooks(self, backbone: AbstractBackbone) -> SampleHooks:
        """What `sample` needs to show the pictures beside its prompts, and none beside its negative prompts."""
        adapter = self.opened.adapter
        shown = self.sight.map(lambda tensor: tensor[None].to(backbone.device))
        blank = self.opened.encoder.blank_sight(self.sight).map(lambda tensor: tensor[None].to(backbone.device))

        def encode(prompts: Sequence[str], *, negative: bool, size: tuple[int, int]) -> Conditioning:
            sight = (blank if negative else shown).map(lambda x: x.expand(len(prompts), *x.shape[1:]))
            seen = torch.full((len(prompts),), not negative)
            nouns = (self.nouns,) * len(prompts) if self.nouns else ()
            boxes = None if self.boxes is None else self.boxes.to(backbone.device).expand(len(prompts), -1, -1)
            scene = None if self.scene is None else self.scene.to(backbone.device).expand(len(prompts), -1, -1, -1)
            turns = None if self.turns is None else self.turns.to(backbone.device).expand(len(prompts), -1, -1)
            maps = self._mapped(size, backbone.device)
            maps = None if maps is None else maps.expand(len(prompts), -1, -1, -1)
            captions = (self.captions,) * len(prompts) if self.captions else ()
            style = None if self.style is None else self.style.to(backbone.device)
            style = None if style is None else style.expand(len(prompts), *style.shape)
            told = Shown(
                sight=sight, nouns=nouns, captions=captions, seen=seen, boxes=boxes, scene=scene, turns=turns,
                maps=maps, style=style,
            )  # fmt: skip
            beside = self.beside(backbone, told, size)
            read = backbone.encode_negative if negative else backbone.encode_prompt
            return adapter.conditioned(backbone, read, prompts, beside, scale=self.scale, size=size)

        # Adapters that are not in the base leave the loop as it is, which is faster.
        attention = (lambda: adapter.inserted(backbone, self.scale)) if adapter.inside or adapter.enters else None
        if not (adapter.refines or adapter.mixes) or self.scale == 0:
            return SampleHooks(encode=encode, attention=attention, each_alone=True)
        begun: list[Sampling] = []

        def before_step(step: int, timestep: Tensor, latents: Tensor) -> Tensor:
            return adapter.refined(backbone, begun[-1], step, timestep, latents)

        def mixing(predict: Predict) -> Predict:
            return lambda noisy, timesteps, told: adapter.mixed(backbone, begun[-1], predict, noisy, timesteps, told)

        return SampleHooks(
            encode=encode,
            attention=attention,
            started=begun.append,
            before_step=before_step if adapter.refines else None,
            predict=mixing if adapter.mixes else None,
            each_alone=True,
        )

    def check(self, prompts: Sequence[str]) -> None:
        """See that prompts show or name what the pictures show, as the adapter asks.

        Raises:
            UsageError: one does not.
        """
        check_marks(prompts, len(self.sight.features), reads=self.opened.adapter.reads_marks)
        check_named([text for text in prompts if not has_marks(text)], list(dict.fromkeys(self.nouns)))

    def _mapped(self, size: tuple[int, int], device: torch.device) -> Tensor | None:
        """`1 c h w` of the kinds that the adapter reads; None: nobody gave any."""
        return stacked(self.maps, self.opened.adapter.map_kinds, size)[None].to(device) if self.maps else None

    def beside(self, backbone: AbstractBackbone, shown: Shown, size: tuple[int, int]) -> Shown:
        """What the adapter is shown, for pictures of a size in pixels: all it needs is what its encoder sees."""
        return shown


def show(
    backbone: AbstractBackbone,
    photos: Sequence[Photo],
    *,
    adapter: str = "",
    encoder: str = "",
    scale: float = 1.0,
    nouns: Sequence[str] = (),
    boxes: Sequence[str] = (),
    turns: Sequence[str] = (),
    maps: Sequence[str] = (),
    style: Path | None = None,
) -> Reference:
    """Let an adapter see photos for a base.

    Args:
        backbone: that shall see them.
        photos: as `find_photos` reads them, one or more; several are seen together.
        adapter: see `open_adapter`.
        encoder: see `open_adapter`.
        scale: strength: 1 as trained, less keeps more of the prompt, 0 is the plain base.
        nouns: by which word prompts name what is shown: one for all photos, or one for each. Adapters that need none
            pass over them.
        boxes: where each photo's subject shall stand, "0,0,0.5,1" being the left half; empty: wherever its word does.
        turns: by how much the camera goes about it, "90,0" in degrees of azimuth and elevation; empty: not at all.
        maps: condition maps of what is drawn, "depth=room.png", or "edges-of=photo.jpg", whose edges are found.
        style: a picture in whose look is drawn, without what its mask shows, where it has one.

    Raises:
        UsageError: a scale below 0; nouns that are missing, or of several subjects where the adapter knows one; boxes
            that cannot be read or that the adapter does not ask for; maps or a style that it does not read.
        PhotoError: a map that cannot be read.
        ModelError, ArtifactError: see `open_adapter`.
    """
    check_scale(scale)
    opened = open_adapter(backbone, adapter, encoder=encoder)
    return seen_by(opened, photos, scale=scale, nouns=nouns, boxes=boxes, turns=turns, maps=maps, style=style)


def check_scale(scale: float) -> None:
    """See that a strength is one.

    Raises:
        UsageError: it is below 0 or infinite.
    """
    if not 0 <= scale < float("inf"):
        raise UsageError(f"--reference-scale must be 0 or more, got {scale}; 1 is as trained.")


def seen_by(
    opened: OpenedAdapter,
    photos: Sequence[Photo],
    *,
    scale: float,
    nouns: Sequence[str],
    boxes: Sequence[str] = (),
    turns: Sequence[str] = (),
    maps: Sequence[str] = (),
    style: Path | None = None,
) -> Reference:
    """Photos as an adapter's encoder sees them; see `show`.

    Raises:
        UsageError: nouns that are missing, or of several subjects where the adapter knows one; boxes or turns that
            cannot be read or that the adapter does not ask for; maps that it does not read.
        PhotoError: a map that cannot be read.
    """
    if opened.adapter.sees == "nothing":
        raise UsageError(
            "this reference adapter looks at no photos: it places things that words describe. Leave out --reference, "
            "and take pcs-ext reference place PROMPT --box."
        )
    named = _nouns(opened, nouns, len(photos))
    if boxes and not opened.adapter.asks_boxes:
        raise UsageError("this reference adapter cannot be told where things shall stand; leave out --reference-box.")
    if boxes and opened.adapter.asks_scene:
        raise UsageError(
            "this reference adapter puts the subject into the hole of a photo (pcs-ext reference inpaint), which says "
            "where it shall stand; leave out --reference-box."
        )
    if turns and not opened.adapter.asks_views:
        raise UsageError("this reference adapter cannot be told to look from elsewhere; leave out --reference-turn.")
    if style is not None and not opened.adapter.asks_style:
        raise UsageError("this reference adapter reads no style picture; leave out --reference-style.")
    placed = read_boxes(boxes, len(photos)) if boxes else None
    drawn = read_given(maps, opened.adapter.map_kinds, one=opened.adapter.one_map)
    sight = opened.encoder.of_files(photos) or Sight.cat(
        [
            opened.encoder.sight(photo.image[None], None if mask is None else mask[None], cut=opened.adapter.cuts)
            for photo, mask in zip(photos, masks_of(photos), strict=True)
        ]
    )
    kind = opened.adapter.details
    if kind != "none":
        sight = with_details(sight, photos, opened.adapter.detail_side, edges=kind == "edges")
    if opened.latents is not None:
        sight = with_latents(sight, photos, opened.latents)
    turned = read_turns(turns, len(photos)) if turns else None
    captions = tuple(photo.caption or "" for photo in photos) if opened.adapter.asks_captions else ()
    look = None if style is None else look_of(style, opened.encoder)
    return Reference(
        opened=opened, sight=sight, nouns=named, scale=scale, boxes=placed, turns=turned, maps=drawn, style=look,
        captions=captions,
    )  # fmt: skip


def _nouns(opened: OpenedAdapter, nouns: Sequence[str], count: int) -> tuple[str, ...]:
    adapter = opened.adapter
    if not adapter.asks_noun or (adapter.reads_marks and not nouns):
        return ()
    if not nouns:
        raise UsageError(
            "this reference adapter must know which word of the prompt the photos belong to; pass it, for instance "
            "--reference-noun robot."
        )
    if len(nouns) not in (1, count):
        raise UsageError(f"--reference-noun has {len(nouns)} words for {count} photos; expected one, or one for each.")
    if len(set(nouns)) > 1 and not adapter.several:
        able = [name for name, entry in REFERENCES.items() if adapter_class(entry.adapter).several]
        raise UsageError(
            f"this reference adapter shows one subject at a time, and --reference-noun names {', '.join(nouns)}. Pass "
            f"one noun, or an adapter for several ({', '.join(able)})."
        )
    return tuple(nouns) if len(nouns) == count else (nouns[0],) * count


def generate(
    prompts: str | Sequence[str],
    references: Path | str | Sequence[Path | str],
    *,
    subject: Artifact | None = None,
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
    subject_scale: float = 1.0,
    base: str | AbstractBackbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> list[GeneratedImage]:
    """Images of prompts beside pictures, without learning anything: for each prompt one per seed, in that order.

    Args:
        prompts: texts; with `{subject}` where a learned subject goes.
        references: photos whose content or look shall be in the images; several count together.
        subject: a learned subject that is in the base meanwhile.
        scale: see `show`.
        adapter: see `open_adapter`.
        encoder: see `open_adapter`.
        nouns: see `show`.
        boxes: see `show`.
        turns: see `show`.
        maps: see `show`.
        style: see `show`.
        seeds: an image depends on its prompt, its seed and the settings, not on what is generated beside it.
        negative_prompt: what to stay away from; only with guidance.
        steps: denoising steps; None takes the subject's recipe's, or the base's.
        guidance_scale: 1 = off; None likewise.
        subject_scale: strength of the learned subject.
        base: toybox (None, unless the subject has its own), a hub id, a folder, a file, or a loaded backbone.
        device: auto, cuda, mps or cpu.
        precision: auto, fp32, bf16 or fp16.
        reporter: hears the progress.

    Raises:
        UsageError: no prompt, no seed, a prompt that names a subject although none was given, or one without the noun.
        PhotoError, ModelError, ArtifactError: see `show`.
    """
    prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    given = [references] if isinstance(references, (str, Path)) else list(references)
    _check(prompts, seeds, given, subject)
    photos = find_photos(given)  # before a model is loaded
    reporter = reporter or SilentReporter()
    if not isinstance(base, AbstractBackbone):
        named = base or ("toybox" if subject is None else subject.data.base_name)
        base = load_backbone(named, device=device, precision=precision, reporter=reporter)
    reference = show(
        base, photos, adapter=adapter, encoder=encoder, scale=scale, nouns=nouns, boxes=boxes, turns=turns, maps=maps,
        style=style,
    )  # fmt: skip
    reference.check(prompts)
    if subject is not None:
        images = subject.generate(prompts, seeds=seeds, negative_prompt=negative_prompt, steps=steps,
                                  guidance_scale=guidance_scale, scale=subject_scale, base=base,
                                  hooks=reference.hooks(base), reporter=reporter)  # fmt: skip
    else:
        images = draw(base, reference, prompts, seeds, negative_prompt, steps, guidance_scale, reporter)
    asked = {text if subject is None else subject.concept.prompt(text): text for text in prompts}
    return with_facts(images, reference, asked, len(photos), style, reporter)


def _check(prompts: Sequence[str], seeds: Sequence[int], given: Sequence[Any], subject: Artifact | None) -> None:
    if not prompts or not seeds or not given:
        raise UsageError("generate needs at least one prompt, one seed and one reference photo, got none.")
    named = [prompt for prompt in prompts if "{" in prompt]
    if subject is None and named:
        raise UsageError(
            f"{named[0]!r} names a learned subject, but none was given; put its folder before the prompts, or say in "
            'words what the reference shows: "a photo of a robot on the beach".'
        )


def draw(
    backbone: AbstractBackbone,
    reference: Reference,
    prompts: Sequence[str],
    seeds: Sequence[int],
    negative_prompt: str,
    steps: int | None,
    guidance_scale: float | None,
    reporter: Reporter,
) -> list[GeneratedImage]:
    """Images of prompts beside what an adapter is shown, on the base alone; see `generate`."""
    asked = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
    config = dataclasses.replace(SAMPLING[preset_of(backbone)], **{k: v for k, v in asked.items() if v is not None})
    check_length(backbone, prompts, reporter)
    pairs = [(prompt, seed) for prompt in prompts for seed in seeds]
    with torch.inference_mode():
        images = sample(
            backbone,
            [prompt for prompt, _ in pairs],
            seeds=[seed for _, seed in pairs],
            config=config,
            negative_prompts=[negative_prompt] * len(pairs),
            hooks=reference.hooks(backbone),
            reporter=reporter,
        )
    facts = {"base": backbone.name, "negative_prompt": negative_prompt, **dataclasses.asdict(config)}
    return [
        GeneratedImage(to_pil(image), prompt, {"seed": seed, **facts})
        for image, (prompt, seed) in zip(images, pairs, strict=True)
    ]
