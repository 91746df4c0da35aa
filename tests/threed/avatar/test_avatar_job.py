"""`3d avatar` end to end on a tiny model: painting in context, files, going on, refusals."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pcs_ext.cli import main
from pcs_ext.errors import CheckpointError, InputError, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.sample import SampleConfig
from pcs_ext.reporter import SilentReporter
from pcs_ext.threed.avatar.avatar_job import AvatarOptions, pose_avatar
from pcs_ext.threed.avatar.surroundings import NOWHERE, surroundings_of
from pcs_ext.threed.avatar.view_painting import PaintedSurface, PaintingConfig, filled_in
from pcs_ext.threed.cameras import orbit
from pcs_ext.threed.mesh import read_mesh
from pcs_ext.threed.surface import SurfaceMesh
from pcs_ext.threed.triplane.generator_job import GeneratorOptions
from tests.support.killed import killed
from tests.support.small_avatars import pose
from tests.support.small_jobs import HERE, Learned


def ball() -> SurfaceMesh:
    import trimesh

    mesh = trimesh.creation.icosphere(3, radius=0.8)
    return SurfaceMesh(torch.tensor(mesh.vertices).float() + torch.tensor([0.0, 0.0, 1.0]), torch.tensor(mesh.faces))


def folder_in(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def test_pictures_say_the_colours_of_what_they_see() -> None:
    surface, camera = PaintedSurface(ball(), PaintingConfig()), orbit([0.0], [0.0], [5.4], [24.0], (0, 0, 1.0))
    middle = torch.tensor([0.0, 0.0, 1.0])
    front, back, left = (torch.tensor([place]) for place in ([0.0, -1, 0], [0.0, 1, 0], [1.0, 0, 0]))
    image = torch.tensor([0.9, 0.2, 0.1])[:, None, None].expand(3, 48, 48)
    surface.add(camera, image)
    colors, known = surface.colors(torch.cat([front, back, left]) * 0.8 + middle, torch.cat([front, back, left]))
    assert known.tolist() == [True, False, False]
    torch.testing.assert_close(colors[0], torch.tensor([0.9, 0.2, 0.1]))
    picture, covered, there = surface.render(camera, 48)
    assert covered[24, 24]
    assert there[24, 24]
    torch.testing.assert_close(picture[:, 24, 24], torch.tensor([0.9, 0.2, 0.1]))
    assert bool((picture[:, 0, 0] == 1).all())
    assert not there[covered].all()  # what is seen at a flat angle waits for another picture
    _, behind, there = surface.render(orbit([180.0], [0.0], [5.4], [24.0], (0, 0, 1.0)), 48)
    assert not there[behind].any()
    filled = surface.filled(back * 0.8 + middle, back)
    torch.testing.assert_close(filled[0], torch.tensor([0.9, 0.2, 0.1]))
    # The view that looks straight at a place has the last word.
    surface.add(orbit([60.0], [0.0], [5.4], [24.0], (0, 0, 1.0)), image.flip(0))
    at_front = surface.colors(front * 0.8 + middle, front)[0][0]
    assert float((at_front - torch.tensor([0.9, 0.2, 0.1])).abs().max()) < 0.05


def test_what_is_not_free_stays(learned: Learned) -> None:
    base = load_backbone(str(learned.photos.parent / "tiny"), **HERE)
    side = base.resolution
    picture = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    settings = SampleConfig(num_inference_steps=3, guidance_scale=1.0)

    def latents(free: torch.Tensor) -> torch.Tensor:
        made = filled_in(base, picture, free, "a dog", seed=1, strength=1.0, config=settings)
        assert made.shape == picture.shape
        return made

    with torch.no_grad():
        decoded = base.decode_latents(base.encode_images(picture[None] * 2 - 1))[0].clamp(-1, 1) * 0.5 + 0.5
    nothing, everything = torch.zeros(side, side, dtype=torch.bool), torch.ones(side, side, dtype=torch.bool)
    torch.testing.assert_close(latents(nothing), decoded, atol=1e-4, rtol=0)
    assert (latents(everything) - decoded).abs().max() > 0.01


def test_a_job_leaves_figure_picture_rig_and_page(learned: Learned, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    made = pose(learned, folder, viewer=True)
    assert [path.name for path in made.files] == ["rex.glb", "rex.png", "rex_rig.glb", "rex.html"]
    assert all(path.is_file() for path in made.files)
    mesh, still = read_mesh(folder / "rex.glb"), read_mesh(made.work / "standing.glb")
    assert mesh.visual.kind == "texture"
    assert len(mesh.faces) == len(still.faces)
    assert np.abs(np.asarray(mesh.vertices) - np.asarray(still.vertices)).max() > 0.01
    with Image.open(folder / "rex.png") as picture:
        assert picture.size == (32, 32)
    assert {path.name for path in (made.work / "look").iterdir()} == {"00.png", "01.png"}
    with pytest.raises(UsageError, match="exists already"):
        pose(learned, folder)
    (folder / "rex.glb").unlink()
    for beside in ("rex.png", "rex_rig.glb", "rex.html"):
        with pytest.raises(UsageError, match=f"{beside} exists already"):
            pose(learned, folder, viewer=True)
        (folder / beside).unlink()
    with pytest.raises(CheckpointError, match="another prompt"):
        pose(learned, folder, overwrite=True, prompt="a photo of {subject} running")
    # The same figure again, in another pose, with nothing painted.
    other = tmp_path / "other"
    other.mkdir()
    again = pose(learned, other, avatar=made.work / "standing.glb", seed=5, rig=False)
    assert not (again.work / "look").exists()
    assert not (other / "rex_rig.glb").exists()
    assert not torch.equal(again.turns, made.turns)


def test_surroundings_are_painted_without_the_subject(learned: Learned, tmp_path: Path) -> None:
    assert [surroundings_of(prompt) for prompt in (
        "a photo of {subject} sitting and raising the left arm on the beach",
        "{subject} running in the snow",
        "an oil painting of a {subject}, standing with legs apart, on the moon beside a lake",
        "on the beach {subject} is looking up",
        "a photo of {subject} sitting",
        "{subject}",
    )] == [
        "a photo on the beach",
        "in the snow",
        "an oil painting on the moon beside a lake",
        "on the beach",
        f"a photo {NOWHERE}",
        NOWHERE,
    ]  # fmt: skip
    shape = pose(learned, folder_in(tmp_path, "body"), rig=False).work / "standing.glb"

    def picture(name: str, subject: Path, **changes: Any) -> bytes:
        folder = folder_in(tmp_path, name)
        other = dataclasses.replace(learned, subject=subject)
        pose(other, folder, avatar=shape, rig=False, pose="a person sitting", **changes)
        return (folder / "rex.png").read_bytes()

    first = picture("first", learned.subject, prompt="a photo of {subject} on the beach")
    assert picture("other", learned.word, prompt="a photo of {subject} on the beach") == first
    assert picture("told", learned.subject, prompt="{subject} at night", place="a photo on the beach") == first
    assert picture("elsewhere", learned.subject, prompt="a photo of {subject} at night") != first
    with pytest.raises(UsageError, match="of surroundings alone"):
        pose(learned, folder_in(tmp_path, "wrong"), place="{subject} on the beach")


def test_a_user_hears_which_words_change_nothing(learned: Learned, tmp_path: Path) -> None:
    class Heard(SilentReporter):
        def event(self, name: str, message: str = "", **fields: Any) -> None:
            heard[name] = message

    heard: dict[str, str] = {}
    changes = {"avatar": learned.mesh, "rig": False}
    plain = pose(learned, folder_in(tmp_path, "plain"), pose="sitting", reporter=Heard(), **changes)
    assert "unknown-words" not in heard
    strange = pose(learned, folder_in(tmp_path, "strange"), pose="zzgrmpf sitting", reporter=Heard(), **changes)
    assert "does not know: zzgrmpf." in heard["unknown-words"]
    assert torch.equal(plain.turns, strange.turns)


def test_a_killed_job_ends_like_one_left_alone(learned: Learned, tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    pose(learned, tmp_path / "whole")
    killed(functools.partial(pose, learned, tmp_path / "parts"), "3d look", 1, preload="tests.support.small_avatars")
    assert not (tmp_path / "parts" / "rex.glb").exists()
    pose(learned, tmp_path / "parts")
    for name in ("rex.glb", "rex_rig.glb", "rex.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def test_commands_say_what_is_wrong(learned: Learned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="holds no pose model"):
        pose_avatar(learned.subject, "{subject} sitting", tmp_path, tmp_path / "a.glb")
    for arguments, said in (
        (
            ["3d", "avatar", str(learned.subject), "{subject}", "-o", str(tmp_path / "a.obj"), "--poses", "x"],
            "ends in glb",
        ),
        (
            ["3d", "make", str(learned.subject), "{subject}", "-o", str(tmp_path / "a.glb"), "--method", "pas"],
            "3d avatar",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err


def test_a_look_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a figure that is there keeps its own colours"):
        AvatarOptions(avatar=tmp_path / "standing.glb", look="a painting of {subject}")
    with pytest.raises(UsageError, match="--control normal is about a ControlNet"):
        GeneratorOptions(control="normal")
