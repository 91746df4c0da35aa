"""Pictures that go with the figures: confusion matrices, reconstructions, uncurated samples."""

import io
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.image.levels import to_pil
from pcs_ext.toybox.oracle import HEADS
from pcs_ext.toybox.world.sheets import tile

_CELL = 30
_LABEL = 150
_TITLE = 28


def write_samples(path: Path, images: Tensor, columns: int = 8) -> None:
    """Generated pictures `n 3 h w` in [-1, 1], in rows of `columns`, twice enlarged; a last incomplete row is cut."""
    columns = min(columns, len(images))
    whole = len(images) // columns * columns
    _write(path, _enlarged(tile(images[:whole], columns)))


def write_pairs(path: Path, images: Tensor, decoded: Tensor) -> None:
    """Pictures above their reconstructions, `n 3 h w` in [-1, 1] each, twice enlarged, eight pairs per band."""
    width = min(8, len(images))
    bands = [torch.cat([images[i : i + width], decoded[i : i + width]]) for i in range(0, len(images), width)]
    whole = [band for band in bands if len(band) == 2 * width]
    _write(path, _enlarged(tile(torch.cat(whole), width)))


def write_confusions(path: Path, matrices: dict[str, Tensor]) -> None:
    """One matrix per attribute, rows the truth, columns the reading, in percent of the row."""
    panels = [_panel(name, matrix) for name, matrix in matrices.items()]
    half = (len(panels) + 1) // 2
    columns = [panels[:half], panels[half:]]
    width = sum(max(panel.width for panel in column) for column in columns if column)
    height = max(sum(panel.height for panel in column) for column in columns)
    sheet, left = Image.new("RGB", (width, height), "white"), 0
    for column in columns:
        top = 0
        for panel in column:
            sheet.paste(panel, (left, top))
            top += panel.height
        left += max((panel.width for panel in column), default=0)
    _write(path, sheet)


def _panel(name: str, matrix: Tensor) -> Image.Image:
    values, count = HEADS[name], len(matrix)
    side = _CELL * count
    panel = Image.new("RGB", (_LABEL + side + _CELL, _TITLE + side + _CELL), "white")
    draw = ImageDraw.Draw(panel)
    draw.text((_LABEL, 8), name, fill="black")
    shares = matrix.double() / matrix.sum(1, keepdim=True).clamp_min(1)
    for row in range(count):
        top = _TITLE + row * _CELL
        draw.text((_LABEL - 6, top + 9), values[row] or "none", fill="black", anchor="ra")
        for column in range(count):
            share = float(shares[row, column])
            tone = 255 - round(215 * share)
            # Right readings are blue, wrong ones red.
            color = (tone, tone, 255) if row == column else (255, tone, tone)
            left = _LABEL + column * _CELL
            draw.rectangle((left, top, left + _CELL - 2, top + _CELL - 2), fill=color)
            if round(100 * share):
                ink = "white" if share > 0.6 else "black"
                draw.text((left + _CELL / 2 - 1, top + 9), f"{round(100 * share)}", fill=ink, anchor="ma")
    return panel


def _enlarged(picture: Tensor) -> Image.Image:
    image = to_pil(picture)
    return image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST)


def _write(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    atomic_write_bytes(path, buffer.getvalue())
