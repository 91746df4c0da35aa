"""Rotations, bones, skin, and the GLB that carries them."""

import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from pcs_ext.errors import InputError
from pcs_ext.threed.avatar.figure import BODY, Figure, capsule_body, standing
from pcs_ext.threed.avatar.pose_set import Described, draw_poses
from pcs_ext.threed.avatar.pose_words import ARMS, LEGS
from pcs_ext.threed.avatar.rotations import angle_between, from_angles, matrices_of, quaternions_of, six_of
from pcs_ext.threed.avatar.skeleton import NAMES, REST, hands, lowest, turned
from pcs_ext.threed.avatar.skinned_glb import write_skinned
from pcs_ext.threed.avatar.skinning import skin_weights, skinned
from pcs_ext.threed.body_template import body_distance
from pcs_ext.threed.mesh import read_mesh, write_mesh

STILL = torch.eye(3).expand(1, len(NAMES), 3, 3)


def said(*texts: str) -> torch.Tensor:
    """A pose of phrases, `1 j 3 3`."""
    phrases = tuple(phrase for text in texts for phrase in (*LEGS, *ARMS) if text in phrase.texts)
    assert len(phrases) == len(texts)
    return draw_poses([Described("", phrases)], torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def body() -> Any:
    return capsule_body(40)


def test_rotations_go_there_and_back() -> None:
    angles = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 360 - 180
    found = from_angles(angles.double())
    other = Rotation.from_euler("yxz", angles.double().numpy()[:, [1, 0, 2]], degrees=True)
    torch.testing.assert_close(found, torch.from_numpy(other.as_matrix()), atol=1e-6, rtol=0)
    torch.testing.assert_close(matrices_of(six_of(found)), found)
    torch.testing.assert_close(matrices_of(six_of(found) * torch.tensor([3.0] * 3 + [0.5] * 3)), found)
    quaternions = quaternions_of(found).numpy()
    np.testing.assert_allclose(Rotation.from_quat(quaternions).as_matrix(), found.numpy(), atol=1e-9)
    quarter = from_angles(torch.tensor([0.0, 0.0, 90.0]))
    assert float(angle_between(quarter, torch.eye(3))) == pytest.approx(90, abs=1e-3)
    torch.testing.assert_close(quarter @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)


def test_bones_hang_together_and_stand_on_the_ground() -> None:
    bones = turned(STILL)
    drop = bones.places - REST
    torch.testing.assert_close(drop, drop[:, :1].expand_as(drop))
    assert float(lowest(bones)[0]) == pytest.approx(0, abs=1e-6)
    pose = said("sitting", "raising the left arm")
    bones = turned(pose)
    assert float(lowest(bones)[0]) == pytest.approx(0, abs=1e-6)
    head, hips = (bones.places[0, NAMES.index(name), 2] for name in ("head", "hips"))
    assert hands(bones)["left"][0, 2] > head > hands(bones)["right"][0, 2]
    assert hips < 0.7 * REST[0, 2]
    knee, foot = (bones.places[0, NAMES.index(name)] for name in ("left shin", "left foot"))
    assert knee[1] < -0.3  # the thigh points to the front
    assert foot[2] < knee[2] - 0.3
    for joint, parent in ((NAMES.index("left forearm"), NAMES.index("left arm")), (4, 3)):
        length = (bones.places[0, joint] - bones.places[0, parent]).norm()
        torch.testing.assert_close(length, (REST[joint] - REST[parent]).norm())


def test_skin_blends_bones(body: Any) -> None:
    points = torch.from_numpy(np.array(body.vertices)).float()
    weights = skin_weights(points)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(points)))
    assert int((weights > 0).sum(1).max()) <= 4
    middle = skin_weights(torch.tensor([[0.142, 0.0, 0.47], [0.0, 0.0, 1.8]]))
    assert middle[0].argmax() == NAMES.index("left shin")
    assert float(middle[1, NAMES.index("head")]) > 0.99
    # One rotation of everything turns the skin as a whole.
    pose = STILL.clone()
    pose[0, 0] = from_angles(torch.tensor([10.0, 20.0, 30.0]))
    bones = turned(pose)
    found = skinned(points, weights, bones)[0]
    expected = (points - REST[0]) @ pose[0, 0].T + bones.places[0, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # Between two bones, by hand.
    half = torch.zeros(1, len(NAMES))
    half[0, [9, 10]] = 0.5
    pose = said("sitting")
    bones = turned(pose)
    place = torch.tensor([[0.14, 0.05, 0.5]])
    both = [bones.carry(joint, place)[0, 0] for joint in (9, 10)]
    torch.testing.assert_close(skinned(place, half, bones)[0, 0], (both[0] + both[1]) / 2)


def glb_parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """The JSON and the bytes of a GLB."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<III", data)
    assert (magic, version, length) == (0x46546C67, 2, len(data))
    size = struct.unpack_from("<I", data, 12)[0]
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def values(document: dict[str, Any], data: bytes, index: int) -> np.ndarray:
    """What an accessor holds."""
    accessor = document["accessors"][index]
    kind = {5126: np.float32, 5121: np.uint8, 5125: np.uint32}[accessor["componentType"]]
    width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}[accessor["type"]]
    start = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    return np.frombuffer(data, kind, accessor["count"] * width, start).reshape(-1, width)


def world_of(nodes: list[dict[str, Any]], index: int, above: np.ndarray, found: dict[int, np.ndarray]) -> None:
    """Global transforms of a node and those below it, as glTF defines them."""
    local = np.eye(4)
    local[:3, :3] = Rotation.from_quat(nodes[index]["rotation"]).as_matrix()
    local[:3, 3] = nodes[index]["translation"]
    found[index] = above @ local
    for child in nodes[index].get("children", ()):
        world_of(nodes, child, found[index], found)


def test_a_rig_in_its_file_is_the_baked_pose(body: Any, tmp_path: Path) -> None:
    figure, turns = Figure.of(body), said("lunging with the left leg", "waving with the right hand")
    bones = turned(turns)
    write_skinned(figure, turns[0], bones, tmp_path / "rig.glb")
    document, data = glb_parts(tmp_path / "rig.glb")
    skin, nodes = document["skins"][0], document["nodes"]
    primitive = document["meshes"][0]["primitives"][0]["attributes"]
    places, joints, weights = (
        values(document, data, primitive[name]) for name in ("POSITION", "JOINTS_0", "WEIGHTS_0")
    )
    bind = values(document, data, skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
    world: dict[int, np.ndarray] = {}
    world_of(nodes, 0, np.eye(4), world)
    matrices = np.stack([world[node] for node in skin["joints"]]) @ bind
    blended = np.einsum("vk,vkab->vab", weights, matrices[joints])
    found = np.einsum("vab,vb->va", blended, np.c_[places, np.ones(len(places))])[:, :3]
    posed = figure.posed(bones)
    expected = np.asarray(posed.vertices) @ np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]).T
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [nodes[node]["name"] for node in skin["joints"]] == list(NAMES)
    assert np.allclose(weights.sum(1), 1, atol=1e-6)
    assert primitive.keys() == {"POSITION", "NORMAL", "JOINTS_0", "WEIGHTS_0", "COLOR_0"}
    loaded = trimesh.load_mesh(tmp_path / "rig.glb", process=False)
    assert len(loaded.faces) == len(body.faces)


def test_the_box_is_the_bodys_and_what_fills_it_stays(body: Any, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    low, high = torch.tensor(BODY)
    around = (torch.rand(200_000, 3, generator=generator) * 1.2 - 0.1) * (high - low) + low
    inside = around[body_distance(around) < 0]
    assert bool(((inside > low - 1e-3) & (inside < high + 1e-3)).all())
    for axis, side in itertools.product(range(3), (0, 1)):  # and each wall is touched
        edge = inside.amin(0) if side == 0 else inside.amax(0)
        assert float((edge - torch.tensor(BODY[side]))[axis].abs()) < 0.03
    write_mesh(body, tmp_path / "body.glb")
    assert np.array_equal(standing(tmp_path / "body.glb").mesh.vertices, read_mesh(tmp_path / "body.glb").vertices)


def test_a_users_figure_is_made_to_stand(body: Any, tmp_path: Path) -> None:
    far = body.copy()
    far.apply_scale(90.0)
    far.apply_translation([40.0, -7.0, 300.0])
    write_mesh(far, tmp_path / "far.glb")
    figure = standing(tmp_path / "far.glb")
    low, high = figure.mesh.bounds
    # Where the body stands from which it was made, feet and all, so that its bones are inside it.
    np.testing.assert_allclose([low[2], high[2]], np.asarray(BODY)[:, 2], atol=1e-5)
    np.testing.assert_allclose(figure.mesh.vertices, body.vertices, atol=0.02)
    near = figure.weights.argmax(1) == skin_weights(torch.from_numpy(np.array(body.vertices)).float()).argmax(1)
    assert float(near.float().mean()) > 0.95
    far.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0]))
    write_mesh(far, tmp_path / "lying.ply")
    with pytest.raises(InputError, match="stands upright"):
        standing(tmp_path / "lying.ply")


def test_a_placed_figure_keeps_the_normals_of_its_file(body: Any, tmp_path: Path) -> None:
    corners = np.asarray(body.vertices)[body.faces].reshape(-1, 3) * 3 + 1
    smooth = np.asarray(body.vertex_normals)[body.faces].reshape(-1, 3)
    faces = np.arange(len(corners)).reshape(-1, 3)
    write_mesh(trimesh.Trimesh(corners, faces, vertex_normals=smooth, process=False), tmp_path / "cut.glb")
    placed = standing(tmp_path / "cut.glb").mesh
    np.testing.assert_allclose(placed.vertex_normals, smooth, atol=1e-3)
    assert placed.bounds[:, 2] == pytest.approx(body.bounds[:, 2], abs=0.1)
