"""`python -m pcs_ext.toybox.world.export_examples`: the subjects' photos as files a user would have."""

import io
from pathlib import Path

import tyro
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.image.levels import to_pil
from pcs_ext.reporter import ConsoleReporter, Reporter
from pcs_ext.toybox.world.subjects import SUBJECTS, reference_photos

SIZES: tuple[tuple[int, int], ...] = ((480, 480), (512, 400), (400, 512), (448, 448), (360, 480))
"""Width and height of the five photos, as they look when shown upright."""
ROTATED = 4
"""This photo lies on its side in the file and carries the EXIF orientation that turns it upright."""
_ORIENTATION, _TURN_RIGHT = 0x0112, 6
_QUALITY = 92


def photo_bytes(pixels: Tensor, mask: Tensor, size: tuple[int, int], *, rotated: bool) -> bytes:
    """JPEG of a square photo, cut to `size` around the subject.

    Args:
        pixels: `3 n n` in [-1, 1].
        mask: `n n`, where the subject is.
        size: width and height, at most n each.
        rotated: store it turned to the left, with the EXIF flag that viewers turn it back by.
    """
    width, height = size
    rows, columns = (mask > 0.5).any(1).nonzero()[:, 0], (mask > 0.5).any(0).nonzero()[:, 0]
    side = mask.shape[0]
    left = min(max(int(columns[0] + columns[-1]) // 2 - width // 2, 0), side - width)
    top = min(max(int(rows[0] + rows[-1]) // 2 - height // 2, 0), side - height)
    image = to_pil(pixels[:, top : top + height, left : left + width])
    exif = Image.Exif()
    if rotated:
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[_ORIENTATION] = _TURN_RIGHT
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, exif=exif)
    return buffer.getvalue()


def export_examples(folder: Path, reporter: Reporter) -> None:
    """Write `folder/NAME/1.jpg` to `5.jpg` for every subject."""
    for number, name in enumerate(SUBJECTS):
        photos = reference_photos(name, resolution=512)
        for i, size in enumerate(SIZES):
            data = photo_bytes(photos.images[i], photos.masks[i, 0], size, rotated=i + 1 == ROTATED)
            atomic_write_bytes(folder / name / f"{i + 1}.jpg", data)
        reporter.progress("export", number + 1, len(SUBJECTS))


def main(output: Path = Path("examples")) -> None:
    """Write the twelve subjects' reference photos as JPEG files.

    Args:
        output: folder to write to.
    """
    export_examples(output, ConsoleReporter())


if __name__ == "__main__":
    tyro.cli(main)
