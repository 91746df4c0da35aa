"""The bones of the capsule body and where they are when its joints turn."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from pcs_ext.threed.body_template import PARTS
from pcs_ext.threed.cameras import Vector

_JOINTS: dict[str, tuple[str, Vector]] = {
    "hips": ("", (0.0, 0.0, 0.98)),
    "belly": ("hips", (0.0, 0.0, 1.05)),
    "chest": ("belly", (0.0, 0.0, 1.3)),
    "neck": ("chest", (0.0, 0.0, 1.5)),
    "head": ("neck", (0.0, 0.0, 1.64)),
    "left arm": ("chest", (0.24, 0.0, 1.42)),
    "left forearm": ("left arm", (0.45, 0.0, 1.1)),
    "right arm": ("chest", (-0.24, 0.0, 1.42)),
    "right forearm": ("right arm", (-0.45, 0.0, 1.1)),
    "left thigh": ("hips", (0.11, 0.0, 0.95)),
    "left shin": ("left thigh", (0.14, 0.0, 0.5)),
    "left foot": ("left shin", (0.16, 0.02, 0.08)),
    "right thigh": ("hips", (-0.11, 0.0, 0.95)),
    "right shin": ("right thigh", (-0.14, 0.0, 0.5)),
    "right foot": ("right shin", (-0.16, 0.02, 0.08)),
}
"""Part of the body -> what it hangs on, and where it turns, world units; parents come first."""
NAMES = tuple(_JOINTS)
PARENTS = tuple(-1 if not parent else NAMES.index(parent) for parent, _ in _JOINTS.values())
REST = torch.tensor([place for _, place in _JOINTS.values()])
"""Places of the joints in the standing body, `j 3`."""


@dataclasses.dataclass(frozen=True)
class Bones:
    """Where the bones of `b` bodies are."""

    rotations: Tensor
    """`b j 3 3`, in the world."""
    places: Tensor
    """`b j 3`, of the joints, world units."""

    def carry(self, joint: int, points: Tensor) -> Tensor:
        """World points `n 3` of the standing body, moved as one bone moves: `b n 3`."""
        local = points - REST[joint].to(points)
        return torch.einsum("bij,nj->bni", self.rotations[:, joint], local) + self.places[:, None, joint]

    def __getitem__(self, index: slice) -> "Bones":
        return Bones(self.rotations[index], self.places[index])


def turned(turns: Tensor) -> Bones:
    """The bones when every joint turns against its parent; the lowest capsule touches the ground (z = 0).

    Axes are the world's in the standing body: x to its left, y to its back, z up.

    Args:
        turns: rotations `b j 3 3`.
    """
    rotations: list[Tensor] = []
    places: list[Tensor] = []
    for joint, parent in enumerate(PARENTS):
        if parent < 0:
            rotations.append(turns[:, joint])
            places.append(REST[joint].to(turns).expand(len(turns), 3))
            continue
        offset = (REST[joint] - REST[parent]).to(turns)
        places.append(places[parent] + rotations[parent] @ offset)
        rotations.append(rotations[parent] @ turns[:, joint])
    free = Bones(torch.stack(rotations, 1), torch.stack(places, 1))
    ground = torch.zeros_like(free.places[:, :1])
    ground[..., 2] = lowest(free)[:, None]
    return Bones(free.rotations, free.places - ground)


def lowest(bones: Bones) -> Tensor:
    """Height `b` of the lowest point of the capsules, world units."""
    heights = []
    for name, start, end, radius in PARTS:
        ends = bones.carry(NAMES.index(name), bones.places.new_tensor([start, end]))
        heights.append(ends[..., 2].amin(1) - radius)
    return torch.stack(heights, 1).amin(1)


def hands(bones: Bones) -> dict[str, Tensor]:
    """Ends of the forearms, `b 3`, by side."""
    return {name.split()[0]: _end(bones, name) for name in ("left forearm", "right forearm")}


def _end(bones: Bones, name: str) -> Tensor:
    part: Any = next(part for part in PARTS if part[0] == name)
    return bones.carry(NAMES.index(name), bones.places.new_tensor([part[2]]))[:, 0]
