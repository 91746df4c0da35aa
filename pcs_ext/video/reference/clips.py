"""What adapters learn from that show clip models photos: clips in groups, each of one subject, and pictures of it."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import InputError, PhotoError
from pcs_ext.image.data import Photo, find_photos
from pcs_ext.image.reference.encoder import PictureEncoder
from pcs_ext.image.reference.nouns import names
from pcs_ext.image.reference.pairs import NOUN_FILE, PairData, Pairs, read_nouns
from pcs_ext.image.reference.shown import Sight
from pcs_ext.reporter import Reporter
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.clips import in_unit_range
from pcs_ext.video.reference.base import ShownWithLatents
from pcs_ext.video.reference.stills import is_still
from pcs_ext.video.training_clips import SUFFIXES, ClipFile, find_clips, read_training_clips

_FRAMES = 8
"""Of each clip, evenly spread, that may be shown where there are no photos."""
_MASK = re.compile(r"_mask\d*$")


@dataclasses.dataclass(frozen=True)
class ClipSubject:
    """A folder of one subject, or of one style."""

    clips: tuple[ClipFile, ...]
    photos: tuple[Photo, ...]
    """What is shown of it; none: frames of its clips are."""
    noun: str
    """Of `noun.txt`; empty: there is none."""


def read_clip_subjects(folder: Path, *, asks_noun: bool = False) -> list[ClipSubject]:
    """The clips of a folder's subfolders, a caption `NAME.txt` beside each, and the photos beside them.

    Args:
        folder: of the subfolders.
        asks_noun: nouns must be told, and captions must have them.

    Raises:
        InputError: there are no subfolders, or one has no clip.
        PhotoError: what nouns must tell is missing, or a photo cannot be used.
        UsageError: a clip has no caption.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected one with a subfolder of clips for each subject.")
    places = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not places:
        raise InputError(f"{folder} has no subfolders; expected one for each subject, with a clip of it or more.")
    return [_subject(place, asks_noun) for place in places]


def _subject(place: Path, asks_noun: bool) -> ClipSubject:
    files = sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
    stills = [path for path in files if is_still(path)]
    clips = [path for path in files if path.suffix.lower() in SUFFIXES and path not in stills]
    if not clips:
        raise InputError(f"{place} holds no clip; expected a video or an animation of one subject, or several.")
    found = find_clips(clips)
    photos = [path for path in stills if not _MASK.search(path.stem)]
    noun = "\n".join(read_nouns(place))
    if asks_noun and not noun:
        raise PhotoError(f"{place} has no {NOUN_FILE}; expected the word by which its captions name the subject: dog.")
    for clip in found:
        if asks_noun and not names(clip.prompt, noun):
            raise PhotoError(
                f"the caption of {clip.path} does not name the {noun} of {NOUN_FILE}: {clip.prompt!r}. Say it there as "
                "it stands in that file."
            )
    return ClipSubject(tuple(found), tuple(find_photos(photos)) if photos else (), noun)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipData(PairData):
    """Pictures of subjects (`PairData`, whose captions stay empty), and clips of the same subjects, encoded once."""

    clips: Sequence[Tensor]
    """Latents `c f h w` of each."""
    told: Sequence[str]
    """What each shows."""
    owners: Sequence[int]
    """Which group of pictures shows its subject."""
    places: Sequence[tuple[int, int]]
    """Of every picture the clip and the frame that it is; -1: it is a photo."""
    frames: int
    """Of a clip that is drawn."""
    stride: int = 1
    """Frames from one of them to the next."""

    def draw(self, batch: int, generator: torch.Generator, *, photos: int = 1) -> Pairs:
        """A random batch: subjects evenly, of each a stretch of a clip and pictures that are not in it.

        Args:
            batch: how many clips.
            generator: the only source of randomness.
            photos: how many pictures of one subject are shown at most; how many it is this time is drawn, too.
        """
        picked = [self._stretch(generator) for _ in range(batch)]
        pools = [self._beside(clip, first) for clip, first in picked]
        most = min(photos, *(len(pool) for pool in pools))
        count = 1 if most == 1 else 1 + int(torch.randint(most, (), generator=generator))
        rows = torch.stack([pool[torch.randperm(len(pool), generator=generator)[:count]] for pool in pools])
        span = (self.frames - 1) * self.stride + 1
        clips = [self.clips[clip][:, first : first + span : self.stride] for clip, first in picked]
        own = [self.nouns[self.owners[clip]] for clip, _ in picked] if self.nouns else []
        sight = Sight(features=self.features, cut=self.cut, cover=self.cover)
        shown = ShownWithLatents(
            sight=sight.map(lambda known: known[rows].float()),
            nouns=tuple(noun * count for noun in own),
            latents=self.latents[rows].float(),
            noise=torch.randn(batch, *self.latents.shape[1:], generator=generator),
        )
        said = tuple(self.told[clip] for clip, _ in picked)
        return Pairs(latents=torch.stack(clips).float(), captions=said, shown=shown, weights=None)

    def _stretch(self, generator: torch.Generator) -> tuple[int, int]:
        """A clip and its first frame."""
        group = int(torch.randint(len(self.groups), (), generator=generator))
        own = [index for index, owner in enumerate(self.owners) if owner == group]
        clip = own[int(torch.randint(len(own), (), generator=generator))]
        starts = self.clips[clip].shape[1] - (self.frames - 1) * self.stride
        return clip, int(torch.randint(starts, (), generator=generator))

    def _beside(self, clip: int, first: int) -> Tensor:
        """Pictures that may be shown beside a stretch: photos, or frames outside of it; if there are none, any."""
        rows = self.groups[self.owners[clip]]
        last = first + (self.frames - 1) * self.stride
        free = [row for row in rows.tolist() if self.places[row][0] != clip or not first <= self.places[row][1] <= last]
        return torch.tensor(free) if free else rows


@torch.no_grad()
def encode_clip_subjects(
    subjects: Sequence[ClipSubject],
    backbone: AbstractVideoBackbone,
    encoder: PictureEncoder,
    reporter: Reporter,
    *,
    frames: int,
    stride: int = 1,
    cut: bool = False,
) -> ClipData:
    """Latents of clips, cropped to centred squares at the base's resolution, and pictures as the encoder sees them.

    Args:
        subjects: from `read_clip_subjects`.
        backbone: encodes latents.
        encoder: of the pictures.
        reporter: hears the progress.
        frames: of a clip that is drawn.
        stride: frames from one of them to the next.
        cut: also look at the subjects alone, where all pictures are photos with masks.

    Raises:
        InputError: a clip cannot be used, or is too short.
    """
    side, span = backbone.resolution, (frames - 1) * stride + 1
    cut = cut and all(own.photos and all(photo.mask is not None for photo in own.photos) for own in subjects)
    clips: list[Tensor] = []
    owners: list[int] = []
    pictures = _Pictures(encoder, cut)
    for group, own in enumerate(subjects):
        read = read_training_clips(own.clips, size=(side, side), multiple_of=backbone.vae_factor, reporter=reporter)
        for file, clip in zip(own.clips, map(in_unit_range, read), strict=True):
            if clip.shape[1] < span:
                raise InputError(f"{file.path} has {clip.shape[1]} frames; {span} are needed. Ask for fewer --frames.")
            latents = backbone.encode_clips(clip[None].to(backbone.device, backbone.dtype))[0].half().cpu()
            if not own.photos:
                pictures.add_frames(group, len(clips), clip, latents)
            clips.append(latents)
            owners.append(group)
        for photo in own.photos:
            pictures.add_photo(group, photo, backbone)
        reporter.progress("encode", group + 1, len(subjects))
    seen = Sight.cat(pictures.sights)
    return ClipData(
        latents=torch.cat(pictures.latents),
        features=seen.features,
        cut=seen.cut,
        cover=seen.cover,
        captions=[("",)] * len(pictures.owners),
        groups=[
            torch.tensor([row for row, one in enumerate(pictures.owners) if one == g]) for g in range(len(subjects))
        ],
        nouns=[(own.noun,) for own in subjects] if all(own.noun for own in subjects) else (),
        clips=clips,
        told=[file.prompt for own in subjects for file in own.clips],
        owners=owners,
        places=pictures.places,
        frames=frames,
        stride=stride,
    )


class _Pictures:
    """Pictures that may be shown, one after another."""

    def __init__(self, encoder: PictureEncoder, cut: bool) -> None:
        self.encoder, self.cut = encoder, cut
        self.sights: list[Sight] = []
        self.latents: list[Tensor] = []
        self.owners: list[int] = []
        self.places: list[tuple[int, int]] = []

    def add_frames(self, group: int, number: int, clip: Tensor, latents: Tensor) -> None:
        """Of a clip `3 f h w`, evenly spread."""
        count = clip.shape[1]
        chosen = torch.linspace(0, count - 1, min(_FRAMES, count)).round().long()
        self._add(group, self.encoder.sight(clip[:, chosen].transpose(0, 1), None, cut=False),
                  latents[:, chosen].transpose(0, 1), [(number, int(frame)) for frame in chosen])  # fmt: skip

    def add_photo(self, group: int, photo: Photo, backbone: AbstractVideoBackbone) -> None:
        """With the subject alone in its latents, where its mask is known."""
        mask = None if photo.mask is None else photo.mask[None]
        side = backbone.resolution
        latents = photo_latents(photo, (side, side), backbone).half().cpu()
        self._add(group, self.encoder.sight(photo.image[None], mask, cut=self.cut), latents, [(-1, -1)])

    def _add(self, group: int, sight: Sight, latents: Tensor, places: list[tuple[int, int]]) -> None:
        self.sights.append(sight.map(lambda tensor: tensor.cpu().half()))
        self.latents.append(latents)
        self.owners += [group] * len(places)
        self.places += places


def photo_latents(photo: Photo, size: tuple[int, int], backbone: AbstractVideoBackbone) -> Tensor:
    """Latents `1 c h w` of a photo that covers height and width in pixels, black around the subject where a mask says
    where it is."""
    image = photo.image[None]
    if photo.mask is not None:
        kept = (photo.mask[None] > 0.5).to(image)
        image = image * kept - (1 - kept)
    return backbone.encode_images(_covering(image, size).to(backbone.device, backbone.dtype)).float()


def _covering(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`1 3 h w` in [-1, 1], scaled to cover `size` and cropped at the centre."""
    height, width = image.shape[-2:]
    factor = max(size[0] / height, size[1] / width)
    tall, wide = (max(side, round(factor * own)) for side, own in zip(size, (height, width), strict=True))
    scaled = F.interpolate(image, size=(tall, wide), mode="bicubic", antialias=True).clamp(-1, 1)
    top, left = (tall - size[0]) // 2, (wide - size[1]) // 2
    return scaled[..., top : top + size[0], left : left + size[1]]
