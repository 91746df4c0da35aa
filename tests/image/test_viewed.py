"""Subjects learned from posed photos and drawn from cameras: files in, pictures out, mistakes named."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.errors import InputError, PhotoError, UsageError
from pcs_ext.image import steered_cli
from pcs_ext.image.adapters import FeatureFieldConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.cameras import orbit, ring, tilted, upward
from pcs_ext.image.data import Photo, SubjectDataset, find_photos
from pcs_ext.image.learn import learn
from pcs_ext.image.posed import posed
from pcs_ext.image.recipes import RECIPES, Recipe
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.transforms_json import write_transforms
from pcs_ext.image.viewed_pictures import around, around_as, draw_viewed, field_of


def posed_photos(folder: Path, count: int = 6) -> Path:
    """A ring of photos with masks, and the file that says so."""
    folder.mkdir()
    for index in range(count):
        Image.effect_noise((40, 48), 60).convert("RGB").save(folder / f"{index}.png")
        mask = Image.new("L", (40, 48))
        mask.paste(255, (12, 12, 28, 36))
        mask.save(folder / f"{index}_mask.png")
    write_transforms(folder / "transforms.json", ring(count), [f"{index}.png" for index in range(count)], 48, 40)
    return folder


def small(steps: int = 6) -> Recipe:
    recipe = RECIPES["viewpoint-control"].build("dog", "toybox")
    view = recipe.adapters["view"]
    assert isinstance(view, FeatureFieldConfig)
    adapters = {**recipe.adapters, "view": dataclasses.replace(view, samples=4, width=8, references=3, drop=0.0)}
    sampling = SampleConfig(num_inference_steps=2, guidance_scale=2.0)
    return dataclasses.replace(recipe, class_images=2, sampling=sampling, adapters=adapters).with_steps(steps)


def test_a_subject_is_learned_and_seen_from_cameras(
    sd: AbstractBackbone, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photos = posed_photos(tmp_path / "photos")
    rex = learn(photos, noun="dog", output=tmp_path / "rex", recipe=small(), base=sd, seed=3)
    stored = rex.data.tensors["view"]
    joined = [value for key, value in stored.items() if key.endswith("rendered.weight")]
    assert joined, "fields are stored"
    assert all(value.any() for value in joined), "every field has learned from the photos' cameras"
    assert stored["views.latents"].shape == (6, 4, 8, 8)
    torch.testing.assert_close(stored["views.ball"][:3], torch.tensor([0.0, 0.0, 0.75]), atol=1e-4, rtol=0)
    torch.testing.assert_close(stored["views.matrices"], ring(6).camera_to_world)
    cameras = around(rex, [0.0, 90.0])
    torch.testing.assert_close(cameras.elevation, torch.tensor([15.0, 15.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close((cameras.positions - torch.tensor([0, 0, 0.75])).norm(dim=1), torch.tensor([5.2, 5.2]))
    with torch.no_grad():
        for value in joined:
            value += 0.5
    made = draw_viewed(rex, ["a photo of {subject}"], cameras, seeds=[1], base=sd)
    plain = rex.generate(["a photo of {subject}"], seeds=[1], base=sd)[0]
    assert len({plain.image.tobytes(), *(image.image.tobytes() for image in made)}) == 3
    assert [image.facts["azimuth"] for image in made] == [0.0, 90.0]
    bare = draw_viewed(rex, ["a photo of {subject}"], cameras[[0]], seeds=[1], base=sd, scale=0.0)[0]
    off = rex.generate(["a photo of {subject}"], seeds=[1], base=sd, scale=0.0)[0]
    assert bare.image.tobytes() == off.image.tobytes(), "strength 0 is the base"
    pictures = dataclasses.replace(steered_cli.PICTURES, output=tmp_path / "views", seeds=(1,))
    steered_cli.view(tmp_path / "rex", ("a photo of {subject}",), cameras=photos / "transforms.json", pictures=pictures)
    assert len(list((tmp_path / "views").glob("*.png"))) == 6
    steered_cli.view(tmp_path / "rex", ("a photo of {subject}",), azimuth=(30.0,), pictures=pictures)
    assert "00006.png" in capsys.readouterr().out


def test_cameras_come_with_photos(tmp_path: Path) -> None:
    photos = posed_photos(tmp_path / "images")
    found = posed(find_photos(photos))
    digests = {photo.digest for photo in found}
    (photos / "transforms.json").rename(tmp_path / "transforms.json")
    cameras = orbit([10.0] * 6, [20.0] * 6, [3.0] * 6, [50.0] * 6)
    write_transforms(tmp_path / "transforms.json", cameras, [f"images/{index}" for index in range(6)], 48, 40)
    above = posed(find_photos(photos))
    assert above[2].camera is not None
    torch.testing.assert_close(above[2].camera.fov, torch.tensor([50.0]))
    assert not digests & {photo.digest for photo in above}, "a run that goes on must meet the same cameras"
    recipe = small()
    data = SubjectDataset(above, recipe.concept, resolution=32, augmentation=recipe.augmentation)
    assert data.cameras is not None
    ratio = torch.tan(torch.deg2rad(data.cameras.fov / 2)) / torch.tan(torch.deg2rad(torch.tensor(25.0)))
    torch.testing.assert_close(ratio, torch.full((6,), 40 / 48))
    batch = data.batch(4, torch.Generator().manual_seed(0))
    assert batch.cameras is not None
    assert len(batch.cameras) == 4
    mirrored = dataclasses.replace(recipe.augmentation, flip=True)
    assert SubjectDataset(above, recipe.concept, resolution=32, augmentation=mirrored).cameras is None


def test_photos_must_have_the_shape_of_their_lenses(tmp_path: Path) -> None:
    photos = posed_photos(tmp_path / "images", 3)
    file = photos / "transforms.json"
    facts = json.loads(file.read_text())

    def told(**changes: float | None) -> list[Photo]:
        data = {key: value for key, value in {**facts, **changes}.items() if value is not None}
        file.write_text(json.dumps(data))
        return posed(find_photos(photos))

    assert len(told(w=20, h=24, cx=10, cy=12)) == 3  # half as large
    assert len(told(w=None, cx=None)) == 3  # a lens by the height alone
    with pytest.raises(InputError, match=r"0\.png is 40 x 48 pixels, .* 1\.200 times as wide"):
        told(w=48, h=40, cx=24, cy=20)  # turned, as cameras write it into EXIF
    bare = [{key: value for key, value in frame.items() if not key.startswith("fl")} for frame in facts["frames"]]
    facts |= {"frames": bare}
    with pytest.raises(InputError, match=r"1\.000 times as wide .*write w and h"):
        told(camera_angle_x=0.6, w=None, h=None, cx=None, cy=None)  # Blender's form, which means squares
    assert len(told(camera_angle_x=0.6)) == 3
    with pytest.raises(InputError, match="square pixels, got fl_x 50 and fl_y 60"):
        told(fl_x=50, fl_y=60)


def test_angles_are_counted_from_where_up_is() -> None:
    known, center = orbit([-50.0, 0.0, 40.0], [35.0] * 3, [4.0] * 3, [30.0] * 3), torch.tensor([1.0, 2.0, 3.0])
    for up in ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.6, 0.0, -0.8), (0.0, 0.0, -1.0)):
        world = tilted(known, torch.tensor(up), center)
        torch.testing.assert_close(upward(world), torch.tensor(up), atol=1e-6, rtol=0)
        made = around_as(world, center, [0.0, 90.0], elevation=20.0)
        away = (made.positions - center) / 4.0
        torch.testing.assert_close(away @ torch.tensor(up), torch.full((2,), 0.342020), atol=1e-5, rtol=0)
        # Level: no right axis goes up or down.
        torch.testing.assert_close(made.camera_to_world[:, :3, 0] @ torch.tensor(up), torch.zeros(2), atol=1e-6, rtol=0)
        as_they_are = around_as(world, center, [0.0]).positions[0] - center
        torch.testing.assert_close(as_they_are, world.positions[1] - center, atol=1e-4, rtol=0)
    # All from one side: of the right axes alone one could not tell, the mean of the ups does.
    one_side = orbit([0.0] * 2, [10.0, 30.0], [4.0] * 2, [30.0] * 2)
    torch.testing.assert_close(upward(one_side), orbit([0.0], [20.0], [1.0], [30.0]).camera_to_world[0, :3, 1])


def test_mistakes_are_named(sd: AbstractBackbone, tmp_path: Path) -> None:
    photos = posed_photos(tmp_path / "photos", 3)
    (photos / "transforms.json").unlink()
    request = {"noun": "dog", "base": sd, "output": tmp_path / "rex"}
    with pytest.raises(PhotoError, match=r"needs the camera of every photo, and knows none of 0\.png, 1\.png"):
        learn(photos, recipe=small(1), **request)  # type: ignore[arg-type]
    same = orbit([0.0] * 3, [5.0] * 3, [4.0] * 3, [40.0] * 3)
    write_transforms(photos / "transforms.json", same, ["0.png", "1.png", "2.png"], 48, 40)
    with pytest.raises(PhotoError, match="all cameras look in one direction"):
        learn(photos, recipe=small(1), **request)  # type: ignore[arg-type]
    plain = RECIPES["textual-inversion"].build("dog", "toybox").with_steps(1)
    rex = learn(photos, recipe=plain, **request)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="learned by textual-inversion, which knows no cameras"):
        field_of(rex)
    with pytest.raises(UsageError, match="say from where"):
        steered_cli.view(tmp_path / "rex", ("a photo of {subject}",))
