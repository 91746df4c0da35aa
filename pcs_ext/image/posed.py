"""Photos with the cameras that took them, and the ball in which their subject stands."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.errors import PhotoError
from pcs_ext.image.adapters import FeatureFieldAdapter
from pcs_ext.image.cameras import Cameras
from pcs_ext.image.data import Photo, SubjectDataset
from pcs_ext.image.latent_cache import LatentCache
from pcs_ext.image.transforms_json import check_aspect, read_aspects, read_transforms

_FILE = "transforms.json"


def posed(photos: Sequence[Photo]) -> list[Photo]:
    """The photos with their cameras, from the `transforms.json` beside them or in the folder above.

    Raises:
        PhotoError: there is none, or it lacks some of the photos.
        InputError: it is none that can be read, or not of these pictures' shape.
    """
    known: dict[Path, Cameras] = {}
    said: dict[Path, tuple[Path, float | None]] = {}
    for folder in {place for photo in photos for place in _places(photo.path)}:
        if (folder / _FILE).is_file():
            cameras, files = read_transforms(folder / _FILE)
            places = [_bare(folder / file) for file in files]
            known |= {place: cameras[index : index + 1] for index, place in enumerate(places)}
            said |= {place: (folder / _FILE, aspect) for place, aspect in
                     zip(places, read_aspects(folder / _FILE), strict=True)}  # fmt: skip
    lost = [photo.path.name for photo in photos if _bare(photo.path) not in known]
    if lost:
        raise PhotoError(
            f"this recipe needs the camera of every photo, and knows none of {', '.join(lost[:5])}. Put a "
            f"{_FILE} beside the photos: nerfstudio's `ns-process-data images --camera-type pinhole` writes one."
        )
    for photo in photos:
        file, aspect = said[_bare(photo.path)]
        check_aspect(file, photo.path.name, aspect, *photo.size)
    return [photo.but(camera=known[_bare(photo.path)]) for photo in photos]


def _places(path: Path) -> tuple[Path, Path]:
    folder = path.resolve().parent
    return folder, folder.parent


def _bare(path: Path) -> Path:
    """Where a file is, without its suffix, which Blender's files leave out."""
    return path.resolve().with_suffix("")


@dataclasses.dataclass(frozen=True)
class Ball:
    """Where the subject is in the world of its cameras."""

    center: Tensor
    """`3`."""
    radius: Tensor
    """0-d, above 0."""


def ball_of(cameras: Cameras, masks: Tensor) -> Ball:
    """The smallest ball, about the point nearest to all optical axes, whose outline holds the masks.

    Args:
        cameras: of square pictures, `b`, two of them at least not looking in the same direction.
        masks: where the subject is in them, `b 1 s s` in [0, 1].

    Raises:
        PhotoError: all cameras look in one direction, or no mask marks anything.
    """
    axes = -cameras.camera_to_world[:, :3, 2].double()
    positions = cameras.positions.double()
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    if torch.linalg.matrix_rank(across.sum(0), rtol=1e-6) < 3:
        raise PhotoError("all cameras look in one direction; expected photos from around the subject.")
    center = torch.linalg.solve(across.sum(0), (across @ positions[:, :, None]).sum(0)[:, 0])
    side = masks.shape[-1]
    cells = (torch.arange(side) + 0.5) * (2 / side) - 1
    inside = masks[:, 0] > 0.5
    if not inside.any():
        raise PhotoError("no mask marks anything; expected white where the subject is.")
    # The farthest marked cell from the centre's own place in each picture, as an angle.
    half = torch.tan(cameras.fov.double() * (math.pi / 360))[:, None, None]
    u, v = half * cells.double()[None, None, :], -half * cells.double()[None, :, None]
    rays = torch.stack([u.expand(-1, side, -1), v.expand(-1, -1, side), -torch.ones_like(inside, dtype=u.dtype)], -1)
    to = torch.einsum("bji,bj->bi", cameras.camera_to_world[:, :3, :3].double(), center - positions)
    distance = to.norm(dim=1)
    cosine = torch.nn.functional.cosine_similarity(rays, to[:, None, None], dim=-1)
    widest = torch.where(inside, cosine, torch.ones_like(cosine)).flatten(1).amin(1)
    radius = (distance * (1 - widest.square()).clamp_min(0).sqrt()).max()
    return Ball(center.float(), radius.clamp_min(1e-3).float())


def show_views(adapter: FeatureFieldAdapter, photos: SubjectDataset, latents: LatentCache) -> None:
    """Give all photos and their cameras to an adapter that looks them up.

    Raises:
        PhotoError: photos without cameras, or see `ball_of`.
    """
    if photos.cameras is None:
        raise PhotoError("these photos have no cameras, or are mirrored or moved about while they are learned.")
    ball = ball_of(photos.cameras, photos.square_masks())
    squares = torch.stack(photos.squares())
    keys = [f"{index}/0" for index in range(len(squares))]
    adapter.keep(latents.encoded(squares, keys), photos.cameras, ball.center, ball.radius)
