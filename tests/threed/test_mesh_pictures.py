"""Pictures of mesh files that cannot be decoded are named; the meshes came out grey, or ended in tracebacks."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh
from PIL import Image

from pcs_ext.errors import InputError
from pcs_ext.threed.mesh import read_mesh, write_mesh
from pcs_ext.threed.texture import TextureConfig, bake_texture


def painted(path: Path) -> Path:
    """A ball with a picture of its colours and one of its materials."""

    def paint(places: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        return torch.cat([normals * 0.5 + 0.5, places[:, :2].abs()], 1)

    ball = trimesh.creation.icosphere(1)
    write_mesh(bake_texture(ball, paint, TextureConfig(size=64, layout="grid")), path)
    return path


def damaged(data: bytes, how: str) -> bytes:
    """A picture's bytes, as many, of which less can be read."""
    if how == "another kind":
        return b"hello wo" + data[8:]
    half = len(data) // 2
    return data[:half] + b"\xff" * (len(data) - half)


@pytest.mark.parametrize("how", ["another kind", "half"])
def test_an_obj_names_its_damaged_picture(tmp_path: Path, how: str) -> None:
    path, picture = painted(tmp_path / "ball.obj"), tmp_path / "ball.png"
    assert read_mesh(path).visual.kind == "texture"
    picture.write_bytes(damaged(picture.read_bytes(), how))
    with pytest.raises(InputError, match=r"ball\.obj: the picture ball\.png of one of its materials cannot be read"):
        read_mesh(path)


@pytest.mark.parametrize("how", ["another kind", "half"])
@pytest.mark.parametrize("key", ["baseColorTexture", "metallicRoughnessTexture"])
def test_a_glb_refuses_its_damaged_picture(tmp_path: Path, how: str, key: str) -> None:
    path = painted(tmp_path / "ball.glb")
    assert read_mesh(path).visual.kind == "texture"
    data = path.read_bytes()
    (length,) = struct.unpack("<I", data[12:16])
    document = json.loads(data[20 : 20 + length])
    surface = document["materials"][0]["pbrMetallicRoughness"]
    source = document["textures"][surface[key]["index"]]["source"]
    view = document["bufferViews"][document["images"][source]["bufferView"]]
    begin = 20 + length + 8 + view.get("byteOffset", 0)
    end = begin + view["byteLength"]
    path.write_bytes(data[:begin] + damaged(data[begin:end], how) + data[end:])
    with pytest.raises(InputError, match="of one of its materials cannot be read"):
        read_mesh(path)


def test_a_glb_names_the_picture_that_does_not_lie_beside_it(tmp_path: Path) -> None:
    path, picture = painted(tmp_path / "ball.glb"), tmp_path / "my wood.png"
    data = path.read_bytes()
    (length,) = struct.unpack("<I", data[12:16])
    document: dict[str, Any] = json.loads(data[20 : 20 + length])
    for image in document["images"]:
        del image["bufferView"]
        image["uri"] = "my%20wood.png"
    text, rest = json.dumps(document).encode(), data[20 + length :]
    text += b" " * (-len(text) % 4)
    path.write_bytes(struct.pack("<5I", 0x46546C67, 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest)
    with pytest.raises(InputError, match=r"its picture 'my%20wood\.png' does not lie beside it"):
        read_mesh(path)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(picture)
    assert read_mesh(path).visual.kind == "texture"
