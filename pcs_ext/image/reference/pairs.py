"""What a reference adapter learns from: pictures in groups, each group of one subject, or of several together.

A target and its caption come with features of other pictures of the same subject. Differs from IP-Adapter and most
others, whose reference is the target itself: two pictures of a subject share the subject and not the place, the light
or the pose, so that these stay the caption's to say.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import Photo
from pcs_ext.image.masks import bounding_box
from pcs_ext.image.reference.albums import Subjects
from pcs_ext.image.reference.details import with_details
from pcs_ext.image.reference.encoder import PictureEncoder
from pcs_ext.image.reference.looks import looks
from pcs_ext.image.reference.maps import MapKinds, maps_of, stacked
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.views import read_views
from pcs_ext.reporter import Reporter

_MARGIN = 0.1
"""Around a subject that is cut out of a picture of several, as a share of its longer side."""
_BATCH = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """One batch: targets, what is said of them, and other pictures of what they show."""

    latents: Tensor
    """`b c h w` of the targets, float32."""
    captions: tuple[str, ...]
    shown: Shown
    """The references, `b r`."""
    weights: Tensor | None
    """`b 1 h w` of the targets' latent cells in the loss; None: all alike."""
    masks: Tensor | None = None
    """`b p h w` in [0, 1]: which latent cells each of the target's subjects covers; None: not known."""
    subjects: Tensor | None = None
    """`b`: numbers of the groups that the targets are of; None: not known."""
    scenes: Tensor | None = None
    """`b 3 h w` in [-1, 1]: the targets themselves, for adapters that put things into pictures; None: nobody asks."""
    maps: Tensor | None = None
    """`b c h w` in [0, 1] of the targets: see `Shown.maps`; None: nobody asks."""
    generator: torch.Generator | None = None
    """Where what an adapter's own terms draw comes from; None: outside of a training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairData:
    """Pictures that were encoded once: `n` of them, each of up to `p` subjects."""

    latents: Tensor
    """`n c h w`."""
    features: Tensor
    """`n ...`, of whole pictures, or `n p ...`, of each subject of a picture."""
    captions: Sequence[tuple[str, ...]]
    """Of every picture, one or several: one is drawn each time."""
    groups: Sequence[Tensor]
    """Rows of the same subjects each, two or more."""
    weights: Tensor | None = None
    """`n 1 h w` of latent cells in the loss, 1 on average; None: all alike."""
    nouns: Sequence[tuple[str, ...]] = ()
    """What every group shows, in the order of its masks; empty: not told."""
    masks: Tensor | None = None
    """`n p h w` in [0, 1] of latent cells, in that order; None: not known for all."""
    cut: Tensor | None = None
    """As `features`, with black around the subject."""
    cover: Tensor | None = None
    """`n k`, or `n p k`: see `Sight.cover`."""
    whole: Tensor | None = None
    """`n ...`: as `features`, of whole pictures, where those are of each subject; None: they are of whole pictures."""
    looks: Tensor | None = None
    """`n ...`: as `whole`, without the subjects; None: nobody asks."""
    leads: bool = False
    """Whether the first of a group is drawn and the others are shown; else which is which is drawn, too."""
    detail: Tensor | None = None
    """`n 3 s s`: see `Sight.detail`."""
    scenes: Tensor | None = None
    """`n 3 h w` in [-1, 1]: the pictures themselves; None: nobody asks."""
    views: Tensor | None = None
    """`n 3`: from where each was taken, azimuth and elevation in degrees and distance; None: nobody asks."""
    shows_latents: bool = False
    """Whether references are also seen as latents; each picture shows one subject then."""

    @property
    def sight(self) -> Sight:
        """Of all of them."""
        seen = Sight(features=self.features, cut=self.cut, cover=self.cover, detail=self.detail)
        if not self.shows_latents:
            return seen
        cells = torch.ones_like(self.latents[:, 0]) if self.masks is None else self.masks.amax(1)
        return dataclasses.replace(seen, latents=self.latents, cells=cells)

    maps: Tensor | None = None
    """`n c h w`, 8-bit levels, in pixels: see `Shown.maps`; None: nobody asks."""

    def draw(
        self, batch: int, generator: torch.Generator, *, photos: int = 1, target: bool = False, targets: int = 1
    ) -> Pairs:
        """A random batch: groups evenly, of each a target and other pictures.

        Args:
            batch: how many targets.
            generator: the only source of randomness.
            photos: how many pictures of one subject are shown at most; how many it is this time is drawn, too. Of
                several subjects, one of each is.
            target: also tell how the encoder sees the targets themselves.
            targets: how many pictures of one subject are targets beside the same others; above 1 those others may be
                among them.
        """
        chosen = torch.randint(len(self.groups), (-(-batch // targets),), generator=generator).tolist()
        rows = [self.groups[index] for index in chosen]
        most = min(photos, *(len(own) - 1 for own in rows))
        count = 1 if most == 1 else 1 + int(torch.randint(most, (), generator=generator))
        picked = torch.stack([self._mixed(own, generator)[: 1 + count] for own in rows])
        drawn, references = picked[:, 0], picked[:, 1:]
        if targets > 1:
            many = [self._many(own, targets, generator) for own in rows]
            drawn = torch.cat(many)[:batch]
            references = references.repeat_interleave(targets, 0)[:batch]
            chosen = [index for index in chosen for _ in range(targets)][:batch]
        told = torch.rand(batch, generator=generator).tolist()
        captions = [self.captions[row] for row in drawn.tolist()]
        shown = self._shown(references, chosen)
        if target:
            shown = dataclasses.replace(shown, target=self._seen_target(drawn))
        if self.looks is not None:
            shown = dataclasses.replace(shown, style=self.looks[drawn].float()[:, None])
        return Pairs(
            latents=self.latents[drawn].float(),
            captions=tuple(said[int(share * len(said))] for said, share in zip(captions, told, strict=True)),
            shown=self._turned(shown, drawn, references),
            weights=None if self.weights is None else self.weights[drawn].float(),
            masks=None if self.masks is None else self.masks[drawn].float(),
            subjects=torch.tensor(chosen),
            scenes=None if self.scenes is None else self.scenes[drawn].float(),
            maps=None if self.maps is None else self.maps[drawn].float() / 255,
        )

    def _turned(self, shown: Shown, targets: Tensor, references: Tensor) -> Shown:
        """With how much the camera goes about the subject from each reference to the target, where that is known."""
        if self.views is None:
            return shown
        return dataclasses.replace(shown, turns=self.views[targets][:, None] - self.views[references])

    def _seen_target(self, targets: Tensor) -> Tensor:
        """`b 1 ...`, of whole pictures."""
        whole = self.features if self.whole is None else self.whole
        return whole[targets].float()[:, None]

    def _many(self, own: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """So many of a group in random order, each once before one comes again."""
        order = own[torch.randperm(len(own), generator=generator)]
        return order.repeat(-(-count // len(own)))[:count]

    def _mixed(self, own: Tensor, generator: torch.Generator) -> Tensor:
        """A group in the order in which it is drawn and shown."""
        if self.leads:
            return torch.cat([own[:1], own[1 + torch.randperm(len(own) - 1, generator=generator)]])
        return own[torch.randperm(len(own), generator=generator)]

    def _shown(self, references: Tensor, chosen: list[int]) -> Shown:
        several = bool(self.nouns) and max(len(own) for own in self.nouns) > 1
        sight = self.sight
        if several:
            # One picture, in it each subject by itself.
            parts = self.features.shape[1]
            nouns = tuple((*self.nouns[index], *[""] * (parts - len(self.nouns[index]))) for index in chosen)
            return Shown(sight=sight.map(lambda known: known[references[:, 0]].float()), nouns=nouns)
        nouns = tuple(self.nouns[index] * references.shape[1] for index in chosen) if self.nouns else ()
        captions = tuple(tuple(self.captions[row][0] for row in rows) for rows in references.tolist())
        return Shown(sight=sight.map(lambda known: known[references].float()), nouns=nouns, captions=captions)


@torch.no_grad()
def encode_subjects(
    subjects: Sequence[Subjects],
    backbone: AbstractBackbone,
    encoder: PictureEncoder,
    reporter: Reporter,
    *,
    cut: bool = False,
    scenes: bool = False,
    details: Literal["none", "edges", "whole"] = "none",
    latents_too: bool = False,
    views: bool = False,
    maps: MapKinds = (),
    whole: bool = False,
    styles: bool = False,
) -> PairData:
    """Latents of the largest centred squares at the base's resolution, and features of the whole photos.

    Of photos of several subjects, each is seen by itself, in a square around its mask.

    Args:
        subjects: from `read_subjects`.
        backbone: encodes latents.
        encoder: of the references.
        reporter: hears the progress.
        cut: also look at the subjects alone, in those photos whose masks are known.
        scenes: keep the pictures themselves.
        details: what is seen of subjects as pixels.
        latents_too: show references as latents, too.
        views: tell from where photos were taken.
        maps: kinds of condition maps that are read, too.
        whole: also look at whole photos of several subjects.
        styles: also look at photos without their subjects.
    """
    photos = [photo for own in subjects for photo in _of_one(own)]
    parts = max(len(own.nouns) for own in subjects) if any(own.nouns for own in subjects) else 1
    cut = cut and any(photo.mask is not None or photo.parts is not None for photo in photos)
    latents, sights, kept, wholes, styled = [], [], [], [], []
    for first in range(0, len(photos), _BATCH):
        some = photos[first : first + _BATCH]
        squares = torch.stack([square(photo.image, backbone.resolution) for photo in some])
        latents.append(backbone.encode_images(squares.to(backbone.device, backbone.dtype)).half().cpu())
        sights.append(_seen(some, parts, encoder, cut))
        if scenes:
            kept.append(squares.half())
        if details != "none":
            sights[-1] = with_details(sights[-1], some, backbone.resolution, edges=details == "edges")
        if whole and parts > 1:
            wholes.append(_seen(some, 1, encoder, False))
        if styles:
            styled.append(looks(some, encoder).half().cpu())
        reporter.progress("encode", first + len(some), len(photos))
    seen = Sight.cat(sights)
    firsts = torch.tensor([0, *(len(own.photos) for own in subjects)]).cumsum(0).tolist()
    masks = [_cells(photo, parts, backbone) for photo in photos]
    return PairData(
        latents=torch.cat(latents),
        features=seen.features,
        cut=seen.cut,
        cover=seen.cover,
        detail=seen.detail,
        scenes=torch.cat(kept) if scenes else None,
        shows_latents=latents_too,
        views=read_views([photo.path for photo in photos]) if views else None,
        whole=Sight.cat(wholes).features if wholes else None,
        looks=torch.cat(styled) if styled else None,
        captions=[(photo.caption or "",) for photo in photos],
        groups=[torch.arange(a, a + len(own.photos)) for a, own in zip(firsts[:-1], subjects, strict=True)],
        nouns=[own.nouns for own in subjects] if all(own.nouns for own in subjects) else (),
        masks=torch.stack(masks) if all(mask is not None for mask in masks) else None,  # type: ignore[arg-type]
        maps=torch.stack([_levels(photo, maps, backbone.resolution) for photo in photos]) if maps else None,
    )


def _levels(photo: Photo, kinds: MapKinds, side: int) -> Tensor:
    """A photo's maps in the square that is drawn, `c side side`, 8-bit levels."""
    return (255 * stacked(maps_of(photo, kinds), kinds, (side, side))).round().to(torch.uint8)


def _of_one(own: Subjects) -> Sequence[Photo]:
    """The photos; of one subject, its masks are where any of them is."""
    return own.photos if len(own.nouns) > 1 else [photo.but(parts=None) for photo in own.photos]


def _seen(photos: Sequence[Photo], parts: int, encoder: PictureEncoder, cut: bool) -> Sight:
    """Of each photo `...`, or, where some show several subjects, of each of them `parts ...`; half precision."""
    told = encoder.of_files(photos) if parts == 1 else None
    if told is not None:
        return told.map(lambda tensor: tensor.cpu().half())
    single = [_views(photo, parts) for photo in photos]
    flat = [view for views in single for view in views]
    sights = []
    for group in _alike(flat):
        images = torch.stack([flat[index][0] for index in group])
        masks = [torch.ones_like(image[:1]) if mask is None else mask for image, mask in (flat[i] for i in group)]
        sights.append(encoder.sight(images, torch.stack(masks) if cut else None, cut=cut))
    order = torch.tensor([index for group in _alike(flat) for index in group]).argsort()
    seen = Sight.cat(sights).map(lambda tensor: tensor.cpu()[order].half())
    return seen if parts == 1 else seen.map(lambda tensor: tensor.unflatten(0, (-1, parts)))


def _alike(views: Sequence[tuple[Tensor, Tensor | None]]) -> list[list[int]]:
    """Which of them have the same size, together."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for index, (image, _) in enumerate(views):
        sizes.setdefault(tuple(image.shape), []).append(index)
    return list(sizes.values())


def _views(photo: Photo, parts: int) -> list[tuple[Tensor, Tensor | None]]:
    """What is looked at, and its mask: the photo, or a square around each of several subjects."""
    if parts == 1:
        return [(photo.image, photo.mask)]
    masks = photo.parts if photo.parts is not None else photo.mask
    if masks is None:
        return [(photo.image, None)] * parts
    views: list[tuple[Tensor, Tensor | None]] = [around(photo.image, mask[None]) for mask in masks]
    return (views + [views[0]] * parts)[:parts]


def around(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The square around a mask, with a margin, as far as the picture reaches.

    Args:
        image: `3 h w`.
        mask: `1 h w` in [0, 1]; an empty one leaves all as it is.
    """
    if not (mask > 0.5).any():
        return image, mask
    height, width = mask.shape[1:]
    x0, y0, x1, y1 = bounding_box(mask[None])
    side = round((1 + 2 * _MARGIN) * max(x1 - x0, y1 - y0))
    tall, wide = min(side, height), min(side, width)
    top = min(max((y0 + y1 - tall) // 2, 0), height - tall)
    left = min(max((x0 + x1 - wide) // 2, 0), width - wide)
    return image[:, top : top + tall, left : left + wide], mask[:, top : top + tall, left : left + wide]


def _cells(photo: Photo, parts: int, backbone: AbstractBackbone) -> Tensor | None:
    """Share of every latent cell that each subject covers, `parts h w`, half; None: the photo has no masks."""
    masks = photo.parts if photo.parts is not None else photo.mask
    if masks is None:
        return None
    shares = (square(2 * masks - 1, backbone.resolution) + 1) / 2
    cells = F.avg_pool2d(shares, backbone.vae_factor)
    empty = cells.new_zeros(max(0, parts - len(cells)), *cells.shape[1:])
    return torch.cat([cells, empty])[:parts].half()


def square(image: Tensor, side: int) -> Tensor:
    """The largest centred square of `c h w` in [-1, 1], resized to `side`."""
    height, width = image.shape[1:]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    cut = image[None, :, top : top + short, left : left + short]
    return F.interpolate(cut, size=(side, side), mode="bicubic", antialias=True)[0].clamp(-1, 1)
