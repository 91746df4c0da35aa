"""Landmarks: a few points of a face, or of a thing, which say where it is and how it is turned.

InstantID (arXiv 2401.07519, section 3.3) leads a picture by five: both eyes, the nose, and both corners of the mouth.
Points of a photo `NAME.jpg` lie beside it in `landmarks/NAME.txt`, five lines `x y` for each face, in shares of the
photo's width and height from its upper left corner. Nothing here finds them: people pass a detector of their own.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.errors import PhotoError, UsageError
from pcs_ext.image.data import photo_files, read_photo
from pcs_ext.image.data.photos import SUFFIXES
from pcs_ext.image.detectors import own_detector
from pcs_ext.image.levels import levels_of
from pcs_ext.reporter import Reporter, SilentReporter

LandmarkDetector = Callable[[Tensor], Tensor]
"""A photo, uint8 `3 h w`, upright, sRGB -> points `n 2` in its pixels, x before y, five for each face; none where it
finds no face."""
LANDMARKS: Literal["landmarks"] = "landmarks"
"""The kind of map, and the folder of its files."""
POINTS = 5
_MIDDLE = 2
"""Of the five points, the one that the others are joined to: the nose."""
_COLOURS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 1.0))
"""Of the points in their order; the released drawing's, as are the three numbers below."""
_STICK, _POINT = 4 / 1024, 10 / 1024
"""Half the width of a stick and radius of a point, as shares of the picture's shorter side."""
_DIM = 0.6
"""Of a stick's colour, which is its outer point's."""
_LEAST_STICK, _LEAST_POINT = 0.5, 1.5
"""In pixels, for small pictures; ours."""
_FAR = 2.0
"""Points further than this outside of the picture, in shares of it, are taken for pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenLandmarks:
    """Points of a picture, of which a map is drawn at any size."""

    points: Tensor
    """`n 2`, x and y in shares of the picture."""
    shape: tuple[int, int] | None = None
    """Height and width of the picture that they are of; None: of the one that is drawn."""

    def at(self, kind: str, size: tuple[int, int]) -> Tensor:
        """`3 h w` in [0, 1]: of the largest part of the picture's middle that has the shape of `size`."""
        assert kind == LANDMARKS, f"landmarks are no {kind}"
        return drawn(self._within(size), size)

    def _within(self, size: tuple[int, int]) -> Tensor:
        """In shares of that part."""
        if self.shape is None:
            return self.points
        height, width = self.shape
        scale = min(height / size[0], width / size[1])
        part = self.points.new_tensor([scale * size[1] / width, scale * size[0] / height])
        return (self.points - 0.5) / part + 0.5


def drawn(points: Tensor, size: tuple[int, int]) -> Tensor:
    """The map of points `n 2` in shares, `3 h w` in [0, 1]: sticks to the middle point, dimmed, and coloured points.

    Differs from the released drawing in soft edges and in sizes that go with the picture's: it was drawn for 1,024
    pixels, and is a part of a pixel on small pictures.
    """
    height, width = size
    short = min(size)
    stick, radius = max(_STICK * short, _LEAST_STICK), max(_POINT * short, _LEAST_POINT)
    rows = torch.arange(height)[:, None] + 0.5
    columns = torch.arange(width)[None] + 0.5
    at = points.float() * torch.tensor([float(width), float(height)])
    made = torch.zeros(3, height, width)
    faces = at.unflatten(0, (-1, POINTS)).tolist() if len(at) else []
    for face in faces:
        for index in (index for index in range(POINTS) if index != _MIDDLE):
            made = _over(made, _ellipse(rows, columns, face[index], face[_MIDDLE], stick), _COLOURS[index])
    made = _DIM * made
    for face in faces:
        for (x, y), colour in zip(face, _COLOURS, strict=True):
            distance = ((columns - x).square() + (rows - y).square()).sqrt()
            made = _over(made, (radius - distance + 0.5).clamp(0, 1), colour)
    return made


def _ellipse(rows: Tensor, columns: Tensor, one: Sequence[float], other: Sequence[float], half: float) -> Tensor:
    """How much of every pixel lies in the ellipse between two points, `h w` in [0, 1]."""
    (x0, y0), (x1, y1) = one, other
    length = math.hypot(x1 - x0, y1 - y0)
    along = (0.0, 1.0) if length == 0 else ((x1 - x0) / length, (y1 - y0) / length)
    x, y = columns - (x0 + x1) / 2, rows - (y0 + y1) / 2
    u, v = x * along[0] + y * along[1], y * along[0] - x * along[1]
    long = max(length / 2, half)
    # Distance to the edge, to first order: what is left of 1 over how fast it goes.
    here = ((u / long).square() + (v / half).square()).sqrt().clamp_min(1e-6)
    slope = ((u / long**2).square() + (v / half**2).square()).sqrt() / here
    return ((1 - here) / slope.clamp_min(1e-6) + 0.5).clamp(0, 1)


def _over(picture: Tensor, cover: Tensor, colour: Sequence[float]) -> Tensor:
    return torch.lerp(picture, torch.tensor(colour)[:, None, None].expand_as(picture), cover.expand_as(picture))


def read_points(file: Path) -> Tensor:
    """The points of a file, `n 2` in shares.

    Raises:
        PhotoError: it is no such file.
    """
    try:
        rows = [line.split() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        points = torch.tensor([[float(x), float(y)] for x, y in rows]).reshape(-1, 2)
    except (UnicodeDecodeError, ValueError, OSError) as error:
        raise PhotoError(f'{file} holds no points ({error}); expected lines "x y", five for each face.') from None
    if not len(points) or len(points) % POINTS:
        raise PhotoError(
            f"{file} holds {len(points)} points; expected {POINTS} for each face: both eyes, nose, both corners of the "
            "mouth."
        )
    if not bool(((points - 0.5).abs() <= _FAR).all()):
        raise PhotoError(
            f"{file} has a point at {points[(points - 0.5).abs().amax(1).argmax()].tolist()}; expected shares of the "
            "photo's width and height, 0 to 1. Divide pixels by them."
        )
    return points


def written(points: Tensor) -> bytes:
    """Points `n 2` in shares, as files hold them."""
    return "".join(f"{x:.5f} {y:.5f}\n" for x, y in points.tolist()).encode()


def load_landmark_detector(name: str) -> LandmarkDetector:
    """The detector behind `MODULE:FUNCTION`.

    Raises:
        UsageError: there is no such function.
    """
    return own_detector(name, finds="landmark", gives="five points for each face in pixels, x before y")


def find_landmarks(
    places: Sequence[Path], detector: LandmarkDetector, *, overwrite: bool = False, reporter: Reporter | None = None
) -> list[Path]:
    """Write `landmarks/NAME.txt` beside every photo in which a detector finds some; photos are only read.

    One photo is in memory at a time, and those whose file is kept are not opened: a search that was stopped goes on.

    Args:
        places: photos, or folders of photos and of subfolders of them.
        detector: finds them.
        overwrite: replace files that are there; else they are kept.
        reporter: hears the progress, and of every photo in which no face was found.

    Returns:
        The files, those that were there, too.

    Raises:
        PhotoError: a photo cannot be read, or none has a face.
        UsageError: the detector gives something else than points.
    """
    reporter = reporter or SilentReporter()
    files: list[Path] = []
    missed: list[Path] = []
    photos = [photo for place in _folders(places) for photo in photo_files(place)]
    for number, photo in enumerate(photos, 1):
        file = photo.parent / LANDMARKS / f"{photo.stem}.txt"
        if (file.exists() and not overwrite) or _found(photo, file, detector):
            files.append(file)
        else:
            missed.append(photo)
            kept = f"; {file} stays as it was" if file.exists() else ""
            reporter.event("no-face", f"no face found in {photo}{kept}", photo=str(photo))
        reporter.progress("landmarks", number, len(photos))
    if not files:
        raise PhotoError(
            f"the detector found no face in {len(missed)} photos ({missed[0]}, ...); show faces large and upright, or "
            f"write {LANDMARKS}/NAME.txt yourself."
        )
    if missed:
        reporter.event("landmarks", f"no face in {len(missed)} of {len(photos)} photos, which are named above")
    return files


def _found(photo: Path, file: Path, detector: LandmarkDetector) -> bool:
    """Whether a photo has a face; its points are written then."""
    image = read_photo(photo).image
    points = _points(detector(levels_of(image)), photo)
    if not len(points):
        return False
    height, width = image.shape[1:]
    file.parent.mkdir(exist_ok=True)
    atomic_write_bytes(file, written(points / torch.tensor([float(width), float(height)])))
    return True


def _folders(places: Sequence[Path]) -> list[Path]:
    """Photos and folders of photos as they are; in place of a folder without photos its subfolders."""
    found: list[Path] = []
    for place in places:
        inside = sorted(path for path in place.iterdir() if not path.name.startswith(".")) if place.is_dir() else []
        photos = any(path.suffix.lower() in SUFFIXES for path in inside)
        albums = [] if photos else [path for path in inside if path.is_dir()]
        found += albums or [place]
    return found


def _points(given: object, photo: Path) -> Tensor:
    try:
        points = torch.zeros(0, 2) if given is None else torch.as_tensor(given, dtype=torch.float32).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(
            f"the landmark detector gave {type(given).__name__} for {photo}; expected points n 2 in pixels."
        ) from None
    shape = tuple(points.shape)
    if shape[-1:] != (2,) or points.dim() not in (2, 3) or (points.dim() == 3 and shape[1] != POINTS):
        points = points if points.numel() else torch.zeros(0, 2)
        if len(points):
            raise UsageError(
                f"the landmark detector gave numbers of shape {shape} for {photo}; expected {POINTS} points for each "
                "face, n 2 in pixels, x before y."
            )
    points = points.reshape(-1, 2)
    if len(points) % POINTS or not bool(points.isfinite().all()):
        raise UsageError(
            f"the landmark detector gave {len(points)} points for {photo}; expected {POINTS} finite ones for each "
            "face, n 2 in pixels."
        )
    return points
