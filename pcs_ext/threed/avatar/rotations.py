"""Rotations as matrices, as six numbers and as angles."""

import torch
from torch import Tensor
from torch.nn import functional


def six_of(matrices: Tensor) -> Tensor:
    """The first two columns, `... 6`, of rotations `... 3 3`: a continuous form (arXiv 1812.07035)."""
    return torch.cat([matrices[..., 0], matrices[..., 1]], -1)


def matrices_of(six: Tensor) -> Tensor:
    """Rotations `... 3 3` of six numbers `... 6` by Gram and Schmidt (Zhou et al. 2019, arXiv 1812.07035, eq. 15).

    Any numbers give a rotation, unless the two columns are parallel. Differentiable.
    """
    first = functional.normalize(six[..., :3], dim=-1)
    second = six[..., 3:] - (first * six[..., 3:]).sum(-1, keepdim=True) * first
    second = functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)


def from_angles(degrees: Tensor) -> Tensor:
    """Rotations `... 3 3` of angles `... 3` about x, y and z, degrees: about y first, then x, then z."""
    x, y, z = torch.deg2rad(degrees).unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)

    def rows(*values: Tensor) -> Tensor:
        return torch.stack(values, -1).unflatten(-1, (3, 3))

    about_x = rows(one, zero, zero, zero, x.cos(), -x.sin(), zero, x.sin(), x.cos())
    about_y = rows(y.cos(), zero, y.sin(), zero, one, zero, -y.sin(), zero, y.cos())
    about_z = rows(z.cos(), -z.sin(), zero, z.sin(), z.cos(), zero, zero, zero, one)
    return about_z @ about_x @ about_y


def angle_between(first: Tensor, second: Tensor) -> Tensor:
    """Degrees `...`, in [0, 180], by which rotations `... 3 3` differ."""
    cosine = ((first * second).sum((-2, -1)) - 1) / 2
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))


def quaternions_of(matrices: Tensor) -> Tensor:
    """Unit quaternions `n 4` (x, y, z, w, as glTF has them) of rotations `n 3 3`."""
    m = matrices
    trace = m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2]
    squares = torch.stack([1 + 2 * m[:, 0, 0] - trace, 1 + 2 * m[:, 1, 1] - trace, 1 + 2 * m[:, 2, 2] - trace,
                           1 + trace], -1)  # fmt: skip
    xy, xz, yz = m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0], m[:, 1, 2] + m[:, 2, 1]
    wx, wy, wz = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    candidates = torch.stack(
        [
            torch.stack([squares[:, 0], xy, xz, wx], -1),
            torch.stack([xy, squares[:, 1], yz, wy], -1),
            torch.stack([xz, yz, squares[:, 2], wz], -1),
            torch.stack([wx, wy, wz, squares[:, 3]], -1),
        ],
        1,
    )
    # The largest component is divided by, so that nothing is lost near half turns.
    best = candidates[torch.arange(len(m)), squares.argmax(1)]
    return functional.normalize(best, dim=-1)
