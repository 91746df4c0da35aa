"""Mesh files that are damaged: read where that changes nothing, else refused with one message."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from pcs_ext.errors import InputError
from pcs_ext.threed.mesh import read_mesh


def test_a_thousand_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """Bytes exchanged, lost and put in: nothing but an `InputError` leaves the reader."""
    draw, outcomes = random.Random(3), []
    plain: Any = trimesh.creation.box((1, 2, 3))
    plain.visual.vertex_colors = np.arange(32, dtype=np.uint8).reshape(8, 4)
    whole = {kind: plain.export(file_type=kind) for kind in ("glb", "obj", "ply")}
    for _ in range(1000):
        kind = draw.choice(list(whole))
        data = bytearray(whole[kind].encode() if isinstance(whole[kind], str) else whole[kind])
        place, lost, put = draw.randrange(len(data)), *draw.choice([(1, 1), (1, 1), (3, 0), (0, 2)])
        data[place : place + lost] = draw.randbytes(put)
        path = tmp_path / f"damaged.{kind}"
        path.write_bytes(bytes(data))
        try:
            outcomes.append(len(read_mesh(path).faces) > 0)
        except InputError:
            outcomes.append(False)
    assert 100 < sum(outcomes) < 900, "damage that changes nothing, or leaves nothing"


def test_a_mistake_of_ours_is_not_told_as_damage_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(parts: object, kind: str) -> None:
        raise AttributeError("ours")

    monkeypatch.setattr("pcs_ext.threed.mesh.settle_colors", mistaken)
    data: Any = trimesh.creation.box((1, 2, 3)).export(file_type="glb")
    (tmp_path / "box.glb").write_bytes(data)
    with pytest.raises(AttributeError, match="ours"):
        read_mesh(tmp_path / "box.glb")


def test_texture_coordinates_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "wood.png")
    (tmp_path / "sheet.mtl").write_text("newmtl wood\nmap_Kd wood.png\n")
    corners = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt {} 0\nvt 1 0\nvt 0 1\n"
    path = tmp_path / "sheet.obj"
    for place, sound in (("0", True), ("1e30", False), ("nan", False)):
        path.write_text("mtllib sheet.mtl\n" + corners.format(place) + "usemtl wood\nf 1/1 2/2 3/3\n")
        if sound:
            assert len(read_mesh(path).faces) == 1
            continue
        with pytest.raises(InputError, match="texture coordinates|no numbers|could not read"):
            read_mesh(path)
