"""Masks of photos: each counts for its own, in training and in use."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.errors import ModelError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.albums import read_subjects
from pcs_ext.image.reference.encoder import masks_of
from pcs_ext.image.reference.files import OpenedAdapter, encoder_folder
from pcs_ext.image.reference.pairs import encode_subjects
from pcs_ext.image.reference.reference import seen_by
from pcs_ext.reporter import SilentReporter
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import tiny_system


@torch.no_grad()
def test_a_photos_mask_counts_for_that_photo(sd: AbstractBackbone, eye: Path, photos: Path, tmp_path: Path) -> None:
    adapter, encoder = tiny_system("elite", sd, eye)
    opened = OpenedAdapter(adapter=adapter, encoder=encoder)
    bare = seen_by(opened, find_photos(photos), scale=1.0, nouns=("dog",)).sight
    assert bare.cut is None
    with Image.open(photos / "0.png") as image:
        mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, 12, 12))
    mask.save(photos / "0_mask.png")
    found = find_photos(photos)
    assert masks_of(found[1:]) == [None, None]
    sight = seen_by(opened, found, scale=1.0, nouns=("dog",)).sight
    assert sight.cut is not None
    assert sight.cover is not None
    alone = seen_by(opened, found[:1], scale=1.0, nouns=("dog",)).sight
    assert alone.cut is not None
    torch.testing.assert_close(sight.cut[:1], alone.cut)
    assert (sight.cut[0] - sight.features[0]).abs().max() > 1e-3
    torch.testing.assert_close(sight.cut[1:], sight.features[1:])
    assert sight.cover[1:].min() == 1
    assert sight.cover[0].mean() < 1
    # As in use, so in training.
    pairs = albums(tmp_path / "pairs")
    (pairs / "dog-album" / "1_mask.png").unlink()
    data = encode_subjects(read_subjects(pairs), sd, encoder, SilentReporter(), cut=True)
    assert data.cut is not None
    rows = [photo.path.parent.name + photo.path.name for own in read_subjects(pairs) for photo in own.photos]
    same = [bool(torch.equal(cut, whole)) for cut, whole in zip(data.cut, data.features, strict=True)]
    assert [row for row, equal in zip(rows, same, strict=True) if equal] == ["dog-album1.png"]


def test_an_encoder_that_has_moved_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gone, which is no folder.*--encoder or --reference-encoder"):
        encoder_folder(str(tmp_path / "gone"))
