"""FeatureNeRF (Kumari et al. 2024, arXiv 2404.12333): features of posed pictures, rendered from another camera.

Points on the rays of a target camera look up the features of reference pictures where they are seen there; what they
find is averaged over the references by learned weights, read together with the text, and rendered as a radiance field
is: by density, to a feature, a colour and an opacity per ray.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.image.cameras import Cameras, rays

_FREQUENCIES = 4


@dataclasses.dataclass(frozen=True)
class Points:
    """Samples on the rays of target cameras, in a world in which the subject is in the unit ball."""

    places: Tensor
    """`b r j 3`."""
    moments: Tensor
    """`b r 6`: Plücker coordinates of the rays, direction and moment."""
    gap: Tensor
    """`b r`: distance between samples; 0 for rays that miss the ball."""

    def to(self, device: torch.device) -> "Points":
        """The same on a device."""
        return Points(self.places.to(device), self.moments.to(device), self.gap.to(device))


@dataclasses.dataclass(frozen=True)
class Rendering:
    """What rays see."""

    features: Tensor
    """`b r d`; zeros where nothing is."""
    colors: Tensor
    """`b r 3` in [0, 1], over black."""
    opacity: Tensor
    """`b r` in [0, 1]."""


def normalised(cameras: Cameras, center: Tensor, radius: Tensor) -> Cameras:
    """The cameras in a world in which a ball is the unit ball."""
    matrix = cameras.camera_to_world.clone()
    matrix[:, :3, 3] = (matrix[:, :3, 3] - center.to(matrix)) / radius.to(matrix)
    return dataclasses.replace(cameras, camera_to_world=matrix)


def ball_points(cameras: Cameras, side: tuple[int, int], samples: int, jitter: Tensor | None = None) -> Points:
    """Samples in equal bins between where rays enter the unit ball and where they leave it.

    Args:
        cameras: `b`, normalised.
        side: rows and columns of rays.
        samples: per ray.
        jitter: `b r samples` in [0, 1): where in its bin each lies; None: in the middle.
    """
    seen = rays(cameras, *side)
    count = side[0] * side[1]
    origins, directions = (t.unflatten(0, (len(cameras), count)) for t in (seen.origins, seen.directions))
    nearest = -(origins * directions).sum(-1)
    off = origins.square().sum(-1) - nearest.square()
    half = (1 - off).clamp_min(0).sqrt()
    near = (nearest - half).clamp_min(0)
    gap = (nearest + half - near).clamp_min(0) * (off < 1) / samples
    bins = torch.arange(samples, device=gap.device) + (0.5 if jitter is None else jitter.to(gap))
    depths = near[..., None] + gap[..., None] * bins
    places = origins[:, :, None] + depths[..., None] * directions[:, :, None]
    moments = torch.cat([directions, torch.cross(origins, directions, dim=-1)], -1)
    return Points(places=places, moments=moments, gap=gap)


def looked_up(maps: Tensor, cameras: Cameras, places: Tensor) -> tuple[Tensor, Tensor]:
    """What reference pictures show where points are.

    Args:
        maps: features of the references, `n d h w`, of square pictures.
        cameras: theirs, `n`, normalised.
        places: `... 3`.

    Returns:
        `n ... d` features, bilinear, and `n ...` bool: whether the point is in front of the camera and in its picture.
    """
    flat = places.reshape(-1, 3)
    matrix = cameras.camera_to_world.to(flat)
    local = torch.einsum("nji,npj->npi", matrix[:, :3, :3], flat[None] - matrix[:, None, :3, 3])
    depth = -local[..., 2]
    half = torch.tan(cameras.fov.to(flat) * (math.pi / 360))[:, None]
    grid = local[..., :2] / (depth.clamp_min(1e-6) * half)[..., None]
    visible = (depth > 1e-6) & (grid.abs() <= 1).all(-1)
    grid = torch.stack([grid[..., 0], -grid[..., 1]], -1)  # rows go down
    found = F.grid_sample(maps, grid[:, :, None].to(maps), padding_mode="border", align_corners=False)[..., 0]
    shape = places.shape[:-1]
    return found.transpose(1, 2).unflatten(1, shape), visible.unflatten(1, shape)


def composite(density: Tensor, gap: Tensor) -> Tensor:
    """Weights of samples along rays, T_j (1 - exp(-density_j gap)), T_j what those before let through.

    Args:
        density: `b r j`, 0 or more, per unit of length.
        gap: `b r`.
    """
    through = torch.exp(-density * gap[..., None])
    before = torch.cumprod(torch.cat([torch.ones_like(through[..., :1]), through[..., :-1]], -1), -1)
    return before * (1 - through)


def waves(values: Tensor) -> Tensor:
    """Sines and cosines of four octaves, `... c` -> `... 8c` (NeRF, arXiv 2003.08934, eq. 4)."""
    angles = values[..., None] * (math.pi * 2.0 ** torch.arange(_FREQUENCIES, device=values.device))
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


class FeatureNerf(nn.Module):
    """The field of one transformer block.

    Args:
        tokens: width of the block.
        text: width of the text's states.
        width: of what points know.
    """

    def __init__(self, tokens: int, text: int, width: int) -> None:
        super().__init__()
        # One linear layer over all that a point is told by a reference, in parts: what features say is computed before
        # they are looked up, as interpolation is linear, and what is the same for all references or samples is once.
        self.look, self.place = nn.Linear(tokens, width), nn.Linear(3 * 2 * _FREQUENCIES, width, bias=False)
        self.ray, self.eye = nn.Linear(6, width, bias=False), nn.Linear(6, width, bias=False)
        self.say = nn.Linear(width, width + 1)
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(text, width), nn.Linear(text, width)
        self.read = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width + 4))
        self.own, self.rendered = nn.Linear(tokens, tokens), nn.Linear(width, tokens, bias=False)
        for last in (self.own.weight, self.own.bias, self.rendered.weight):
            nn.init.zeros_(last)

    def render(self, maps: Tensor, references: Cameras, points: Points, states: Tensor) -> Rendering:
        """What target cameras see of the references.

        Args:
            maps: features of the references in this block, `n d h w`.
            references: their cameras, normalised.
            points: on the rays of `b` target cameras.
            states: of the targets' prompts, `b t text`.
        """
        said = self.look(maps.movedim(1, -1).to(self.own.weight.dtype)).movedim(-1, 1)
        found, visible = looked_up(said, references, points.places)
        known = self._gathered(found, visible, references, points)
        known = known + self._heeding(known, states)
        out = self.read(known)
        # A first field that is half transparent gives gradients along the whole of a ray.
        density = F.softplus(out[..., 0]) * visible.any(0)
        weights = composite(density, points.gap)
        colors, features = torch.sigmoid(out[..., 1:4]), out[..., 4:]
        return Rendering(
            features=torch.einsum("brj,brjd->brd", weights, features),
            colors=torch.einsum("brj,brjc->brc", weights, colors),
            opacity=weights.sum(-1),
        )

    def _gathered(self, found: Tensor, visible: Tensor, references: Cameras, points: Points) -> Tensor:
        """What points know from all references, `b r j width`; zeros for those that none of them sees."""
        eyes = references.positions.to(found)[:, None, None, None]
        directions = F.normalize(points.places[None] - eyes, dim=-1)
        moments = torch.cat([directions, torch.cross(eyes.expand_as(directions), directions, dim=-1)], -1)
        shared = self.place(waves(points.places)) + self.ray(points.moments)[:, :, None]
        said = self.say(F.gelu(found + shared + self.eye(moments)))
        scores = said[..., -1].masked_fill(~visible, -1e4)
        shares = torch.softmax(scores.float(), 0) * visible
        return (shares[..., None] * said[..., :-1]).sum(0)

    def _heeding(self, known: Tensor, states: Tensor) -> Tensor:
        """What points find in the text, `b r j width`."""
        states = states.to(self.own.weight.dtype)
        found = F.scaled_dot_product_attention(
            self.query(known).flatten(1, 2)[:, None], self.key(states)[:, None], self.value(states)[:, None]
        )
        return found[:, 0].unflatten(1, known.shape[1:3])

    def forward(self, tokens: Tensor, rendering: Rendering) -> Tensor:
        """What is added to the target's tokens `b r d`: a linear map of both, which starts at zero."""
        return self.own(tokens) + self.rendered(rendering.features)
