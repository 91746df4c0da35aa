"""The plan of an alignment: what becomes of every path, as a JSON file that people read and edit."""

import dataclasses
import math
from pathlib import Path as FilePath
from typing import Literal

import torch

from pcs_ext.config_io import config, from_jsonable, read_json, write_json
from pcs_ext.errors import ConfigError
from pcs_ext.svg.vector.geometry import IDENTITY, Matrix
from pcs_ext.svg.vector.placement import moved, scale_of
from pcs_ext.svg.vector.scene import Paint, Scene


@config
class PathPlan:
    """What becomes of one path."""

    id: str
    """Of the path."""
    action: Literal["keep", "drop", "freeze"]
    """keep: placed, coloured and optimised; drop: removed; freeze: stays exactly as it is."""
    matrix: Matrix = IDENTITY
    """SVG's a b c d e f in the exemplar's units: x' = a x + c y + e, y' = b x + d y + f."""
    color: tuple[float, float, float] | None = None
    """New colour of the fill (of the stroke where there is none), sRGB in [0, 1]; null keeps the old one."""
    confidence: float = 1.0
    """How alike exemplar and picture are where the path goes, in [0, 1]. For people; not read back."""
    matched: float = 0.0
    """Share of the path's rim with a partner in the picture. For people."""
    visible: float = 0.0
    """What is seen of the path, cells of the grid. For people."""


@config
class AlignmentPlan:
    """What becomes of every path of an exemplar."""

    width: int
    """Of the picture the plan was made for, pixels."""
    height: int
    """Of the picture, pixels."""
    paths: tuple[PathPlan, ...]
    """In drawing order."""

    def save(self, path: FilePath) -> None:
        """Write as JSON."""
        write_json(path, self)

    @staticmethod
    def load(path: FilePath) -> "AlignmentPlan":
        """Read what `save` wrote, edited or not.

        Raises:
            ConfigError: missing, not JSON, an unknown key or action, a wrong number of numbers.
        """
        return from_jsonable(AlignmentPlan, read_json(path), where=str(path))


def apply_plan(scene: Scene, plan: AlignmentPlan) -> Scene:
    """The exemplar after the plan: paths dropped, moved, coloured; ids, groups and order as they were.

    Raises:
        ConfigError: the plan names other paths than the scene has, flattens one, drops all of them, changes one
            that is drawn through `use`, or has a colour or matrix that is none.
    """
    _check(scene, plan)
    by_id = {entry.id: entry for entry in plan.paths}
    paths = []
    for path in scene.paths:
        entry = by_id[path.id]
        if entry.action == "freeze" or (entry.action == "keep" and path.locked):
            paths.append(path)
        elif entry.action == "keep":
            path = moved(path, entry.matrix) if entry.matrix != IDENTITY else path
            paths.append(path if entry.color is None else _painted(path, entry.color))
    return dataclasses.replace(scene, paths=tuple(paths))


def _check(scene: Scene, plan: AlignmentPlan) -> None:
    known, named = [path.id for path in scene.paths], [entry.id for entry in plan.paths]
    if sorted(known) != sorted(named):
        wrong = sorted(set(known) ^ set(named)) or ["one of them twice"]
        raise ConfigError(
            f"the plan has {len(named)} paths, the exemplar {len(known)}; they differ in {', '.join(wrong[:5])}. "
            "List every path of the exemplar once; action 'drop' removes one."
        )
    locked = {path.id for path in scene.paths if path.locked}
    for entry in plan.paths:
        if entry.color is not None and not all(abs(value - 0.5) < 0.5001 for value in entry.color):
            raise ConfigError(f"the plan's colour of {entry.id} is {list(entry.color)}; expected values in [0, 1].")
        if not all(math.isfinite(value) for value in entry.matrix):
            raise ConfigError(f"the plan's matrix of {entry.id} is {list(entry.matrix)}; expected finite numbers.")
        if not 1e-3 < scale_of(entry.matrix) < 1e3:
            raise ConfigError(f"the plan's matrix of {entry.id} flattens or explodes it; expected a scale near 1.")
        if entry.id in locked and (entry.action == "drop" or entry.matrix != IDENTITY or entry.color is not None):
            raise ConfigError(
                f"the plan changes {entry.id}, which is drawn through <use>; freeze it, or unlink the clone first."
            )
    if all(entry.action == "drop" for entry in plan.paths):
        raise ConfigError("the plan drops every path; keep at least one, or lower least_confidence.")


def _painted(path, color: tuple[float, float, float]):
    """With another fill, or another stroke where there is no fill."""
    if path.fill is not None:
        fill = Paint(color=torch.tensor(color).to(path.fill.color), opacity=path.fill.opacity)
        return dataclasses.replace(path, fill=fill)
    old = path.stroke.paint
    paint = Paint(color=torch.tensor(color).to(old.color), opacity=old.opacity)
    return dataclasses.replace(path, stroke=dataclasses.replace(path.stroke, paint=paint))
