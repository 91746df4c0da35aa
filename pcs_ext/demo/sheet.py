"""The demonstration as one picture: the photos on the left, beside them new pictures of the subject, none left out."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.demo.data import DemoData
from pcs_ext.image.evaluate import square_images
from pcs_ext.image.levels import levels_of

_TILE, _GAP = 128, 6
_PAPER = (255, 255, 255)
_COLUMNS = 8


def write_sheet(data: DemoData, folder: Path, path: Path) -> Path:
    """Write a PNG: a column of photos, then prompt by prompt the first recipe's pictures of the first two seeds.

    Args:
        data: what was made.
        folder: its image paths are relative to this.
        path: of the PNG.
    """
    per = min(2, len(data.seeds))
    made = data.systems[0].images
    shown = [
        folder / made[prompt * len(data.seeds) + seed] for prompt in range(len(data.prompts)) for seed in range(per)
    ]
    photos = [folder / photo for photo in data.photos]
    count = max(len(photos), -(-len(shown) // _COLUMNS))
    rows = [(photos[row : row + 1], shown[row * _COLUMNS : (row + 1) * _COLUMNS]) for row in range(count)]
    return write_rows(rows, path)


def write_rows(rows: Sequence[tuple[Sequence[Path], Sequence[Path]]], path: Path) -> Path:
    """Write one picture: in every row photos, a wider gap, and pictures made from them.

    Args:
        rows: photos and pictures of each.
        path: ends in .png or, a fifth as large, .jpg.
    """
    before, after = (max(len(row[side]) for row in rows) for side in (0, 1))
    step, left = _TILE + _GAP, before * (_TILE + _GAP) + 4 * _GAP
    sheet = Image.new("RGB", (left + after * step - _GAP, len(rows) * step - _GAP), _PAPER)
    for top, (photos, pictures) in zip(range(0, len(rows) * step, step), rows, strict=True):
        for start, paths in ((0, photos), (left, pictures)):
            for index, tile in enumerate(_tiles(paths)):
                sheet.paste(tile, (start + index * step, top))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG" if path.suffix == ".jpg" else "PNG", optimize=True, quality=88)
    atomic_write_bytes(path, buffer.getvalue())
    return path


def _tiles(paths: Sequence[Path]) -> list[Image.Image]:
    """Square, `_TILE` pixels a side."""
    if not paths:
        return []
    pixels = levels_of(square_images(paths, _TILE))
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
