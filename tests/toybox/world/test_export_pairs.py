"""Albums to train reference adapters on: what they show, say and mask, and that they can be read as such."""

from pathlib import Path
from typing import Any

import torch

from pcs_ext.image.edges import canny
from pcs_ext.image.reference.albums import read_subjects
from pcs_ext.image.reference.maps import maps_of, stacked
from pcs_ext.image.reference.views import read_view
from pcs_ext.reporter import SilentReporter
from pcs_ext.toybox.world.export_pairs import album_scenes, export_pairs
from pcs_ext.toybox.world.vocabulary import ACCESSORIES, CLASSES, COLORS, PATTERNS


def test_albums_are_what_learning_reads_and_say_nothing_that_another_photo_tells(tmp_path: Path) -> None:
    options: dict[str, Any] = {"subjects": 2, "couples": 1, "photos": 2, "resolution": 32, "seed": 3}
    export_pairs(tmp_path, SilentReporter(), **options)
    subjects = read_subjects(tmp_path, asks_noun=True, several=True)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["00000", "00001", "couple-00000"]
    assert [len(own.nouns) for own in subjects] == [1, 1, 2]
    for own in subjects:
        assert all(noun in CLASSES for noun in own.nouns)
        for photo in own.photos:
            assert photo.image.shape == (3, 32, 32)
            assert photo.mask is not None
            assert 0.02 < photo.mask.mean() < 0.9
            said = photo.caption or ""
            for worn in ACCESSORIES[1:]:
                said = said.replace(worn, "")
            assert not {*COLORS, *PATTERNS} & set(said.replace(",", "").split())
    scene, view = album_scenes(0, 2, seed=3)[1], read_view(subjects[0].photos[1].path)
    assert view is not None
    turned = (scene.camera.azimuth - scene.objects[0].heading - float(view[0])) % 360
    assert min(turned, 360 - turned) < 0.01
    assert abs(scene.camera.elevation - float(view[1])) < 0.01
    assert abs(scene.camera.distance - float(view[2])) < 0.001
    couple = subjects[2].photos[0].parts
    assert couple is not None
    assert len(couple) == 2
    assert (couple[0] * couple[1]).max() < 0.3, "each toy has its own pixels"


def test_an_album_shows_the_same_toys_in_other_scenes(tmp_path: Path) -> None:
    one = album_scenes(0, 3)
    assert len({scene.objects[0].proportions for scene in one}) == 1
    assert len({(scene.context, scene.style, scene.camera) for scene in one}) == 3
    two = album_scenes(0, 2, couple=True)
    assert two[0].objects == two[1].objects
    assert two[0].camera != two[1].camera
    assert album_scenes(0, 3) == one
    assert album_scenes(1, 3) != one
    written = tmp_path / "00000" / "1.png"
    options: dict[str, Any] = {"subjects": 1, "couples": 0, "photos": 2, "resolution": 32}
    export_pairs(tmp_path, SilentReporter(), seed=1, **options)
    before = written.stat().st_mtime_ns
    export_pairs(tmp_path, SilentReporter(), seed=1, **options)
    assert written.stat().st_mtime_ns == before, "what is there is kept"


def test_condition_maps_lie_beside_photos_and_are_the_truth_about_them(tmp_path: Path) -> None:
    options: dict[str, Any] = {"subjects": 1, "couples": 0, "photos": 2, "resolution": 32, "seed": 3}
    export_pairs(tmp_path, SilentReporter(), **options)
    photo = (tmp_path / "00000" / "1.png").stat().st_mtime_ns
    kinds = ("edges", "depth", "normals", "segmentation")
    export_pairs(tmp_path, SilentReporter(), **options, maps=kinds)
    assert (tmp_path / "00000" / "1.png").stat().st_mtime_ns == photo, "maps are added to albums that are there"
    (own,) = read_subjects(tmp_path)
    assert len(own.photos) == 2, "maps are no photos"
    for photo in own.photos:
        assert photo.mask is not None
        inside, outside = photo.mask[0] > 0.99, photo.mask[0] < 0.01
        edges, depth, normals, parts = stacked(maps_of(photo, kinds), kinds, (32, 32)).split([1, 1, 3, 3])
        assert torch.equal(edges, canny(photo.image[None])[0])
        assert float(depth.max()) == 1, "something is nearest"
        length = (2 * normals - 1).norm(dim=0)
        torch.testing.assert_close(length, torch.ones_like(length), atol=0.02, rtol=0)
        assert ((2 * normals - 1)[2][inside] > -0.02).all(), "what is seen faces the viewer"
        torch.testing.assert_close(normals[:, outside].mean(1), torch.tensor([0.5, 0.5, 1.0]), atol=0.01, rtol=0)
        assert parts[:, outside].max() == 0
        assert len(parts[:, inside].unique(dim=1).T) >= 3
