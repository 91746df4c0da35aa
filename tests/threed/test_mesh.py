"""Surfaces of known shapes, and files read back."""

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pcs_ext.errors import InputError, UsageError
from pcs_ext.image.types import ParameterGroup
from pcs_ext.threed.fields import AbstractField, Bounds, Queried, VoxelField
from pcs_ext.threed.mesh import MeshConfig, extract_mesh, read_mesh, write_mesh


class Ball(AbstractField):
    """Density falls exponentially through 10 at the radius; red above, blue below; optionally with a speck."""

    def __init__(self, radius: float = 0.6, center: tuple[float, float, float] = (0.0, 0.0, 0.75), speck: bool = False):
        super().__init__()
        self.bounds, self.radius, self.speck = Bounds(), radius, speck
        self.center = torch.tensor(center)

    def query(self, points: Tensor) -> Queried:
        """See the base class."""
        depth = self.radius - (points - self.center).norm(dim=-1)
        if self.speck:
            depth = torch.maximum(depth, 0.08 - (points - torch.tensor([1.2, 1.2, 0.75])).norm(dim=-1))
        density = 10 * torch.exp((20 * depth).clamp(-12, 5))
        high = (points[:, 2:] > self.center[2]).float()
        return Queried(density, torch.cat([high, torch.zeros_like(high), 1 - high], 1))

    def groups(self) -> list[ParameterGroup]:
        """Nothing."""
        return []


def test_a_ball_is_a_closed_ball() -> None:
    mesh = extract_mesh(Ball(), MeshConfig(resolution=96))
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=2e-3)
    assert mesh.center_mass.tolist() == pytest.approx([0, 0, 0.75], abs=1e-3)
    outward = ((mesh.face_normals * (mesh.triangles_center - [0, 0, 0.75])).sum(1) > 0).mean()
    assert outward == 1


def test_a_soft_field_is_cut_at_its_own_share_and_an_empty_one_is_refused() -> None:
    plain = extract_mesh(Ball(), MeshConfig(resolution=40, threshold=300))
    soft = extract_mesh(Ball(), MeshConfig(resolution=40, threshold=1e9, relative=300 / 1484.1))  # 10 exp(5) at most
    assert soft.volume == pytest.approx(plain.volume, rel=1e-3)
    empty = VoxelField(8)
    with torch.no_grad():
        empty.density_grid.fill_(-4.0)
    with pytest.raises(UsageError, match="Lower the threshold or train longer"):
        extract_mesh(empty, MeshConfig(resolution=16, relative=0.5))


def test_a_surface_at_the_wall_is_closed() -> None:
    mesh = extract_mesh(Ball(center=(1.4, 0.0, 0.75)), MeshConfig(resolution=48))
    assert mesh.is_watertight
    assert mesh.volume > 0


def test_specks_go() -> None:
    kept = extract_mesh(Ball(speck=True), MeshConfig(resolution=64, smallest_part=0))
    cleaned = extract_mesh(Ball(speck=True), MeshConfig(resolution=64))
    assert kept.body_count == 2
    assert cleaned.body_count == 1


class Shell(Ball):
    """A ball that is empty below 0.2 under its surface, as fits to pictures are."""

    def query(self, points: Tensor) -> Queried:
        """See the base class."""
        full = super().query(points)
        return Queried(full.density * ((points - self.center).norm(dim=-1) > 0.4), full.albedo)


def test_cavities_are_filled() -> None:
    hollow = extract_mesh(Shell(), MeshConfig(resolution=64, fill_cavities=False))
    filled = extract_mesh(Shell(), MeshConfig(resolution=64))
    assert hollow.body_count == 2
    assert filled.body_count == 1
    assert hollow.volume == pytest.approx(4 / 3 * math.pi * (0.6**3 - 0.4**3), rel=0.05)
    assert filled.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=5e-3)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_files_read_back_with_their_colours(tmp_path: Path, kind: str) -> None:
    mesh = extract_mesh(Ball(), MeshConfig(resolution=40))
    write_mesh(mesh, tmp_path / f"ball.{kind}")
    again = read_mesh(tmp_path / f"ball.{kind}")
    assert len(again.faces) == len(mesh.faces)
    assert again.volume == pytest.approx(mesh.volume, rel=1e-4)
    assert np.allclose(again.bounds, mesh.bounds, atol=1e-5)
    top = again.visual.vertex_colors[again.vertices[:, 2].argmax()]
    bottom = again.visual.vertex_colors[again.vertices[:, 2].argmin()]
    assert top.tolist() == [255, 0, 0, 255]
    assert bottom.tolist() == [0, 0, 255, 255]


def test_glb_is_y_up(tmp_path: Path) -> None:
    write_mesh(extract_mesh(Ball(), MeshConfig(resolution=32)), tmp_path / "ball.glb")
    data = (tmp_path / "ball.glb").read_bytes()
    assert data[:4] == b"glTF"
    header = json.loads(data[20 : 20 + struct.unpack("<I", data[12:16])[0]])
    position = header["accessors"][header["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    middle = (np.array(position["min"]) + np.array(position["max"])) / 2
    assert middle.tolist() == pytest.approx([0, 0.75, 0], abs=1e-3)
    assert "COLOR_0" in header["meshes"][0]["primitives"][0]["attributes"]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Lower the threshold"):
        extract_mesh(Ball(), MeshConfig(resolution=16, threshold=1e9))
    with pytest.raises(UsageError, match="Choose one of these"):
        write_mesh(extract_mesh(Ball(), MeshConfig(resolution=16)), tmp_path / "ball.stl")
    (tmp_path / "bad.glb").write_bytes(b"no mesh")
    with pytest.raises(InputError, match="Export it again"):
        read_mesh(tmp_path / "bad.glb")
