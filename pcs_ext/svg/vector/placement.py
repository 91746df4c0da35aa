"""Similarity transforms of the plane: fitted to pairs of points (Procrustes), applied to paths."""

import dataclasses
import math

import torch
from torch import Tensor

from pcs_ext.svg.vector.geometry import Matrix, apply
from pcs_ext.svg.vector.scene import Path


def procrustes(source: Tensor, target: Tensor, weight: Tensor) -> Matrix:
    """The similarity (turn, scale, shift; no mirror) with the least weighted squared distance.

    Points as complex numbers: t = a s + b, a = sum w conj(s) t / sum w |s|² about the weighted means (Umeyama 1991 in
    the plane).

    Args:
        source: `n 2`.
        target: `n 2`.
        weight: `n`, at least 0, not all 0.

    Returns:
        A shift alone where the source is a single point.
    """
    share = weight.double() / weight.double().sum()
    centre, goal = (share[:, None] * source).sum(0), (share[:, None] * target).sum(0)
    now = torch.view_as_complex((source.double() - centre).contiguous())
    then = torch.view_as_complex((target.double() - goal).contiguous())
    power = float((share * now.abs().square()).sum())
    turn = complex((share * now.conj() * then).sum()) / power if power > 1e-9 else 1 + 0j
    return about(turn, centre, goal)


def about(turn: complex, centre: Tensor, goal: Tensor) -> Matrix:
    """The similarity that turns and scales by `turn` and takes the point `centre` to `goal`."""
    x, y = centre.tolist()
    shift = complex(*goal.tolist()) - turn * complex(x, y)
    return (turn.real, turn.imag, -turn.imag, turn.real, shift.real, shift.imag)


def robust_procrustes(source: Tensor, target: Tensor, weight: Tensor, tolerance: float, rounds: int = 6) -> Matrix:
    """`procrustes` in which pairs that do not fit lose their weight (Cauchy weights, iterated).

    Args:
        source: `n 2`.
        target: `n 2`.
        weight: `n`.
        tolerance: residual at which a pair has half its weight, in the points' unit.
        rounds: of reweighting.
    """
    matrix = procrustes(source, target, weight)
    for _ in range(rounds):
        rest = (apply(matrix, source) - target).square().sum(1)
        matrix = procrustes(source, target, weight / (1 + rest / tolerance**2))
    return matrix


def scale_of(matrix: Matrix) -> float:
    """How much a transform scales lengths (root of the area's factor)."""
    return math.sqrt(abs(matrix[0] * matrix[3] - matrix[1] * matrix[2]))


def moved(path: Path, matrix: Matrix) -> Path:
    """A path with all its points, and its stroke's width, under a transform."""
    subpaths = tuple(dataclasses.replace(s, points=apply(matrix, s.points)) for s in path.subpaths)
    stroke = path.stroke and dataclasses.replace(path.stroke, width=path.stroke.width * scale_of(matrix))
    return dataclasses.replace(path, subpaths=subpaths, stroke=stroke)
