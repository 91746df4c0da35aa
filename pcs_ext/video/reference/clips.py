"""What adapters learn from that show clip models photos: clips in groups, each of one subject, and pictures of it."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.errors import InputError, PhotoError, UsageError
from pcs_ext.image.data import Photo, find_photos
from pcs_ext.image.levels import in_unit_range
from pcs_ext.image.reference.albums import NOUN_FILE, read_nouns
from pcs_ext.image.reference.encoder import PictureEncoder
from pcs_ext.image.reference.nouns import names
from pcs_ext.image.reference.pairs import PairData, Pairs
from pcs_ext.image.reference.shown import Sight
from pcs_ext.reporter import Reporter
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.pictures import covering
from pcs_ext.video.reference.base import ShownWithLatents
from pcs_ext.video.reference.tracks import ClipTrack, Tracking, directions_of, is_track, track_of
from pcs_ext.video.stills import is_still
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
    clips = [path for path in files if path.suffix.lower() in SUFFIXES and path not in stills and not is_track(path)]
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
    """Of a clip that is drawn, or latents along time."""
    stride: int = 1
    """Frames from one of them to the next."""
    tracks: Sequence[ClipTrack] = ()
    """What else is known of each clip; empty: nobody asks."""
    pyramid: Sequence[Tensor] = ()
    """Latents of the pictures in other sizes, `n c h_i w_i` each."""
    frozen: float = 0.0
    """Share of drawn clips that are one of their frames all the time."""
    from_the_start: bool = False
    """Whether clips are drawn from their first latent on, which stands for fewer frames than the others."""

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
        stretches = [self._frames(first, generator) for _, first in picked]
        clips = [self.clips[clip][:, rows] for (clip, _), rows in zip(picked, stretches, strict=True)]
        tracks = [
            self.tracks[clip].along(rows) for (clip, _), rows in zip(picked, stretches, strict=True) if self.tracks
        ]
        own = [self.nouns[self.owners[clip]] for clip, _ in picked] if self.nouns else []
        sight = Sight(features=self.features, cut=self.cut, cover=self.cover)
        shown = ShownWithLatents(
            sight=sight.map(lambda known: known[rows].float()),
            nouns=tuple(noun * count for noun in own),
            latents=self.latents[rows].float(),
            noise=torch.randn(batch, *self.latents.shape[1:], generator=generator),
            pyramid=tuple(level[rows].float() for level in self.pyramid),
            directions=directions_of(tracks) if tracks else None,
        )
        said = tuple(self.told[clip] for clip, _ in picked)
        return Pairs(latents=torch.stack(clips).float(), captions=said, shown=shown, weights=None)

    def _stretch(self, generator: torch.Generator) -> tuple[int, int]:
        """A clip and its first frame."""
        group = int(torch.randint(len(self.groups), (), generator=generator))
        own = [index for index, owner in enumerate(self.owners) if owner == group]
        clip = own[int(torch.randint(len(own), (), generator=generator))]
        starts = 1 if self.from_the_start else self.clips[clip].shape[1] - (self.frames - 1) * self.stride
        return clip, int(torch.randint(starts, (), generator=generator))

    def _frames(self, first: int, generator: torch.Generator) -> list[int]:
        """Of a stretch, or one of them so many times."""
        rows = [first + index * self.stride for index in range(self.frames)]
        if self.frozen == 0 or float(torch.rand((), generator=generator)) >= self.frozen:
            return rows
        return [rows[int(torch.randint(self.frames, (), generator=generator))]] * self.frames

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
    tracking: Tracking | None = None,
    frozen: float = 0.0,
    pyramid: Sequence[float] = (),
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
        tracking: what else is asked of clips; None: nothing.
        frozen: see `ClipData`.
        pyramid: in which other sizes pictures are encoded, too, as multiples of `backbone.resolution`.

    Raises:
        InputError: a clip cannot be used, is too short, or lacks what is asked.
        UsageError: frames or stride that the backbone's autoencoder cannot encode.
    """
    side, span, whole = backbone.resolution, (frames - 1) * stride + 1, backbone.time_factor > 1
    if whole:
        _check_whole(backbone, frames, stride, frozen)
    cut = cut and all(own.photos and all(photo.mask is not None for photo in own.photos) for own in subjects)
    clips: list[Tensor] = []
    owners: list[int] = []
    tracks: list[ClipTrack] = []
    asked = tracking is not None and tracking != Tracking()
    pictures = _Pictures(encoder, cut, pyramid)
    for group, own in enumerate(subjects):
        read = read_training_clips(own.clips, size=(side, side), multiple_of=backbone.vae_factor, reporter=reporter)
        for file, clip in zip(own.clips, map(in_unit_range, read), strict=True):
            if clip.shape[1] < span:
                raise InputError(f"{file.path} has {clip.shape[1]} frames; {span} are needed. Ask for fewer --frames.")
            drawn = clip[:, : backbone.whole_frames(span)] if whole else clip
            latents = backbone.encode_clips(drawn[None].to(backbone.device, backbone.dtype))[0].half().cpu()
            if not own.photos:
                pictures.add_frames(group, len(clips), clip, latents, backbone)
            if asked and tracking is not None:
                track = track_of(file, clip, tracking, backbone.vae_factor)
                tracks.append(track.along(list(range(0, span, backbone.time_factor))) if whole else track)
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
        frames=backbone.latent_frames(frames),
        stride=stride,
        tracks=tracks,
        frozen=frozen,
        from_the_start=whole,
        pyramid=[torch.cat(level) for level in zip(*pictures.pyramids, strict=True)],
    )


def _check_whole(backbone: AbstractVideoBackbone, frames: int, stride: int, frozen: float) -> None:
    """See that a backbone whose autoencoder is causal can encode clips so that any of them may be drawn."""
    if stride > 1 or frozen > 0 or backbone.whole_frames(frames) != frames:
        raise UsageError(
            f"{backbone.name} encodes a clip as a whole: expected stride 1, frozen 0 and a multiple of "
            f"{backbone.time_factor} frames and one more, got {stride}, {frozen} and {frames}; take "
            f"{backbone.whole_frames(frames)} frames."
        )


class _Pictures:
    """Pictures that may be shown, one after another."""

    def __init__(self, encoder: PictureEncoder, cut: bool, pyramid: Sequence[float]) -> None:
        self.encoder, self.cut, self.pyramid = encoder, cut, pyramid
        self.sights: list[Sight] = []
        self.latents: list[Tensor] = []
        self.owners: list[int] = []
        self.places: list[tuple[int, int]] = []
        self.pyramids: list[list[Tensor]] = []

    def add_frames(
        self, group: int, number: int, clip: Tensor, latents: Tensor, backbone: AbstractVideoBackbone
    ) -> None:
        """Of a clip `3 f h w`, evenly spread."""
        count = clip.shape[1]
        chosen = torch.linspace(0, count - 1, min(_FRAMES, count)).round().long()
        frames, factor = clip[:, chosen].transpose(0, 1), backbone.time_factor
        own = (
            latents[:, chosen].transpose(0, 1)
            if factor == 1
            else _latents(frames, (clip.shape[-2], clip.shape[-1]), backbone)
        )
        # By latents along time: the first stands for one frame, every other for `factor`.
        places = [(number, -(-int(frame) // factor)) for frame in chosen]
        self._add(group, self.encoder.sight(frames, None, cut=False), own, places)
        self.pyramids.append(
            [_latents(frames, pyramid_size(clip.shape[-2:], share, backbone), backbone) for share in self.pyramid]
        )

    def add_photo(self, group: int, photo: Photo, backbone: AbstractVideoBackbone) -> None:
        """With the subject alone in its latents, where its mask is known."""
        mask = None if photo.mask is None else photo.mask[None]
        side = backbone.resolution
        latents = photo_latents(photo, (side, side), backbone).half().cpu()
        self._add(group, self.encoder.sight(photo.image[None], mask, cut=self.cut), latents, [(-1, -1)])
        sizes = [pyramid_size((side, side), share, backbone) for share in self.pyramid]
        self.pyramids.append([photo_latents(photo, size, backbone).half().cpu() for size in sizes])

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
    return backbone.encode_images(covering(image, size).to(backbone.device, backbone.dtype)).float()


def pyramid_size(sides: Sequence[int], share: float, backbone: AbstractVideoBackbone) -> tuple[int, int]:
    """Height and width in pixels of pictures so many times a clip's sides, whole latent cells."""
    height, width = (max(1, round(share * side / backbone.vae_factor)) * backbone.vae_factor for side in sides)
    return height, width


def _latents(pictures: Tensor, size: tuple[int, int], backbone: AbstractVideoBackbone) -> Tensor:
    """Of pictures `n 3 h w` in another size, half."""
    return backbone.encode_images(covering(pictures, size).to(backbone.device, backbone.dtype)).half().cpu()
