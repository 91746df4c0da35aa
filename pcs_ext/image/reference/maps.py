"""Condition maps: pictures that say where things of the picture that is drawn shall be, beside photos of what they are.

Maps of a photo `NAME.jpg` lie beside it in folders that are named after their kinds: `depth/NAME.png`, as tools that
make them write a folder of the same names. Edges are found where there is no such file; the mask is `NAME_mask.png`;
of landmarks there may be their points in `landmarks/NAME.txt`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import ConfigError, PhotoError, UsageError
from pcs_ext.image.data import Photo, read_photo
from pcs_ext.image.data.photos import SUFFIXES
from pcs_ext.image.edges import canny
from pcs_ext.image.reference.landmarks import LANDMARKS, GivenLandmarks, read_points

MapKind = Literal["edges", "depth", "normals", "segmentation", "pose", "mask", "photo", "landmarks"]
"""`photo`: a picture itself, of which a map is drawn."""
CHANNELS: dict[MapKind, int] = {
    "edges": 1, "depth": 1, "normals": 3, "segmentation": 3, "pose": 3, "mask": 1, "photo": 3, "landmarks": 3,
}  # fmt: skip
"""Of a map of each kind: grey ones have one."""
MapKinds = tuple[MapKind, ...]
_FOUND_IN = "edges-of"
"""Stands for a kind where somebody gives a photo whose edges shall be found."""
_POINTS = ".txt"
"""Suffix of landmarks that are not drawn yet."""
_BESIDE = "landmarks-of"
"""Stands for a kind where somebody gives a photo beside which landmarks lie."""
_OF: dict[str, MapKind] = {_FOUND_IN: "edges", _BESIDE: "landmarks"}


def channels(kinds: Sequence[MapKind]) -> int:
    """Of maps of those kinds one behind the other."""
    return sum(CHANNELS[kind] for kind in kinds)


def check_kinds(kinds: Sequence[str]) -> None:
    """See that kinds are known and named once.

    Raises:
        ConfigError: they are not.
    """
    known = get_args(MapKind)
    if not set(kinds) <= set(known) or len(set(kinds)) < len(kinds):
        raise ConfigError(f"maps must be different ones of {', '.join(known)}, got {', '.join(kinds) or 'none'}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenMap:
    """A map as somebody gave it."""

    picture: Tensor
    """`3 h w` in [-1, 1] of any size, as a photo."""
    photo: bool = False
    """It is a photo whose edges are the map."""

    def at(self, kind: MapKind, size: tuple[int, int]) -> Tensor:
        """`c h w` in [0, 1]: the largest part of its middle that has the shape of `size`, resized to it."""
        fitted = filled(self.picture, size)
        if self.photo:
            return canny(fitted[None])[0]
        shares = (fitted + 1) / 2
        return shares if CHANNELS[kind] == 3 else shares.mean(0, keepdim=True)


Given: TypeAlias = GivenMap | GivenLandmarks
"""A map of any kind."""


def filled(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """The largest part in the middle of `c h w` that has the shape of `size` (height, width), resized to it."""
    height, width = picture.shape[1:]
    scale = min(height / size[0], width / size[1])
    tall, wide = min(height, round(scale * size[0])), min(width, round(scale * size[1]))
    top, left = (height - tall) // 2, (width - wide) // 2
    part = picture[None, :, top : top + tall, left : left + wide]
    return F.interpolate(part, size=size, mode="bilinear", antialias=True)[0].clamp(-1, 1)


def stacked(given: Mapping[MapKind, Given], kinds: Sequence[MapKind], size: tuple[int, int]) -> Tensor:
    """Maps of some kinds one behind the other, `c h w` in [0, 1]; zeros for those that nobody gave.

    Args:
        given: by kind.
        kinds: in the order of the channels.
        size: height and width in pixels.
    """
    return torch.cat(
        [given[kind].at(kind, size) if kind in given else torch.zeros(CHANNELS[kind], *size) for kind in kinds]
    )


def maps_of(photo: Photo, kinds: Sequence[MapKind]) -> dict[MapKind, Given]:
    """What is known of a photo of the training: files, its mask, and edges that are found.

    A picture that was made of another one (`NAME_before.png`, see `albums_of_maps`) is drawn after that one alone,
    where photos are among the kinds.

    Raises:
        PhotoError: a file cannot be read, or has another shape than its photo.
    """
    if "photo" in kinds and photo.before is not None:
        return {"photo": GivenMap(picture=photo.before)}
    found: dict[MapKind, Given] = {}
    for kind in kinds:
        file = map_file(photo.path, kind)
        if file is not None:
            found[kind] = _read(file, photo)
        elif kind == "mask" and photo.mask is not None:
            found[kind] = GivenMap(picture=(2 * photo.mask - 1).expand(3, -1, -1))
        elif kind == "edges":
            found[kind] = GivenMap(picture=photo.image, photo=True)
    return found


def albums_of_maps(photos: Sequence[Photo], kinds: Sequence[MapKind]) -> list[tuple[Photo, ...]]:
    """The way back: of photos of one album, for every kind of which two or more are known an album of those maps.

    Args:
        photos: of one album.
        kinds: of its maps.

    Returns:
        Pictures to draw, each with the photo that it is a map of as `before`.
    """
    albums = []
    for kind in kinds:
        if kind in ("photo", "mask"):
            continue
        made = [(photo, maps_of(photo, (kind,)).get(kind)) for photo in photos]
        drawn = [_as_photo(photo, kind, given) for photo, given in made if given is not None]
        albums += [tuple(drawn)] if len(drawn) > 1 else []
    return albums


def _as_photo(photo: Photo, kind: MapKind, given: Given) -> Photo:
    height, width = photo.size
    picture = 2 * given.at(kind, (height, width)).expand(3, -1, -1) - 1
    return dataclasses.replace(photo, image=picture, mask=None, parts=None, before=photo.image)


def map_file(photo: Path, kind: MapKind) -> Path | None:
    """The file that holds a photo's map of that kind, by its name; None: there is none, or a mask or photo is meant."""
    folder = photo.parent / kind
    if kind in ("mask", "photo") or not folder.is_dir():
        return None
    suffixes = {*SUFFIXES, _POINTS} if kind == LANDMARKS else SUFFIXES
    files = sorted(file for file in folder.iterdir() if file.stem == photo.stem and file.suffix.lower() in suffixes)
    return files[0] if files else None


def check_maps(photos: Sequence[Photo], kinds: Sequence[MapKind], folder: Path) -> None:
    """See that every kind is known of some photo.

    Args:
        photos: of the training.
        kinds: that shall be learned.
        folder: of the training, for the message.

    Raises:
        PhotoError: none has a map of a kind.
    """
    for kind in kinds:
        known = kind in ("edges", "photo") or any(
            photo.mask is not None if kind == "mask" else map_file(photo.path, kind) is not None for photo in photos
        )
        if not known:
            where = "NAME_mask.png beside it" if kind == "mask" else f"{kind}/NAME.png in its folder"
            raise PhotoError(
                f"no photo in {folder} has a map of kind {kind}; expected {where}. Make them with a tool of your "
                'choice, or take the kind out of "maps" of the adapter with --config.'
            )


def _read(file: Path, photo: Photo) -> Given:
    if file.suffix.lower() == _POINTS:
        height, width = photo.size
        return GivenLandmarks(points=read_points(file), shape=(height, width))
    return GivenMap(picture=_like(file, photo))


def _like(file: Path, photo: Photo) -> Tensor:
    picture = read_photo(file).image
    height, width = photo.size
    if abs(picture.shape[2] / picture.shape[1] - width / height) > 0.02 * width / height:
        raise PhotoError(
            f"{file} is {picture.shape[2]} x {picture.shape[1]} but its photo is {width} x {height}; expected the same "
            "shape."
        )
    return picture


def read_given(texts: Sequence[str], kinds: Sequence[MapKind], *, one: bool = False) -> dict[MapKind, Given]:
    """Maps as people name them in a command: `depth=room.png`, `edges-of=photo.jpg`, `landmarks-of=photo.jpg`.

    Args:
        texts: of `--reference-map`.
        kinds: that the adapter reads.
        one: whether it reads one of them at a time.

    Raises:
        UsageError: none of those kinds, one twice, or several where one is read.
        PhotoError: a file cannot be read, or a photo has no landmarks beside it.
    """
    if texts and not kinds:
        raise UsageError("this reference adapter reads no condition maps; leave out --reference-map.")
    found: dict[MapKind, Given] = {}
    for text in texts:
        name, _, file = text.partition("=")
        wanted = _OF.get(name, name)
        kind: MapKind | None = next((known for known in kinds if known == wanted), None)
        if kind is None or not file:
            able = ", ".join(
                [f"{known}=FILE" for known in kinds] + [f"{of}=PHOTO" for of, known in _OF.items() if known in kinds]
            )
            raise UsageError(f"--reference-map {text} is no map that this adapter reads; expected {able}.")
        if kind in found:
            raise UsageError(f"--reference-map names {kind} twice; one picture has one map of a kind.")
        if found and one:
            raise UsageError(
                f"this reference adapter reads one map at a time, --reference-map names {', '.join((*found, kind))}."
            )
        found[kind] = _named(name, Path(file).expanduser())
    return found


def _named(name: str, file: Path) -> Given:
    """The map of `NAME=FILE`."""
    if name == _BESIDE:
        photo = read_photo(file)
        beside = map_file(file, LANDMARKS)
        if beside is None:
            raise PhotoError(
                f"{file} has no landmarks beside it; expected {LANDMARKS}/{file.stem}.txt. Write it, or find them by a "
                "detector with pcs-ext reference landmarks."
            )
        return _read(beside, photo)
    if name == LANDMARKS and file.suffix.lower() == _POINTS:
        return GivenLandmarks(points=read_points(file))
    return GivenMap(picture=read_photo(file).image, photo=name == _FOUND_IN)


def one_of(maps: Tensor, kinds: Sequence[MapKind], generator: torch.Generator) -> Tensor:
    """Of every row's maps one by chance, zeros in place of the others; of those that are not empty, if there are any.

    Args:
        maps: `b c h w`.
        kinds: one behind the other.
        generator: the only source of randomness.
    """
    chances = torch.rand(len(maps), len(kinds), generator=generator)
    parts = maps.split([CHANNELS[kind] for kind in kinds], dim=1)
    there = torch.stack([part.flatten(1).amax(1) > 0 for part in parts], dim=1)
    chosen = torch.where(there, chances, chances - 1).argmax(1)
    return torch.cat([part * (chosen == index)[:, None, None, None] for index, part in enumerate(parts)], dim=1)


def as_picture(maps: Tensor, kinds: Sequence[MapKind]) -> Tensor:
    """Maps of which one is not empty as one picture: `b c h w` -> `b 3 h w`, grey ones repeated."""
    parts = maps.split([CHANNELS[kind] for kind in kinds], dim=1)
    return torch.stack([part.expand(-1, 3, -1, -1) for part in parts]).sum(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropping:
    """Which maps of a training pair are told (Composer, arXiv 2302.09778, section 3.2; Uni-ControlNet)."""

    keep_all: float = 1.0
    """Share of pairs with all of them."""
    drop_all: float = 0.0
    """Share with none."""
    drop_each: float = 0.0
    """Of the rest, the share that each of them is left out of."""

    def __call__(self, maps: Tensor, kinds: Sequence[MapKind], generator: torch.Generator) -> Tensor:
        """`b c h w`, with zeros for what is left out."""
        chance = torch.rand(len(maps), 1, generator=generator)
        kept = torch.rand(len(maps), len(kinds), generator=generator) >= self.drop_each
        kept = torch.where(chance < self.keep_all + self.drop_all, chance < self.keep_all, kept)
        counts = torch.tensor([CHANNELS[kind] for kind in kinds])
        return maps * kept.repeat_interleave(counts, 1)[..., None, None].to(maps)
