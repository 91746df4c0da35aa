"""A raster picture as layers of filled paths, after LIVE (arXiv 2206.04655): add paths where the error is, optimise.

Differs from LIVE: a round adds several paths (the largest connected components of the quantised error, none touching
the other), the loss is the plain squared difference at several scales, and rounds are short; so minutes become seconds.
"""

import dataclasses
import math
from pathlib import Path as FilePath

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import DivergedError, InputError, UsageError
from pcs_ext.image.data import open_image
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.svg.vector.components import largest_components
from pcs_ext.svg.vector.losses import crossing_loss, cubics, multi_scale_loss
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Paint, Path, Scene, Subpath

MAX_PATHS = 512


@config
class Vectorization:
    """How a picture is vectorised. Lengths are pixels of the working size."""

    paths: int = 32
    """At most so many paths, 1 to 512."""
    rounds: int = 5
    """Rounds of adding paths, 1 to 64; later rounds add more (1, 2, 4... as far as they go)."""
    steps: int = 60
    """Optimisation steps after each round; the last round takes twice as many."""
    segments: int = 4
    """Cubics per path, 3 to 32 (LIVE: 4)."""
    side: int = 160
    """Longer side of the picture while it is optimised, 16 to 1024."""
    point_lr: float = 1.0
    """Adam's step for points, pixels (LIVE: 1)."""
    color_lr: float = 0.01
    """Adam's step for colours, of the range [0, 1] (LIVE: 0.01)."""
    crossing_weight: float = 0.01
    """Of the crossing loss (LIVE: 0.01)."""
    least_area: float = 9.0
    """Regions below this are not worth a path, square pixels."""

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: names the value.
        """
        ranges = {
            "paths": (1, MAX_PATHS),
            "rounds": (1, 64),
            "steps": (1, 10_000),
            "segments": (3, 32),
            "side": (16, 1024),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name} is {getattr(self, name)}; expected {low} to {high}.")


def read_target(path: FilePath, side: int) -> tuple[Tensor, tuple[int, int]]:
    """A picture on white, `3 h w` in [0, 1] with its longer side at most `side`, and its own width and height.

    Raises:
        PhotoError: missing or damaged.
        InputError: smaller than 8 pixels.
    """
    image = open_image(path)
    try:
        if image.mode.startswith(("I", "F")):
            raise InputError(f"{path} has more than 8 bits per sample; save it with 8 bits first.")
        image = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be decoded ({error}); export it again.") from None
    size = image.size
    if min(size) < 8:
        raise InputError(f"{path} is {size[0]} x {size[1]} pixels; expected at least 8 x 8.")
    flat = Image.alpha_composite(Image.new("RGBA", size, "white"), image).convert("RGB")
    scale = min(1.0, side / max(size))
    flat = flat.resize((max(1, round(size[0] * scale)), max(1, round(size[1] * scale))), Image.Resampling.BOX)
    return torch.from_numpy(np.array(flat)).permute(2, 0, 1).float() / 255, size


def vectorize(target: Tensor, settings: Vectorization, *, reporter: Reporter | None = None) -> Scene:
    """Paths whose drawing on white looks like the picture. Deterministic.

    Args:
        target: `3 h w` in [0, 1].
        settings: how.
        reporter: told about every step.

    Returns:
        A scene in pixels of the target, background first.

    Raises:
        UsageError: a setting out of range.
        DivergedError: the loss became NaN.
    """
    settings.check()
    reporter = reporter or SilentReporter()
    height, width = target.shape[1:]
    scene = Scene(view_box=(0, 0, width, height), size=(width, height), paths=(ground_path(target),))
    plan = _plan(settings)
    total, done = settings.steps * (len(plan) + 1), 0
    for number, count in enumerate(plan):
        drawn = render(scene, height, width).detach()
        found = largest_components(drawn, target, count, settings.least_area)
        if found:
            new = [seed_path(mask, target, settings.segments, len(scene.paths) + i) for i, mask in enumerate(found)]
            scene = dataclasses.replace(scene, paths=(*scene.paths, *new))
        steps = settings.steps * (2 if number == len(plan) - 1 else 1)
        scene = _optimise(scene, target, settings, steps, reporter, done, total)
        done += steps
    return scene


def _plan(settings: Vectorization) -> list[int]:
    """Paths to add per round; the first path is the ground."""
    left = settings.paths - 1
    share = sum(2**i for i in range(settings.rounds))
    counts = [max(1, left * 2**i // share) for i in range(settings.rounds)]
    counts[-1] += max(0, left - sum(counts))
    plan = []
    for count in counts:
        plan.append(min(count, left))
        left -= plan[-1]
    return [count for count in plan if count] or [0]


def ground_path(target: Tensor, where: Tensor | None = None) -> Path:
    """A rectangle over the whole picture `3 h w` in the median colour of its border, or of pixels `h w` bool."""
    height, width = target.shape[1:]
    if where is None:
        where = torch.ones(height, width, dtype=torch.bool)
        where[1:-1, 1:-1] = False
    corners = torch.tensor([[0, 0], [width, 0], [width, height], [0, height]], dtype=target.dtype)
    after = corners.roll(-1, 0)
    points = torch.stack([corners, (2 * corners + after) / 3, (corners + 2 * after) / 3], 1).reshape(-1, 2)
    fill = Paint(color=target[:, where].median(1).values, opacity=target.new_tensor(1.0))
    return Path(id="ground", subpaths=(Subpath(points=points, closed=True),), fill=fill, locked=True)


def seed_path(mask: Tensor, target: Tensor, segments: int, number: int) -> Path:
    """An ellipse with the centre and the second moments of a region `h w`, in its mean colour."""
    places = torch.nonzero(mask).to(target.dtype).flip(1) + 0.5
    centre = places.mean(0)
    spread = (places - centre).T @ (places - centre) / len(places) + torch.eye(2) / 12
    values, axes = torch.linalg.eigh(spread)
    # A filled ellipse with semi-axis r has variance r² / 4 along it.
    frame = axes * (2 * values.sqrt())
    handle = 4 / 3 * math.tan(math.pi / (2 * segments))
    step = torch.arange(segments, dtype=target.dtype) * (2 * math.pi / segments)
    on = torch.stack([step.cos(), step.sin()], 1)
    tangent = handle * torch.stack([-step.sin(), step.cos()], 1)
    circle = torch.stack([on, on + tangent, on.roll(-1, 0) - tangent.roll(-1, 0)], 1).reshape(-1, 2)
    fill = Paint(color=target[:, mask].median(1).values, opacity=target.new_tensor(1.0))
    points = centre + circle @ frame.T
    return Path(id=f"path-{number}", subpaths=(Subpath(points=points, closed=True),), fill=fill)


def _optimise(
    scene: Scene, target: Tensor, settings: Vectorization, steps: int, reporter: Reporter, done: int, total: int
) -> Scene:
    points = [path.subpaths[0].points.clone().requires_grad_() for path in scene.paths if not path.locked]
    colors = [path.fill.color.clone().requires_grad_() for path in scene.paths if path.fill is not None]
    groups = [{"params": points, "lr": settings.point_lr}, {"params": colors, "lr": settings.color_lr}]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        optimizer.zero_grad()
        current = _with(scene, points, colors)
        loss = multi_scale_loss(render(current, *target.shape[1:]), target)
        if points:
            chains = torch.cat([cubics(path.subpaths[0]) for path in current.paths if not path.locked])
            loss = loss + settings.crossing_weight * crossing_loss(chains)
        if not bool(torch.isfinite(loss)):
            raise DivergedError("The loss is not finite; use smaller steps (point_lr, color_lr).")
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for color in colors:
                color.clamp_(0, 1)
        reporter.progress("vectorize", done + step + 1, total, paths=len(scene.paths), loss=float(loss.detach()))
    return _with(scene, [p.detach() for p in points], [c.detach() for c in colors])


def _with(scene: Scene, points: list[Tensor], colors: list[Tensor]) -> Scene:
    """The scene with other points (of paths that are not locked) and colours (of all)."""
    paths: list[Path] = []
    moving = iter(points)
    for path, color in zip(scene.paths, colors, strict=True):
        assert path.fill is not None, path.id
        fill = Paint(color=color, opacity=path.fill.opacity)
        if not path.locked:
            path = dataclasses.replace(path, subpaths=(Subpath(points=next(moving), closed=True),))
        paths.append(dataclasses.replace(path, fill=fill))
    return dataclasses.replace(scene, paths=tuple(paths))
