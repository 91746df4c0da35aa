"""The moment a protected photo becomes a file: encoded, decoded again, measured."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes, file_sha256, to_jsonable
from pcs_ext.defense.canvas import Canvas
from pcs_ext.defense.engine import Protection
from pcs_ext.defense.files import Format, decode, encode
from pcs_ext.defense.visibility import difference_strip, measure
from pcs_ext.errors import InputError
from pcs_ext.image.png import write_png
from pcs_ext.runtime import generator_for

KEPT = 0.9
"""Share of the perturbation that a JPEG must keep, as long as a higher quality can still be tried."""
STRIPS = "differences"
UNCHANGED = "nothing was changed in it; a larger budget or another region may change something"


def write_protected(canvas: Canvas, protection: Protection, path: Path, format: Format, quality: int) -> dict[str, Any]:
    """Write the photo and its strip; returns what was measured on the decoded file.

    Raises:
        InputError: a lossless file does not decode to what was encoded, or breaks the budget; nothing is written then.
        PhotoError: the format cannot hold the photo.
    """
    result = canvas.result()
    data, quality_used = _encoded(canvas, result, format, quality)
    decoded = decode(data, canvas.pixels.shape[0])
    check = canvas.budget.check(decoded, canvas.pixels)
    if format != "jpeg" and not (check.within and torch.equal(decoded, result)):
        raise InputError(
            f"{path} would not hold the protected samples of {canvas.photo.path} (largest change {check.max_levels:g} "
            f"levels); choose another --format."
        )
    atomic_write_bytes(path, data)
    strip = path.parent / STRIPS / f"{path.name}.png"
    write_png(strip, difference_strip(canvas.pixels, decoded))
    changed = not torch.equal(result, canvas.pixels)
    kept = kept_share(canvas.pixels, result, decoded) if changed else 0.0  # of nothing, nothing is kept
    encoding: dict[str, Any] = {"format": format, "kept": kept}
    if format == "jpeg":
        encoding["quality"] = quality_used
    return {
        "output_sha256": file_sha256(path),
        "width": canvas.photo.size[1],
        "height": canvas.photo.size[0],
        "notes": [*canvas.photo.notes, *_notes(canvas, format, changed)],
        "changed": changed,
        "budget": {"allowed": to_jsonable(canvas.budget), "measured": to_jsonable(check)},
        "visibility": measure(canvas.pixels, decoded),
        "encoding": encoding,
        "objective": _objective(canvas, protection, decoded),
        "strip": f"{STRIPS}/{strip.name}",
    }


def _notes(canvas: Canvas, format: Format, changed: bool) -> list[str]:
    notes = [] if changed else [UNCHANGED]
    if format == "jpeg" and canvas.photo.mask is not None:
        notes.append("JPEG's own loss is everywhere, outside the region, too")
    return notes


def _encoded(canvas: Canvas, result: Tensor, format: Format, quality: int) -> tuple[bytes, int]:
    photo = canvas.photo.with_pixels(result)
    while True:
        data = encode(photo, format, quality=quality)
        if format != "jpeg" or quality >= 100:
            return data, quality
        if kept_share(canvas.pixels, result, decode(data, canvas.pixels.shape[0])) >= KEPT:
            return data, quality
        quality += 1


def kept_share(original: Tensor, protected: Tensor, found: Tensor) -> float:
    """Projection of a file's change onto the perturbation: 1 when all of it is there. All uint8 `c h w`."""
    delta = protected.float() - original.float()
    length = float(delta.square().sum())
    return 1.0 if length == 0 else float((delta * (found.float() - original.float())).sum()) / length


def random_change(canvas: Canvas) -> Tensor:
    """Random noise that uses the same budget to the full, on the integer grid, `c h w` in levels: the baseline."""
    generator = generator_for("random change", canvas.key)
    coins = torch.randint(0, 2, canvas.pixels.shape, generator=generator, dtype=torch.int8)
    noisy = Canvas(canvas.photo, canvas.budget)
    # An l2 budget counts the whole photo: where a mask leaves little of it, the noise there is as much stronger.
    mask = canvas.photo.mask if canvas.budget.norm == "l2" else None
    size = canvas.budget.levels if mask is None else canvas.budget.levels / max(float(mask.float().mean()), 1e-9) ** 0.5
    noisy.move(lambda rows: size * (2.0 * coins[:, rows] - 1))
    return noisy.result().float() - canvas.pixels


def _objective(canvas: Canvas, protection: Protection, decoded: Tensor) -> dict[str, Any]:
    """The gain on each surrogate: of the original, of the written file, of random noise."""
    change = decoded.float() - canvas.pixels.float()
    found = []
    for ascent in protection.ascents:
        found.append(
            {
                "base": ascent.surrogate.backbone.name,
                "clean": ascent.score(canvas, None),
                "protected": ascent.score(canvas, change),
                "random_noise": ascent.score(canvas, random_change(canvas)),
            }
        )
    return {"kind": protection.method.objective.kind, "surrogates": found}
