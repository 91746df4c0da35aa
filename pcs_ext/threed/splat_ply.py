"""Gaussian splats in the PLY that splat viewers and editors read (Kerbl et al. 2023, arXiv 2308.04079).

Splats that were learned are written as they are. Of a mesh a flat splat lies on every face: nothing is optimised in
that, it is the surface in another form, for tools that take no other.
"""

from typing import Any

import numpy as np
import torch

from pcs_ext.threed.splats import AbstractSplats

_SH_BASE = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi))."""
_FARTHER_BANDS = 45
"""Coefficients of degrees 1 to 3, all 0: readers count them."""
_OPACITY = 0.98
_SPREAD = 0.55
"""Standard deviation along the face, of the square root of its area: neighbours overlap without a gap."""
_THICKNESS = 0.1
"""Of the standard deviation along the face, across it."""


def mesh_splat_bytes(mesh: Any) -> bytes:
    """One splat per face of a `trimesh.Trimesh` with vertex colours, in its axes, as a binary PLY."""
    return _ply_bytes(
        mesh.triangles_center,
        mesh.face_normals,
        _face_colors(mesh),
        np.full((len(mesh.faces), 1), np.log(_OPACITY / (1 - _OPACITY))),
        np.log(_scales(mesh)),
        _rotations(mesh.face_normals),
    )


def splat_bytes(splats: AbstractSplats) -> bytes:
    """Splats that were learned, those that are alive, as a binary PLY."""
    rows = []
    for part in splats.parts():
        kept = part.alive.nonzero()[:, 0]
        values = (part.places, torch.sigmoid(part.raw_colors), part.raw_opacities[:, None], part.log_scales, part.turns)
        rows.append([value.detach()[kept].double().numpy() for value in values])
    places, colors, opacities, scales, turns = (np.concatenate(column) for column in zip(*rows, strict=True))
    turns = turns / np.linalg.norm(turns, axis=1, keepdims=True)
    return _ply_bytes(places, np.zeros_like(places), colors, opacities, scales, turns)


def _ply_bytes(
    places: np.ndarray,
    normals: np.ndarray,
    colors: np.ndarray,
    raw_opacities: np.ndarray,
    log_scales: np.ndarray,
    turns: np.ndarray,
) -> bytes:
    farther = np.zeros((len(places), _FARTHER_BANDS))
    constant = (colors - 0.5) / _SH_BASE
    values = np.concatenate([places, normals, constant, farther, raw_opacities, log_scales, turns], axis=1)
    names = [
        *("x", "y", "z", "nx", "ny", "nz"),
        *(f"f_dc_{index}" for index in range(3)),
        *(f"f_rest_{index}" for index in range(_FARTHER_BANDS)),
        "opacity",
        *(f"scale_{index}" for index in range(3)),
        *(f"rot_{index}" for index in range(4)),
    ]
    properties = "".join(f"property float {name}\n" for name in names)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(values)}\n{properties}end_header\n"
    return header.encode() + values.astype("<f4").tobytes()


def _face_colors(mesh: Any) -> np.ndarray:
    """RGB `n 3` in [0, 1]."""
    corners = np.asarray(mesh.visual.vertex_colors)[:, :3] / 255.0
    return corners[mesh.faces].mean(1)


def _scales(mesh: Any) -> np.ndarray:
    """Standard deviations `n 3` along two directions of the face and across it."""
    along = _SPREAD * np.sqrt(np.maximum(mesh.area_faces, 1e-12))
    return np.stack([along, along, _THICKNESS * along], 1)


def _rotations(normals: np.ndarray) -> np.ndarray:
    """Unit quaternions `n 4`, real part first, that turn the z axis to unit normals `n 3`."""
    # Half way between z and the normal; for a normal of -z any half turn about a flat axis will do.
    turns = np.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], np.zeros(len(normals))], 1)
    turns[1 + normals[:, 2] < 1e-6] = (0, 1, 0, 0)
    return turns / np.linalg.norm(turns, axis=1, keepdims=True)
