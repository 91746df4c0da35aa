"""How a thing seen by itself lies in the hole of a picture: which cell shows which of its places, and its outline.

The first stage of virtual try-on (PE-VITON's shape control, arXiv 2312.15480): the garment is matched to what of the
person is seen around the hole. How is ours; after appearance flows, which name for every cell a place of the garment.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.image.reference.boxes import cells_in

_FINER = 4
"""Pixels along a cell of what the networks are shown."""
_SHARPNESS = 32.0
"""Of the preference for a cell's own place in the box, at first: of sixteen places along a side the next counts 0.6."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """Where a thing goes, on a grid of `n n` cells."""

    flow: Tensor
    """`b n n 2`: which place of the thing's picture each cell shows, across and down from -1 to 1, float32."""
    outline: Tensor
    """`b 1 n n`, logits: whether it shows the thing; only inside the box."""
    box: Tensor
    """`b 1 n n` of 0 and 1: cells that the box touches."""

    @property
    def shape(self) -> Tensor:
        """`b 1 n n` in [0, 1]: how sure each cell shows the thing; 0 outside of the box."""
        return self.outline.float().sigmoid() * self.box

    def warped(self, thing: Tensor, size: tuple[int, int]) -> Tensor:
        """What the cells show of pictures `b c s s`, `b c height width`, float32. Differentiable."""
        places = F.interpolate(self.flow.movedim(-1, 1), size=size, mode="bilinear", align_corners=False)
        return F.grid_sample(thing.float(), places.movedim(1, -1), padding_mode="border", align_corners=False)

    def shape_at(self, size: tuple[int, int]) -> Tensor:
        """`shape` at another size, `b 1 height width`."""
        return F.interpolate(self.shape, size=size, mode="bilinear", align_corners=False)


class ShapeControl(nn.Module):
    """Cells of the person ask places of the garment; their answers are the warp, and with both features its outline.

    A cell prefers the garment's place that corresponds to its own in the box (the garment stretched over it), as much
    as a learned number says; what its features find in the garment's is added. At first only the preference counts.

    Args:
        channels: of what is seen of the person: the picture without what is in the box, the box, condition maps.
        width: of features.
        cells: along a side of the grid.
    """

    def __init__(self, channels: int, *, width: int, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.person, self.garment = _features(channels, width), _features(3, width)
        self.to_q, self.to_k = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.to_q.weight)
        self.sharpness = nn.Parameter(torch.tensor(_SHARPNESS).log())
        self.stretch = nn.Parameter(torch.ones(2))
        self.outline = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1)
        )

    def forward(self, person: Tensor, garment: Tensor, boxes: Tensor) -> Fit:
        """Where garments go. Differentiable.

        Args:
            person: `b channels h w`, of any size.
            garment: `b 3 s s` in [-1, 1], on white.
            boxes: `b 4`: left, top, right and bottom in shares, with extent.
        """
        seen, shown = (net(self._small(x)) for net, x in ((self.person, person), (self.garment, garment)))
        query, key = self.to_q(_cells(seen)), self.to_k(_cells(shown))
        with torch.autocast(person.device.type, enabled=False):
            wanted = self.stretch.float() * places_in(boxes.float(), self.cells)
            flow = matched(query.float(), key.float(), wanted, self.sharpness.float().exp())
        grid = flow.unflatten(1, (self.cells, self.cells))
        there = F.grid_sample(shown.float(), grid, padding_mode="border", align_corners=False).to(seen)
        box = cells_in(boxes.float(), self.cells, self.cells)[:, None]
        return Fit(flow=grid, outline=self.outline(torch.cat([seen, there], 1)), box=box)

    def _small(self, picture: Tensor) -> Tensor:
        """At the networks' size, and beside it where every pixel is."""
        side = _FINER * self.cells
        small = F.interpolate(picture.float(), size=(side, side), mode="bilinear", antialias=True)
        axis = _middles(side).to(small)
        across, down = axis[None].expand(side, side), axis[:, None].expand(side, side)
        where = torch.stack([across, down]).expand(len(small), -1, -1, -1)
        return torch.cat([small, where], 1).to(self.to_q.weight.dtype)


def _features(channels: int, width: int) -> nn.Sequential:
    """Pictures with two channels more -> features of their cells."""
    return nn.Sequential(
        nn.Conv2d(channels + 2, width, 3, stride=2, padding=1), nn.SiLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
    )  # fmt: skip


def _cells(features: Tensor) -> Tensor:
    """`b c h w` -> `b h*w c`, each cell with mean 0 and variance 1: a young network's own are small and alike."""
    return F.layer_norm(features.flatten(2).mT, features.shape[1:2])


def _middles(count: int) -> Tensor:
    """Of so many cells along a side of [-1, 1]."""
    return (2 * torch.arange(count) + 1) / count - 1


def places_in(boxes: Tensor, cells: int) -> Tensor:
    """Where the cells of a picture lie in a box, `b 4` -> `b cells*cells 2`: -1 at its left or upper edge, 1 at the
    other."""
    middles = (_middles(cells).to(boxes) + 1) / 2
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    across, down = middles.repeat(cells), middles.repeat_interleave(cells)
    return 2 * (torch.stack([across, down], -1) - low) / (high - low) - 1


def matched(query: Tensor, key: Tensor, wanted: Tensor, sharpness: Tensor) -> Tensor:
    """Which places of a square picture cells show: the mean place under a softmax over all of its cells.

    A place's score is the scaled product of features less `sharpness` times its squared distance from the wanted one.

    Args:
        query: of cells, `b n d`.
        key: of the picture's cells, row by row, `b m d`.
        wanted: places the cells begin with, `b n 2`, from -1 to 1.
        sharpness: 0-d, of the preference for them.

    Returns:
        `b n 2`, across and down from -1 to 1.
    """
    side = round(key.shape[1] ** 0.5)
    middles = _middles(side).to(query)
    places = torch.stack([middles.repeat(side), middles.repeat_interleave(side)], -1)
    near = (wanted.clamp(-1, 1)[:, :, None] - places).square().sum(-1)
    scores = query @ key.mT / query.shape[-1] ** 0.5 - sharpness * near
    return scores.softmax(-1) @ places


def texture_error(warped: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error of the warped garment where the target shows it, 0-d.

    Args:
        warped, target: `b 3 h w` in [-1, 1].
        mask: `b 1 h w` in [0, 1].
    """
    return ((warped - target).abs() * mask).sum() / (warped.shape[1] * mask.sum()).clamp_min(1e-6)


def outline_error(fit: Fit, mask: Tensor) -> Tensor:
    """Cross-entropy of the outline inside the box, 0-d.

    Args:
        fit: where things go.
        mask: `b 1 h w` in [0, 1] of latent cells: how much of each shows the thing.
    """
    true = F.interpolate(mask.float(), size=fit.box.shape[-2:], mode="bilinear", antialias=True).clamp(0, 1)
    errors = F.binary_cross_entropy_with_logits(fit.outline.float(), true, reduction="none")
    return (errors * fit.box).sum() / fit.box.sum().clamp_min(1)


def bending(flow: Tensor) -> Tensor:
    """Mean squared second difference of a warp `b n n 2`, across and down, in places' units, 0-d: 0 for affine maps."""
    across = flow[:, :, 2:] - 2 * flow[:, :, 1:-1] + flow[:, :, :-2]
    down = flow[:, 2:] - 2 * flow[:, 1:-1] + flow[:, :-2]
    return across.square().mean() + down.square().mean()
