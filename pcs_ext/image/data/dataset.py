"""Batches of augmented photos; image, mask, valid area and caption stay together."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, PhotoError
from pcs_ext.image.cameras import Cameras, of_squares
from pcs_ext.image.concept import SUBJECT, Concept
from pcs_ext.image.data.cutout import moved_about
from pcs_ext.image.data.photos import Photo
from pcs_ext.image.grid import joined
from pcs_ext.image.types import Batch


@config
class Augmentation:
    """How a photo varies from step to step."""

    flip: bool = False
    """Mirror half of the time. Off for subjects with text or a left and a right."""
    crop: Literal["center", "random"] = "center"
    """Which part of a photo of another shape."""
    aspect: int = 1
    """Width over height of what is trained on: 1, or 2 for panoramas."""
    roll: bool = False
    """Turn about the vertical axis by a random angle; for panoramas, whose ends meet."""
    relocate: bool = False
    """Custom Diffusion's random scale and place (arXiv 2212.04488, supplement): 2/3 of the time smaller, in
    [1/3, 1], else larger, in [1.2, 1.4]; the caption says so and the loss is limited to the photo."""
    cutout: bool = False
    """PACGen's (arXiv 2306.17154): the subject, cut out by its mask, at a random size and place on gray. Photos without
    a mask stay as they are."""
    pack: int = 1
    """So many photos per side are packed into one picture, each at its part of the side, and treated apart by the
    denoiser (DreamBooth++). The first one's caption is that of all."""

    def __post_init__(self) -> None:
        if self.pack < 1 or (self.pack > 1 and (self.aspect != 1 or self.roll or self.relocate or self.cutout)):
            raise ConfigError(
                f"pack must be at least 1, got {self.pack}; packed photos are squares: set aspect to 1, and roll, "
                "relocate and cutout to false."
            )
        if self.cutout and (self.aspect != 1 or self.roll or self.relocate):
            raise ConfigError("cutout moves subjects in squares; set aspect to 1, and roll and relocate to false.")
        if self.aspect not in (1, 2):
            raise ConfigError(f"aspect must be 1 (squares) or 2 (panoramas), got {self.aspect}.")
        if self.relocate and (self.aspect != 1 or self.roll):
            raise ConfigError("relocate moves squares; set it to false, or aspect to 1 and roll to false.")


Sample: TypeAlias = tuple[Tensor, Tensor | None, Tensor, str, str | None]
"""Image, masks, valid area, caption, and key; see `Batch`."""


class SubjectDataset:
    """A subject's photos at one resolution.

    Args:
        photos: decoded photos.
        concept: gives the captions of photos that have none of their own.
        resolution: height of the batches in pixels; their width is that times the augmentation's aspect.
        augmentation: how they vary.
        estimated: masks will be put in by `put_masks` before the first batch; those of the photos do not count.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        concept: Concept,
        *,
        resolution: int,
        augmentation: Augmentation,
        estimated: bool = False,
    ) -> None:
        if not photos:
            raise PhotoError("a subject needs at least one photo, got none.")
        for photo in photos if concept.parts and not estimated else ():
            count = 0 if photo.parts is None else len(photo.parts)
            if count != len(concept.parts):
                raise PhotoError(
                    f"{photo.path} has {count} numbered masks, but there are {len(concept.parts)} subjects "
                    f"({', '.join(concept.parts)}); expected {photo.path.stem}_mask1.png and so on, one for each."
                )
            if not (photo.parts > 0.5).any():  # type: ignore[operator]
                raise PhotoError(f"all numbered masks of {photo.path} are black; it shows none of the subjects.")
        self.photos, self.concept = list(photos), concept
        self.resolution, self.augmentation = resolution // augmentation.pack, augmentation
        self._crops: dict[int, tuple[Tensor, Tensor | None]] = {}

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """`size` photos drawn without replacement as long as there are enough; everything random from `generator`.

        Where photos are packed, `size` pictures of several.
        """
        pack = self.augmentation.pack
        order: list[int] = []
        while len(order) < size * pack**2:
            order += torch.randperm(len(self.photos), generator=generator).tolist()
        order = order[: size * pack**2]
        samples = [self._sample(index, generator) for index in order]
        apart = self._stacked(order, samples)
        return apart if pack == 1 else packed(apart, pack)

    def _stacked(self, order: list[int], samples: list[Sample]) -> Batch:
        masks = [mask for _, mask, *_ in samples]
        parts = self.concept.parts
        has_mask = any(mask is not None for mask in masks)
        ones = torch.ones(1, *samples[0][0].shape[1:])
        keys = [key for *_, key in samples]
        weights = [self.photos[index].weight for index in order]
        return Batch(
            images=torch.stack([image for image, *_ in samples]),
            captions=tuple(caption for _, _, _, caption, _ in samples),
            masks=torch.stack(
                [ones if m is None else self._shown(m, s[3]) for m, s in zip(masks, samples, strict=True)]
            )
            if has_mask
            else None,
            part_masks=torch.stack([mask for mask in masks if mask is not None]) if parts and has_mask else None,
            valid=torch.stack([valid for _, _, valid, _, _ in samples]) if self.augmentation.relocate else None,
            keys=None if any(key is None for key in keys) else tuple(str(key) for key in keys),
            weights=None if all(weight == 1 for weight in weights) else torch.tensor(weights, dtype=torch.float32),
            before=self._before(order, [str(key) for key in keys]),
            cameras=None if self.cameras is None else self.cameras[order],
        )

    def _before(self, order: list[int], keys: list[str]) -> Tensor | None:
        """What the photos were made of, cut and mirrored as they were; None where one has none or is moved about."""
        fixed = self.augmentation.crop == "center" and not (self.augmentation.roll or self.augmentation.relocate)
        earlier = [self.photos[index].before for index in order]
        if not fixed or any(before is None for before in earlier):
            return None
        pictures: list[Tensor] = []
        for index, before, key in zip(order, earlier, keys, strict=True):
            assert before is not None
            cut, _ = _crop(
                Photo(path=self.photos[index].path, image=before), self.resolution, self.augmentation.aspect, 0.5
            )
            pictures.append(cut.flip(-1) if key.endswith("/1") else cut)
        return torch.stack(pictures)

    def _shown(self, masks: Tensor, caption: str) -> Tensor:
        """Where any of the subjects is that the caption names, `1 h w`."""
        if not self.concept.parts:
            return masks.amax(0, keepdim=True)
        named = [index for index, part in enumerate(self.concept.parts) if part in caption]
        return masks[named].amax(0, keepdim=True)

    def _sample(self, index: int, generator: torch.Generator) -> Sample:
        photo, augmentation = self.photos[index], self.augmentation
        if augmentation.crop == "center":
            image, mask = self._center(index)
        else:
            place = float(torch.rand((), generator=generator))
            image, mask = _crop(photo, self.resolution, augmentation.aspect, place)
        flipped = augmentation.flip and bool(torch.rand((), generator=generator) < 0.5)
        if flipped:
            image, mask = image.flip(-1), None if mask is None else mask.flip(-1)
        if augmentation.roll:
            turn = int(torch.randint(image.shape[-1], (), generator=generator))
            image, mask = image.roll(turn, -1), None if mask is None else mask.roll(turn, -1)
        caption, valid = self.caption(index, generator), torch.ones(1, *image.shape[1:])
        fixed = augmentation.crop == "center" and not augmentation.roll
        key: str | None = f"{index}/{int(flipped)}" if fixed else None
        if augmentation.cutout and mask is not None:
            image, mask = moved_about(image, mask, generator)
            key = None
        if augmentation.relocate:
            image, mask, valid, prefix = relocate(image, mask, generator)
            caption, key = prefix + caption, None
        return image, mask, valid, caption, key

    def _center(self, index: int) -> tuple[Tensor, Tensor | None]:
        if index not in self._crops:
            self._crops[index] = _crop(self.photos[index], self.resolution, self.augmentation.aspect, 0.5)
        return self._crops[index]

    def squares(self) -> list[Tensor]:
        """What of every photo is trained on when nothing is varied, `3 s s` each."""
        return [self._center(index)[0] for index in range(len(self.photos))]

    @property
    def cameras(self) -> Cameras | None:
        """What took the squares; None where a photo's is not known, or squares are mirrored or moved about."""
        varied = self.augmentation
        moved = varied.flip or varied.crop == "random" or varied.roll or varied.relocate or varied.cutout
        known = [photo.camera for photo in self.photos if photo.camera is not None]
        if moved or varied.pack > 1 or varied.aspect > 1 or len(known) < len(self.photos):
            return None
        sizes = [photo.size for photo in self.photos]
        return of_squares(Cameras.joined(known), [size[0] for size in sizes], [size[1] for size in sizes])

    def square_masks(self) -> Tensor:
        """Where the subject is in `squares`, `n 1 s s` in [0, 1]; everywhere in photos without a mask."""
        cut = [self._center(index) for index in range(len(self.photos))]
        return torch.stack(
            [torch.ones_like(image[:1]) if mask is None else mask.amax(0, keepdim=True) for image, mask in cut]
        )

    def some(self, which: Sequence[bool]) -> "SubjectDataset | None":
        """A data set of those photos alone, keys counted anew; None where there are none."""
        chosen = [photo for photo, taken in zip(self.photos, which, strict=True) if taken]
        if not chosen:
            return None
        resolution = self.resolution * self.augmentation.pack
        return SubjectDataset(chosen, self.concept, resolution=resolution, augmentation=self.augmentation)

    def of_part(self, part: int) -> "SubjectDataset":
        """A data set of the photos that show one of several subjects, keys counted anew.

        Raises:
            PhotoError: none does.
        """
        shows = [photo.parts is not None and bool(photo.parts[part].max() > 0.5) for photo in self.photos]
        found = self.some(shows)
        if found is None:
            raise PhotoError(
                f"no photo shows {self.concept.parts[part]}: each NAME_mask{part + 1}.png is black or missing; put "
                "white where it is."
            )
        return found

    def put_masks(self, masks: Sequence[Tensor]) -> None:
        """Give every photo new masks of its square: `k s s` in [0, 1], one for each part of the concept."""
        for index, own in enumerate(masks):
            self._crops[index] = (self._center(index)[0], own)
            self.photos[index] = dataclasses.replace(self.photos[index], mask=own.amax(0, keepdim=True), parts=own)

    def caption(self, index: int, generator: torch.Generator) -> str:
        """The photo's own caption, or a template. One that names no subject gets its name in front."""
        photo = self.photos[index]
        if photo.caption is None:
            chosen = int(torch.randint(len(self.concept.templates), (), generator=generator))
            template = self.concept.templates[chosen]
            if self.concept.parts:
                return self.concept.caption(template, self._some_parts(photo, generator))
            return self.concept.prompt(template)
        named = SUBJECT in photo.caption or any(word in photo.caption for word in self.concept.own_words)
        text = photo.caption if named else f"{SUBJECT}, {photo.caption}"
        if self.concept.inverse and bool(torch.rand((), generator=generator) < 0.5):
            text = self.concept.inverted(text)
        return self.concept.prompt(text)

    def _some_parts(self, photo: Photo, generator: torch.Generator) -> tuple[str, ...]:
        """Union sampling (Break-A-Scene, arXiv 2305.16311, section 3.2): a random number of random parts.

        Of photos that do not show all subjects, those whose masks are not black.
        """
        assert photo.parts is not None, "checked when the dataset was made"
        parts = [part for part, mask in zip(self.concept.parts, photo.parts, strict=True) if mask.max() > 0.5]
        count = 1 + int(torch.randint(len(parts), (), generator=generator))
        chosen = torch.randperm(len(parts), generator=generator)[:count].sort().values
        return tuple(parts[index] for index in chosen.tolist())


def _crop(photo: Photo, side: int, aspect: int, place: float) -> tuple[Tensor, Tensor | None]:
    """The largest part of the aspect at `place` in [0, 1] along the side that is too long, resized, anti-aliased."""
    height, width = photo.size
    edge = min(height, width // aspect)
    top, left = round((height - edge) * place), round((width - edge * aspect) * place)
    part = photo.part(top, left, edge, edge * aspect)

    def resized(values: Tensor) -> Tensor:
        size = (side, side * aspect)
        return F.interpolate(values[None], size=size, mode="bicubic", antialias=True, align_corners=False)[0]

    masks = part.mask if part.parts is None else part.parts
    mask = None if masks is None else resized(masks).clamp(0, 1)
    return resized(part.image).clamp(-1, 1), mask


def relocate(
    image: Tensor, mask: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor | None, Tensor, str]:
    """A smaller picture somewhere on gray, or a zoomed part of it.

    Args:
        image: `3 s s`.
        mask: `k s s` or None.
        generator: of scale and place.

    Returns:
        image, mask, valid area `1 s s` (shrunk by 1/16 of the side against bleeding), and a caption prefix.
    """
    side = image.shape[-1]
    shrink = bool(torch.rand((), generator=generator) < 0.66)
    scale = (
        (1 / 3 + 2 / 3 * float(torch.rand((), generator=generator)))
        if shrink
        else (1.2 + 0.2 * float(torch.rand((), generator=generator)))
    )
    new = max(8, round(side * scale))
    room = abs(side - new) + 1
    top, left = (int(torch.randint(room, (), generator=generator)) for _ in range(2))
    stacked = image if mask is None else torch.cat([image, mask])
    resized = F.interpolate(stacked[None], size=(new, new), mode="bicubic", antialias=True, align_corners=False)[0]
    if not shrink:
        cut = resized[:, top : top + side, left : left + side]
        valid, prefix = torch.ones(1, side, side), "close up, "
    else:
        cut = torch.zeros(stacked.shape)
        cut[:, top : top + new, left : left + new] = resized
        margin = math.ceil(side / 16) if new > side / 4 else 0
        valid = torch.zeros(1, side, side)
        valid[:, top + margin : top + new - margin, left + margin : left + new - margin] = 1
        prefix = "far away, " if scale < 0.6 else ""
    return cut[:3].clamp(-1, 1), None if mask is None else cut[3:].clamp(0, 1), valid, prefix


def packed(batch: Batch, side: int) -> Batch:
    """Pictures of `side` by `side` photos each, rows first, with the first one's caption.

    Args:
        batch: of squares, so many times as many as there shall be pictures.
        side: photos per side.
    """
    group = side**2
    return Batch(
        images=joined(batch.images, side),
        captions=batch.captions[::group],
        masks=None if batch.masks is None else joined(batch.masks, side),
        part_masks=None if batch.part_masks is None else joined(batch.part_masks, side),
        weights=None if batch.weights is None else batch.weights.unflatten(0, (-1, group)).mean(1),
        before=None if batch.before is None else joined(batch.before, side),
    )
