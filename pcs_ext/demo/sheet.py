"""The demonstration as one picture: the photos on the left, beside them new pictures of the subject, none left out."""

import io
from pathlib import Path

import torch
from PIL import Image

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.demo.data import DemoData
from pcs_ext.image.evaluate import square_images

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
    rows = max(len(data.photos), -(-len(shown) // _COLUMNS))
    step, left = _TILE + _GAP, _TILE + 5 * _GAP
    sheet = Image.new("RGB", (left + _COLUMNS * step - _GAP, rows * step - _GAP), _PAPER)
    for row, tile in enumerate(_tiles([folder / photo for photo in data.photos])):
        sheet.paste(tile, (0, row * step))
    for index, tile in enumerate(_tiles(shown)):
        sheet.paste(tile, (left + index % _COLUMNS * step, index // _COLUMNS * step))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    atomic_write_bytes(path, buffer.getvalue())
    return path


def _tiles(paths: list[Path]) -> list[Image.Image]:
    """Square, `_TILE` pixels a side."""
    pixels = ((square_images(paths, _TILE) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
