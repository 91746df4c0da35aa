"""Semantic path alignment (SVGCustomization, arXiv 2309.12302): which paths of an exemplar a customised picture still
shows, where they went, and in which colour; as a plan that is written down and may be edited.

The paper gives the idea (correspondences decide which paths stay and how each is transformed), not the matching rule.
Ours: every path is described by the features under its visible coverage; cells of the picture belong to the path
whose cells they resemble most; a path's region gives a first placement, mutual nearest neighbours on the rims and a
robust Procrustes fit the next, and gradient steps on the agreement of features the last.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import UsageError
from pcs_ext.svg.vector.geometry import IDENTITY, Matrix, apply, inverse, multiply
from pcs_ext.svg.vector.placement import about, robust_procrustes, scale_of
from pcs_ext.svg.vector.plan import AlignmentPlan, PathPlan
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Scene
from pcs_ext.svg.vector.visible import visible_coverage


@config
class Alignment:
    """How paths find their places. Ours: the paper states none of these."""

    grid: int = 48
    """Cells of the longer side on which features are compared, 8 to 64."""
    color_weight: float = 0.5
    """Of colours beside the given features, at least 0; each of them has unit spread before."""
    position_weight: float = 6.0
    """How much being elsewhere makes cells unlike: squared distance in canvases, times this squared."""
    largest_scale: float = 2.0
    """Paths grow at most so much and shrink at most to its inverse, at least 1."""
    least_confidence: float = 0.2
    """Paths below are dropped, in [0, 1]; 0 keeps all that can be seen."""
    least_area: float = 1.0
    """Paths of which less can be seen in the exemplar are neither moved nor dropped, cells."""
    rounds: int = 4
    """Of matching and fitting."""
    agreement_steps: int = 60
    """Gradient steps on the agreement of features under and around a path with those where it goes."""

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: names the value.
        """
        if not 8 <= self.grid <= 64 or self.rounds < 0:
            raise UsageError(
                f"the alignment has grid {self.grid} and {self.rounds} rounds; expected 8 to 64 cells and 0 or more."
            )
        if self.largest_scale < 1 or not 0 <= self.least_confidence <= 1:
            raise UsageError(
                f"the alignment has largest_scale {self.largest_scale} and least_confidence {self.least_confidence}; "
                "expected at least 1, and a share in [0, 1]."
            )


def align(
    scene: Scene, target: Tensor, settings: Alignment, features: tuple[Tensor, Tensor] | None = None
) -> AlignmentPlan:
    """Plan how the exemplar's paths become the picture. Deterministic.

    Args:
        scene: the exemplar.
        target: the customised picture `3 h w` in [0, 1], drawn on the exemplar's canvas.
        settings: how.
        features: of the exemplar's and of the customised picture, `c a b` each of any grid; None: colours alone.

    Returns:
        A plan with one entry per path, in the exemplar's units and drawing order.

    Raises:
        UsageError: settings out of range.
        ResourceError: too many paths for the grid.
    """
    settings.check()
    height, width = target.shape[1:]
    cells = Cells.of(scene, target, settings, features)
    entries = []
    for index, path in enumerate(scene.paths):
        area = float(cells.seen[index].sum())
        if path.locked or area < settings.least_area:
            entries.append(PathPlan(id=path.id, action="keep", matrix=IDENTITY, confidence=1.0, visible=area))
            continue
        matrix, matched = _place(cells, index, settings)
        confidence = float(cells.agreement(cells.seen[index], _rows(matrix)))
        fits = confidence >= settings.least_confidence
        entries.append(
            PathPlan(
                id=path.id,
                action="keep" if fits else "drop",
                matrix=cells.in_units(scene, matrix),
                color=cells.color_under(index, matrix) if fits else None,
                confidence=confidence,
                matched=matched,
                visible=area,
            )
        )
    return AlignmentPlan(width=width, height=height, paths=tuple(entries))


class Cells:
    """An exemplar and a picture on one grid of `a b` cells, with features that can be compared.

    Args:
        seen: visible coverage of every path `p a b`.
        exemplar: features of the exemplar `a*b c`.
        picture: features of the picture `a*b c`.
        colors: of the picture `3 a b` in [0, 1].
    """

    def __init__(self, seen: Tensor, exemplar: Tensor, picture: Tensor, colors: Tensor) -> None:
        self.seen, self.exemplar, self.picture, self.colors = seen, exemplar, picture, colors
        self.height, self.width = seen.shape[1:]
        rows, columns = torch.meshgrid(torch.arange(self.height), torch.arange(self.width), indexing="ij")
        self.places = torch.stack([columns, rows], -1).reshape(-1, 2) + 0.5
        background = (1 - seen.sum(0, keepdim=True)).clamp(min=0)
        self.owner = torch.cat([seen, background]).argmax(0).reshape(-1)
        self.labels = torch.zeros_like(self.owner)

    @classmethod
    def of(cls, scene: Scene, target: Tensor, settings: Alignment, features: tuple[Tensor, Tensor] | None) -> "Cells":
        """Both pictures on the grid; the labels of the picture's cells are found."""
        height, width = target.shape[1:]
        scale = settings.grid / max(height, width)
        size = (max(4, round(height * scale)), max(4, round(width * scale)))
        drawn = render(scene, *size).detach().float()
        colors = F.interpolate(target[None].float(), size, mode="bilinear", antialias=True)[0]
        parts = [(drawn, colors, settings.color_weight)] if features is None or settings.color_weight else []
        if features is not None:
            first, second = (F.interpolate(f[None].float(), size, mode="bilinear")[0] for f in features)
            parts.append((first, second, 1.0))
        pairs = [_unit_spread(first, second, weight) for first, second, weight in parts]
        cells = cls(
            visible_coverage(scene, *size),
            torch.cat([pair[0] for pair in pairs], 1),
            torch.cat([pair[1] for pair in pairs], 1),
            colors,
        )
        cells.labels = cells.owner[cells.nearest(settings.position_weight)]
        return cells

    def nearest(self, position_weight: float) -> Tensor:
        """For every cell of the picture the exemplar's cell that is most like it, `a*b`."""
        scale = position_weight / max(self.height, self.width)
        theirs = torch.cat([self.exemplar, scale * self.places], 1)
        ours = torch.cat([self.picture, scale * self.places], 1)
        return torch.cdist(ours, theirs).argmin(1)

    def agreement(self, weight: Tensor, matrix: Tensor) -> Tensor:
        """How alike the features are where `matrix` `2 3` takes the cells, in [0, 1]; 1: the same. Differentiable in
        the matrix.

        Args:
            weight: of each cell `a b`.
            matrix: of cells.
        """
        share = weight.reshape(-1)
        inside = share > 0.05
        places = self.places[inside] @ matrix[:, :2].T + matrix[:, 2]
        there = self._sample(self.picture.T.reshape(-1, self.height, self.width), places)
        square = (there - self.exemplar[inside]).square().sum(1)
        return ((-square / 2).exp() * share[inside]).sum() / share[inside].sum()

    def color_under(self, index: int, matrix: Matrix) -> tuple[float, float, float]:
        """The picture's median colour where the matrix takes what is seen of a path."""
        inside = self.seen[index].reshape(-1) > 0.5 * float(self.seen[index].max())
        red, green, blue = self._sample(self.colors, apply(matrix, self.places[inside])).median(0).values.tolist()
        return red, green, blue

    def rim(self, members: Tensor) -> Tensor:
        """Those of a region's cells with a neighbour outside it or beyond the canvas."""
        mask = torch.zeros(self.height * self.width)
        mask[members] = 1
        padded = F.pad(mask.view(1, 1, self.height, self.width), (1, 1, 1, 1))
        inner = -F.max_pool2d(-padded, 3, stride=1)
        return members[inner.reshape(-1)[members] < 0.5]

    def in_units(self, scene: Scene, matrix: Matrix) -> Matrix:
        """A transform of cells as one of the scene's units."""
        scale, right, down = scene.to_pixels(self.height, self.width)
        to_cells = (scale, 0.0, 0.0, scale, right, down)
        back = inverse(to_cells)
        assert back is not None, scene.view_box
        return multiply(back, multiply(matrix, to_cells))

    def _sample(self, grid: Tensor, places: Tensor) -> Tensor:
        """Values `n c` of a map `c a b` at places `n 2`, bilinear; the border goes on outside."""
        size = torch.tensor([self.width, self.height], dtype=places.dtype)
        where = (places / size * 2 - 1)[None, None]
        return F.grid_sample(grid[None], where.to(grid), align_corners=False, padding_mode="border")[0, :, 0].T


def _unit_spread(first: Tensor, second: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Two maps `c a b` as rows, shifted and scaled alike: cells of both are 2 * weight apart on average (squared 4)."""
    rows = torch.cat([part.flatten(1).T for part in (first, second)])
    rows = rows - rows.mean(0)
    rows = rows * (weight * (2 / rows.square().sum(1).mean().clamp(min=1e-12)).sqrt())
    return rows[: first[0].numel()], rows[first[0].numel() :]


def _place(cells: Cells, index: int, settings: Alignment) -> tuple[Matrix, float]:
    """Where a path went, in cells, and the share of its rim that found a partner."""
    weight = cells.seen[index].reshape(-1)
    mine = torch.nonzero((weight > 0.1) & (cells.owner == index))[:, 0]
    region = torch.nonzero(cells.labels == index)[:, 0]
    if not len(mine) or not len(region):
        return IDENTITY, 0.0
    matrix = _first(cells.places[mine], cells.places[region], weight[mine], settings)
    share = 0.0
    # Inside a flat region every place looks alike and would vote for staying: rims alone tell where it went.
    mine, region = cells.rim(mine), cells.rim(region)
    for _ in range(settings.rounds):
        a, b = _mutual(cells, mine, region, matrix, settings.position_weight)
        share = float(weight[mine[a]].sum() / weight[mine].sum())
        if len(a) < 8:
            break
        found = robust_procrustes(cells.places[mine[a]], cells.places[region[b]], weight[mine[a]], tolerance=1.0)
        if not 1 / settings.largest_scale <= scale_of(found) <= settings.largest_scale:
            break
        matrix = found
    starts = [_climb(cells, index, start, settings) for start in (matrix, IDENTITY)]
    return max(starts, key=lambda found: found[1])[0], share


def _climb(cells: Cells, index: int, start: Matrix, settings: Alignment) -> tuple[Matrix, float]:
    """The similarity with the best agreement on the way up from `start`, and that agreement."""
    seen = cells.seen[index]
    # A rim of what is around tells where the path ends; inside flat colours nothing else does.
    weight = 0.5 * seen + 0.5 * F.max_pool2d(seen[None, None], 5, stride=1, padding=2)[0, 0]
    centre = (cells.places * seen.reshape(-1, 1)).sum(0) / seen.sum()
    radius = float((seen.sum() / torch.pi).sqrt().clamp(min=1))
    change = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=0.1)
    best, most = start, -1.0
    for step in range(settings.agreement_steps + 1):
        growth, turn = change[2] / radius, change[3] / radius
        matrix = _compose(start, torch.complex(growth * 0, turn).exp() * growth.exp(), change[:2], centre)
        agreement = cells.agreement(weight, matrix)
        found = _numbers(matrix)
        if float(agreement.detach()) > most and 1 / settings.largest_scale <= scale_of(found) <= settings.largest_scale:
            best, most = found, float(agreement.detach())
        if step < settings.agreement_steps:
            optimizer.zero_grad()
            (-agreement).backward()
            optimizer.step()
    return best, most


def _numbers(matrix: Tensor) -> Matrix:
    a, b, c, d, e, f = matrix.detach().double().T.reshape(-1).tolist()
    return a, b, c, d, e, f


def _rows(matrix: Matrix) -> Tensor:
    """SVG's a b c d e f as rows `2 3`."""
    return torch.tensor(matrix).view(3, 2).T


def _compose(start: Matrix, factor: Tensor, shift: Tensor, centre: Tensor) -> Tensor:
    """`start` after a turn and growth about `centre`, then a shift: `2 3`, differentiable."""
    a, b, c, d, e, f = start
    linear = torch.tensor([[a, c], [b, d]])
    spin = torch.stack([torch.stack([factor.real, -factor.imag]), torch.stack([factor.imag, factor.real])])
    goal = linear @ centre + torch.tensor([e, f])
    return torch.cat([linear @ spin, (goal + shift - linear @ spin @ centre)[:, None]], 1)


def _first(source: Tensor, region: Tensor, weight: Tensor, settings: Alignment) -> Matrix:
    """Centre on centre, with the scale of the areas."""
    centre = (source * weight[:, None]).sum(0) / weight.sum()
    limit = settings.largest_scale
    scale = min(max((len(region) / len(source)) ** 0.5, 1 / limit), limit)
    return about(complex(scale), centre, region.mean(0))


def _mutual(
    cells: Cells, mine: Tensor, region: Tensor, matrix: Matrix, position_weight: float
) -> tuple[Tensor, Tensor]:
    """Indices into `mine` and `region` of cells that are each other's nearest, places compared after the transform."""
    # Within a path features say less than places: the weight of places is that of one cell here, not of the canvas.
    scale = position_weight / 8
    ours = torch.cat([cells.exemplar[mine], scale * apply(matrix, cells.places[mine])], 1)
    theirs = torch.cat([cells.picture[region], scale * cells.places[region]], 1)
    distance = torch.cdist(ours, theirs)
    there, back = distance.argmin(1), distance.argmin(0)
    a = torch.nonzero(back[there] == torch.arange(len(mine)))[:, 0]
    return a, there[a]
