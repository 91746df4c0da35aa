"""Folders as phones and computers leave them: what is not read, and what is there twice, is told."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pcs_ext.image.data import LEARNED_SIDE, Photo, enlarged, find_photos, overlooked, repeated


def smooth(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Few large blobs, as photos have."""
    cells = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def test_what_is_no_photo_is_named_once(tmp_path: Path) -> None:
    smooth(0).save(tmp_path / "Größe 📷 (1).jpg")
    smooth(1).convert("L").save(tmp_path / "Größe 📷 (1)_mask.png")
    for name in ("a.txt", "transforms.json", ".DS_Store", "Thumbs.db", "desktop.ini", "._a.jpg", "a.AAE", "a.xmp"):
        (tmp_path / name).write_bytes(b"x")
    assert overlooked(tmp_path) == overlooked([tmp_path / "Größe 📷 (1).jpg"]) == []
    for name in ("VID 1.MOV", "b.mp4", "c.CR2", "list.xlsx", *(f"{index}.pdf" for index in range(5))):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "older").mkdir()
    assert overlooked([tmp_path]) == [
        f"{tmp_path}: videos are not read: VID 1.MOV, b.mp4",
        f"{tmp_path}: raw files are not read, export them as JPEG or TIFF: c.CR2",
        f"{tmp_path}: no photos, passed over: 0.pdf, 1.pdf, 2.pdf, 3.pdf and 2 more",
        f"{tmp_path}: folders inside are not looked into: older",
    ]


def test_copies_are_found_in_any_format_and_size_and_others_are_not(tmp_path: Path) -> None:
    smooth(0).save(tmp_path / "a.png")
    smooth(0).save(tmp_path / "b.jpg", quality=80)
    smooth(0).resize((400, 300), Image.Resampling.BICUBIC).save(tmp_path / "c.webp", quality=80)
    darker = np.asarray(smooth(0)).astype(int) - 4
    Image.fromarray(darker.clip(0, 255).astype(np.uint8)).save(tmp_path / "d.png")
    smooth(1).save(tmp_path / "e.png")
    smooth(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "f.png")
    smooth(1).save(tmp_path / "g.png")
    assert repeated(find_photos(tmp_path)) == [
        "a.png, b.jpg, c.webp show the same picture, which counts 3 times",
        "e.png, g.png show the same picture, which counts twice",
    ]


def test_photos_smaller_than_the_base_are_named(tmp_path: Path) -> None:
    photos = [Photo(path=tmp_path / f"{side}.png", image=torch.zeros(3, 2 * side, side)) for side in (400, 511, 512)]
    assert enlarged(photos, 512) == [
        "smaller than the 512 pixels that the base learns, so enlarged: 400.png (400 x 800), 511.png (511 x 1022)"
    ]
    assert enlarged(photos[2:], 512) == []


def test_large_photos_are_reduced_with_all_that_lies_beside_them(tmp_path: Path) -> None:
    smooth(0, (160, 120)).save(tmp_path / "a.png")
    mask = Image.new("L", (160, 120), 0)
    mask.paste(255, (0, 0, 80, 120))
    mask.save(tmp_path / "a_mask.png")
    smooth(1, (160, 120)).save(tmp_path / "a_before.png")
    whole, small = find_photos(tmp_path)[0], find_photos(tmp_path, short_side=60)[0]
    assert small.mask is not None
    assert small.before is not None
    assert small.image.shape == small.before.shape == (3, 60, 80)
    assert small.mask.shape == (1, 60, 80)
    assert (small.mask[0, :, 2:38] == 1).all()
    assert (small.mask[0, :, 42:78] == 0).all()
    blocks = whole.image.unflatten(1, (60, 2)).unflatten(3, (80, 2)).mean((2, 4))
    assert float((small.image - blocks).abs().max()) < 0.03
    same = find_photos(tmp_path, short_side=120)[0]
    torch.testing.assert_close(same.image, whole.image, rtol=0, atol=0)
    assert LEARNED_SIDE >= 2 * 1024, "no base loses pixels"
