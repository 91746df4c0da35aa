"""From a picture's file to an SVG file, with a figure for how like it the result is."""

import dataclasses
from pathlib import Path

from pcs_ext.errors import UsageError
from pcs_ext.reporter import Reporter
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.vectorize import Vectorization, read_target, vectorize
from pcs_ext.svg.vector.write import new_svg, write_svg


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traced:
    """What was written."""

    paths: int
    """Number of paths."""
    levels: float
    """Mean difference to the picture at the working size, of 255."""


def check_svg(picture: Path, output: Path) -> None:
    """See that a name is one of an SVG that may be written.

    Raises:
        UsageError: it is not called .svg, is the picture itself, or a folder.
    """
    if output.suffix.lower() != ".svg" or output.is_dir() or output.resolve() == picture.resolve():
        raise UsageError(f"The output is {output}; expected a file name that ends in .svg, other than the picture's.")


def trace(picture: Path, output: Path, settings: Vectorization, *, reporter: Reporter | None = None) -> Traced:
    """Vectorise a picture and write the SVG, which appears whole or not at all.

    Raises:
        UsageError: the output is not called .svg, is the picture itself or a folder, or a setting is out of range.
        PhotoError: the picture is missing or damaged.
        InputError: the picture is too small or not of 8 bits per sample.
    """
    settings.check()
    check_svg(picture, output)
    target, (width, height) = read_target(picture, settings.side)
    scene = vectorize(target, settings, reporter=reporter)
    drawn = render(scene, *target.shape[1:])
    write_svg(output, new_svg(dataclasses.replace(scene, size=(float(width), float(height)))))
    return Traced(paths=len(scene.paths), levels=255 * float((drawn - target).abs().mean()))
