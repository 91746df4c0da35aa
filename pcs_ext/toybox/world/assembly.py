"""The parts of a batch of scenes as tensors, in world space."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.toybox.world.build import build
from pcs_ext.toybox.world.parts import IDENTITY, Rotation, Vector, apply, matmul, rotation_y, rotation_z
from pcs_ext.toybox.world.scene import Scene, SceneObject
from pcs_ext.toybox.world.vocabulary import PATTERNS

ROLL_HEIGHT = 0.8
"""Objects roll about the facing axis at this height."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assembly:
    """All parts of all scenes, sorted by kind of primitive (so each kind is one slice). P parts."""

    kinds: tuple[tuple[int, int, int], ...]
    """(kind, first, last + 1) of every kind that occurs."""
    scene: Tensor
    """P int64: which scene of the batch."""
    object: Tensor
    """P int64: which object of the scene."""
    index: Tensor
    """P int64: place in the object's own part list."""
    matrix: Tensor
    """P 3 3: unit primitive to world, without the translation."""
    inverse: Tensor
    """P 3 3: its inverse."""
    center: Tensor
    """P 3: world translation."""
    size: Tensor
    """P 3: half sizes."""
    color: Tensor
    """P 3: RGB in [0, 1]."""
    pattern: Tensor
    """P int64: index in PATTERNS, 0 for plain parts."""
    to_object: Tensor
    """P 3 4: unit primitive to the object's frame, last column the translation."""


def pose(toy: SceneObject) -> tuple[Rotation, Vector]:
    """Object to world: rotation and translation."""
    rotation = IDENTITY if toy.heading == 0 else rotation_z(toy.heading)
    if toy.roll == 0:
        return rotation, toy.position
    rotation = matmul(rotation, rotation_y(toy.roll))
    rolled = apply(rotation, (0.0, 0.0, ROLL_HEIGHT))
    x, y, z = toy.position
    return rotation, (x - rolled[0], y - rolled[1], z - rolled[2] + ROLL_HEIGHT)


def assemble(scenes: Sequence[Scene], device: torch.device) -> Assembly:
    """Tensors of all parts. The scenes' motions are not applied: pose them first (`motion.posed`)."""
    floats: list[tuple[float, ...]] = []
    ints: list[tuple[int, int, int, int, int]] = []
    for s, scene in enumerate(scenes):
        for o, toy in enumerate(scene.objects):
            rotation, translation = pose(toy)
            placed = (*rotation[0], *rotation[1], *rotation[2], *translation)
            pattern = PATTERNS.index(toy.pattern)
            for i, part in enumerate(build(toy)):
                r = part.rotation
                floats.append((*r[0], *r[1], *r[2], *part.size, *part.center, *part.color, *placed))
                ints.append((part.kind, s, o, i, pattern if part.patterned else 0))
    integers = torch.tensor(ints, dtype=torch.int64)
    order = torch.argsort(integers[:, 0], stable=True)
    integers = integers[order]
    return _assembly(torch.tensor(floats, dtype=torch.float64)[order], integers, _slices(integers[:, 0]), device)


def _assembly(
    values: Tensor, integers: Tensor, kinds: tuple[tuple[int, int, int], ...], device: torch.device
) -> Assembly:
    rotation, size, center, color = values[:, :9].view(-1, 3, 3), values[:, 9:12], values[:, 12:15], values[:, 15:18]
    placed, translation = values[:, 18:27].view(-1, 3, 3), values[:, 27:30]
    world = _product(placed, rotation)
    to_object = torch.cat([rotation * size[:, None, :], center[:, :, None]], 2)
    world_center = _product(placed, center[:, :, None])[:, :, 0] + translation

    def single(tensor: Tensor) -> Tensor:
        return tensor.to(torch.float32).to(device)

    return Assembly(
        kinds=kinds,
        scene=integers[:, 1].to(device),
        object=integers[:, 2].to(device),
        index=integers[:, 3].to(device),
        matrix=single(world * size[:, None, :]),
        inverse=single(world.transpose(1, 2) / size[:, :, None]),
        center=single(world_center),
        size=single(size),
        color=single(color),
        pattern=integers[:, 4].to(device),
        to_object=single(to_object),
    )


def _product(a: Tensor, b: Tensor) -> Tensor:
    # Written out: a batched matmul may round differently for other batch sizes, and pixels must not depend on those.
    return a[:, :, 0:1] * b[:, 0:1] + a[:, :, 1:2] * b[:, 1:2] + a[:, :, 2:3] * b[:, 2:3]


def _slices(kinds: Tensor) -> tuple[tuple[int, int, int], ...]:
    counts = torch.bincount(kinds, minlength=4).tolist()
    slices, first = [], 0
    for kind, count in enumerate(counts):
        if count:
            slices.append((kind, first, first + count))
        first += count
    return tuple(slices)
