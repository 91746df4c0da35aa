"""Clips at a glance: one row each."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pcs_ext.errors import UsageError
from pcs_ext.video.clips.clip import Clip


def contact_sheet(clips: Sequence[Clip], *, columns: int = 8, height: int = 96, gap: int = 4) -> Image.Image:
    """A white sheet with a row of evenly spread frames per clip; shorter clips have shorter rows.

    Args:
        clips: at least one.
        columns: most frames per row, the first and the last among them.
        height: of a row in pixels; widths follow the clips' shapes.
        gap: white pixels between and around frames.

    Raises:
        UsageError: no clips, or a number out of range.
    """
    if not clips or columns < 1 or height < 1 or gap < 0:
        raise UsageError(
            f"got {len(clips)} clips, columns={columns}, height={height}, gap={gap}; expected at least one."
        )
    rows = [_row(clip, columns, height) for clip in clips]
    width = max(sum(image.width + gap for image in row) for row in rows) + gap
    sheet = Image.new("RGB", (width, len(rows) * (height + gap) + gap), "white")
    for number, row in enumerate(rows):
        left = gap
        for image in row:
            sheet.paste(image, (left, gap + number * (height + gap)))
            left += image.width + gap
    return sheet


def _row(clip: Clip, columns: int, height: int) -> list[Image.Image]:
    chosen = np.linspace(0, len(clip) - 1, min(columns, len(clip))).round().astype(int)
    width = max(1, round(clip.size[1] * height / clip.size[0]))
    pixels = clip.frames.permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(pixels[i]).resize((width, height), Image.Resampling.BICUBIC) for i in chosen]
