"""Commands for 3D: parse, call, report. Heavy modules are imported inside the functions."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Output = Annotated[Path, arg(aliases=["-o"])]


def make(
    subject: Positional[Path],
    prompt: Positional[str],
    output: Output,
    method: str = "dreambooth3d",
    preset: Literal["fast", "balanced", "paper"] = "balanced",
    photos: tuple[Path, ...] = (),
    multiview: Path | None = None,
    base: str = "",
    steps: int = 0,
    seed: int = 0,
    config: Path | None = None,
    previews: int = 0,
    viewer: bool = True,
    overwrite: bool = False,
    device: Device = "auto",
    precision: Precision = "auto",
    jsonl: Path | None = None,
) -> None:
    """Make a 3D object of a learned subject; interrupted, the same command goes on.

    Every stage lies in OUTPUT.work, which stays: `3d render` and `3d export` read it.

    Args:
        subject: folder written by `learn`.
        prompt: text with {subject} where the subject goes; words for the view are appended.
        output: the mesh to write: .glb, .obj or .ply.
        method: dreambooth3d (needs --photos) or dreamfusion.
        preset: fast, to see that it works; balanced; or the steps of the paper.
        photos: what the subject was learned from: one folder, or files.
        multiview: folder of a multi-view adapter, for recipes that judge views together.
        base: another base of the same family than the one it was learned on.
        steps: of the fields in all; 0 takes the preset's.
        seed: of everything random.
        config: a recipe as JSON instead of a method's own values (`recipe` in OUTPUT.work/request.json).
        previews: write a sheet of views to OUTPUT.work/previews every so many steps; 0 writes none.
        viewer: also write an HTML page beside a GLB in which one turns the object, offline.
        overwrite: replace the output (the work folder is never replaced).
        device: where the base runs.
        precision: of the base's weights.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.image.cli import console_reporter
    from pcs_ext.threed.make import make_3d

    made = make_3d(
        subject,
        prompt,
        output,
        method=method,
        effort=preset,
        photos=photos,
        multiview=multiview,
        base=base,
        steps=steps or None,
        seed=seed,
        config=config,
        previews=previews,
        overwrite=overwrite,
        device=device,
        precision=precision,
        reporter=console_reporter(jsonl),
    )
    sys.stdout.write(f"{output}  {len(made.mesh.faces)} faces\n{made.work}\n")
