"""Faces of more than three corners as triangles, inward corners included.

A fan around the first corner, which mesh readers make, covers ground outside of a face that turns inward.
"""

import numpy as np


def turns_inward(places: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Which of `m` faces of `k` corners have an inward one, `m` booleans; none that names corners that are not there.

    Args:
        places: of all corners, `n 3`.
        faces: numbers of corners from 0, in order, `m k`.
    """
    exist = np.all((faces >= 0) & (faces < len(places)), axis=1)
    inward = np.zeros(len(faces), bool)
    with np.errstate(all="ignore"):  # corners may be anywhere; that they are finite is checked later
        inward[exist] = _bends_back(places[faces[exist]])
    return inward


def _bends_back(corners: np.ndarray) -> np.ndarray:
    bends = np.cross(corners - np.roll(corners, 1, 1), np.roll(corners, -1, 1) - corners)
    along = np.einsum("mki,mi->mk", bends, normals(corners))
    return (along < -1e-9 * np.abs(along).max(1, keepdims=True)).any(1)


def normals(corners: np.ndarray) -> np.ndarray:
    """Normals `m 3` of faces `m k 3`, twice their areas long (Newell); corners need not lie in one plane."""
    centred = corners - corners.mean(1, keepdims=True)
    return np.cross(centred, np.roll(centred, -1, 1)).sum(1)


def ears(corners: np.ndarray) -> list[tuple[int, int, int]]:
    """Triangles of one face `k 3` by clipping ears: `k - 2` triples of its corners' numbers, turning as it does.

    Where none is left, as in a face that crosses itself, the rest becomes a fan.
    """
    flat = _flattened(corners)
    left, found = list(range(len(flat))), []
    while len(left) > 3:
        at = next((i for i in range(len(left)) if _is_ear(flat, left, i)), None)
        if at is None:
            break
        found.append((left[at - 1], left[at], left[(at + 1) % len(left)]))
        del left[at]
    return found + [(left[0], left[i], left[i + 1]) for i in range(1, len(left) - 1)]


def _flattened(corners: np.ndarray) -> np.ndarray:
    """Corners `k 2` in the plane that the face turns counter-clockwise in."""
    normal = normals(corners[None])[0]
    side = np.eye(3)[np.abs(normal).argmin()]
    first = np.cross(normal, side)
    axes = np.stack([first, np.cross(normal, first)], 1)
    return corners @ (axes / np.maximum(np.linalg.norm(axes, axis=0), 1e-30))


def _is_ear(flat: np.ndarray, left: list[int], at: int) -> bool:
    """Whether a corner bends outward and nothing of the face lies in its triangle."""
    a, b, c = (flat[left[i % len(left)]] for i in (at - 1, at, at + 1))
    if _area(a, b, c) <= 0:
        return False
    others = flat[[left[(at + 2 + i) % len(left)] for i in range(len(left) - 3)]]
    inside = (_area(a, b, others) >= 0) & (_area(b, c, others) >= 0) & (_area(c, a, others) >= 0)
    # Corners that stand on those of the triangle, as on the bridge to a hole, do not hide it.
    apart = np.stack([np.abs(others - corner).max(1) > 0 for corner in (a, b, c)]).all(0)
    return not (inside & apart).any()


def _area(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the signed areas of triangles, the last corner `2` or `n 2`."""
    return (b[0] - a[0]) * (c[..., 1] - a[1]) - (b[1] - a[1]) * (c[..., 0] - a[0])
