"""Commands for vector art: parse, call, report. Heavy modules are imported inside the functions."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

Output = Annotated[Path, arg(aliases=["-o"])]


def vectorize(
    picture: Positional[Path],
    output: Output,
    paths: int = 32,
    rounds: int = 5,
    steps: int = 60,
    segments: int = 4,
    side: int = 160,
    config: Path | None = None,
    jsonl: Path | None = None,
) -> None:
    """Turn a picture into an SVG of layered, filled paths; the picture stays as it is.

    Args:
        picture: photo or drawing in any readable format; transparent parts count as white.
        output: the SVG to write.
        paths: at most so many, 1 to 512.
        rounds: of adding paths where the drawing is still wrong, then optimising all.
        steps: optimisation steps per round; the last round takes twice as many.
        segments: cubic curves per path, 3 to 32.
        side: longer side in pixels while optimising; more finds finer detail, more slowly.
        config: all settings as JSON instead of the flags.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.config_io import from_jsonable, read_json
    from pcs_ext.image.cli import console_reporter
    from pcs_ext.svg.vector.trace import trace
    from pcs_ext.svg.vector.vectorize import Vectorization

    settings = Vectorization(paths=paths, rounds=rounds, steps=steps, segments=segments, side=side)
    if config is not None:
        settings = from_jsonable(Vectorization, read_json(config), where=str(config))
    traced = trace(picture, output, settings, reporter=console_reporter(jsonl))
    sys.stdout.write(f"{output}  {traced.paths} paths, mean difference {traced.levels:.1f} of 255 levels\n")
