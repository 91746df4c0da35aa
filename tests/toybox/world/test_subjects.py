import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pcs_ext.errors import UsageError
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.export_examples import ROTATED, SIZES, photo_bytes
from pcs_ext.toybox.world.subjects import SUBJECTS, class_noun, novel_views, reference_photos, reference_scenes
from pcs_ext.toybox.world.vocabulary import CLASSES, COLORS

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_subjects_are_one_per_class_and_nameless():
    assert len(SUBJECTS) == 12
    assert sorted(class_noun(name) for name in SUBJECTS) == sorted(CLASSES)
    for name, toy in SUBJECTS.items():
        assert max(abs(p) for p in toy.proportions) > 1, "beyond the training range"
        words = set(caption(reference_scenes(name)[0]).split())
        assert not words & {toy.color, toy.second_color}
        assert not {toy.color, toy.second_color} & set(COLORS)
    with pytest.raises(UsageError, match="rex"):
        class_noun("rax")


def test_reference_photos_vary_and_show_the_subject():
    photos = reference_photos("rex", 48)
    assert photos.images.shape == (5, 3, 48, 48)
    assert photos.masks.shape == (5, 1, 48, 48)
    assert len({scene.context for scene in photos.scenes}) == 5
    assert ((photos.masks.mean((1, 2, 3)) > 0.08) & (photos.masks.mean((1, 2, 3)) < 0.7)).all()
    assert torch.equal(photos.images, reference_photos("rex", 48).images)


def test_novel_views_are_other_pictures_of_the_same_toy():
    views = novel_views("pip", 3, torch.Generator().manual_seed(0), resolution=32)
    assert all(scene.objects == (SUBJECTS["pip"],) for scene in views.scenes)
    assert not set(views.scenes) & set(reference_scenes("pip"))
    assert len({scene.context for scene in views.scenes} | {str(s.camera) for s in views.scenes}) > 3


def test_rotated_photo_comes_upright_through_its_exif_flag():
    photos = reference_photos("nook", 96, 1)
    plain, turned = (
        Image.open(io.BytesIO(photo_bytes(photos.images[0], photos.masks[0, 0], (80, 60), rotated=rotated)))
        for rotated in (False, True)
    )
    assert plain.size == (80, 60)
    assert turned.size == (60, 80)
    upright = np.asarray(ImageOps.exif_transpose(turned), dtype=float)
    assert np.abs(upright - np.asarray(plain, dtype=float)).mean() < 3


def test_shipped_examples_are_what_the_command_writes():
    for name in SUBJECTS:
        for i, size in enumerate(SIZES):
            image = Image.open(EXAMPLES / name / f"{i + 1}.jpg")
            assert (image.getexif().get(0x0112, 1) == 6) == (i + 1 == ROTATED)
            assert ImageOps.exif_transpose(image).size == size
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*.jpg")) < 4e6
    photos = reference_photos("rex", 512)
    data = photo_bytes(photos.images[0], photos.masks[0, 0], SIZES[0], rotated=False)
    now, shipped = (np.asarray(Image.open(s), dtype=float) for s in (io.BytesIO(data), EXAMPLES / "rex" / "1.jpg"))
    assert np.abs(now - shipped).mean() < 1.5
