"""`python -m pcs_ext.toybox.quality`: how good the models of toybox are, as a table or as JSON.

A model that is not there is named as missing; the others are measured all the same.
"""

import json as jsonlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from pcs_ext.config_io import write_json
from pcs_ext.errors import PcsError
from pcs_ext.reporter import ConsoleReporter, Reporter
from pcs_ext.results import as_result
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.cards import write_quality
from pcs_ext.toybox.quality_measures import (
    RETRIEVAL_SET,
    HeldOut,
    Measured,
    held_out,
    measure_clip,
    measure_generated,
    measure_image_encoder,
    measure_oracle,
    measure_vae,
)
from pcs_ext.toybox.quality_motion import held_out_clips, measure_clips, measure_motion_reader
from pcs_ext.toybox.quality_sheets import write_confusions, write_pairs, write_samples
from pcs_ext.toybox.quality_views import measure_views

DATA_SEED = 1
FLOORS: dict[str, tuple[float, float]] = {
    **{
        f"oracle/{name}": (0.93, 0.98)
        for name in ("class", "color", "context", "style", "view", "accessory", "pattern")
    },
    "vae/psnr": (26.0, 30.0),
    "clip/top-1 of 256": (0.70, 0.90),
    "generated/class": (0.70, 0.95),
    "generated/color": (0.70, 0.90),
    "generated/context": (0.90, 0.98),
    "generated/view": (0.70, 0.90),
    "generated/accessory": (0.60, 0.85),
    "clips/motion": (0.65, 0.90),
    "clips/class": (0.70, 0.90),
    "clips/consistency": (0.90, 0.95),
}
"""By metric: what a release needs at least, and what it aims for."""
_READERS = ("oracle", "dino")
"""Who measures what is generated in motion or from several sides."""


def measure(
    weights: Path,
    *,
    scenes: int,
    prompts: int,
    resolution: int,
    sheets: Path | None,
    reporter: Reporter,
    clips: int = 64,
    sets: int = 48,
) -> tuple[list[Measured], list[str]]:
    """Measure every model found.

    Args:
        weights: folder with `oracle`, `clip`, `base`, `motion` and so on; or a training run's `models`, with `vae`.
        scenes: held-out pictures; 0 measures nothing but clips and sets.
        prompts: captions to generate from; 0 generates nothing.
        resolution: of the pictures, in pixels.
        sheets: folder for the pictures of `toybox_*.png`; None writes none.
        reporter: hears the progress.
        clips: held-out clips to read, and captions to make clips from; 0 leaves motion out.
        sets: captions to make sets of views from; 0 leaves them out.

    Returns:
        The figures, and the names of the models that are missing.
    """
    if scenes == 0:
        return _measure_moving(weights, resolution, clips, sets, sheets, reporter)
    data = held_out(scenes, resolution, seed=DATA_SEED)
    reporter.event("data", f"{scenes} held-out scenes rendered")
    figures, missing = _measure_readers(weights, data, sheets)
    if (weights / "dino" / "preprocessor_config.json").is_file():
        figures += measure_image_encoder(weights / "dino", resolution, min(len(data.scenes), 2 * RETRIEVAL_SET))
    else:
        missing.append("dino")
    if not (weights / "base" / "model_index.json").is_file():
        return figures, [*missing, "unet"]
    if prompts and "oracle" not in missing:
        found, images = measure_generated(weights / "base", weights / "oracle", prompts, reporter, seed=DATA_SEED)
        figures += found
        if sheets is not None:
            write_samples(sheets / "toybox_samples.png", images[:64])
    moving, absent = _measure_moving(weights, resolution, clips, sets, sheets, reporter)
    return figures + moving, list(dict.fromkeys([*missing, *absent]))


def _measure_moving(
    weights: Path, resolution: int, clips: int, sets: int, sheets: Path | None, reporter: Reporter
) -> tuple[list[Measured], list[str]]:
    """Pictures that belong together: clips, and views of one toy."""
    figures, missing = _measure_motion(weights, resolution, clips, sheets, reporter) if clips else ([], [])
    absent = _absent(weights, "multiview", *_READERS) if sets else []
    if not sets or absent:
        return figures, list(dict.fromkeys([*missing, *absent]))
    found, images = measure_views(weights, sets, reporter)
    if sheets is not None:
        write_samples(sheets / "toybox_views.png", images[:16].flatten(0, 1))
    return figures + found, missing


def _measure_motion(
    weights: Path, resolution: int, count: int, sheets: Path | None, reporter: Reporter
) -> tuple[list[Measured], list[str]]:
    missing = _absent(weights, "motion_reader", "motion", *_READERS)
    if "motion_reader" in missing:
        return [], missing
    clips, images = held_out_clips(count, resolution, seed=DATA_SEED)
    figures = measure_motion_reader(weights / "motion_reader", clips, images)
    if missing:
        return figures, missing
    found, made = measure_clips(weights, clips, images, reporter)
    if sheets is not None:
        write_samples(sheets / "toybox_clips.png", made[:8].flatten(0, 1))
    return figures + found, missing


def _absent(weights: Path, *names: str) -> list[str]:
    return [name for name in names if not (weights / name / "config.json").is_file()]


def _measure_readers(weights: Path, data: HeldOut, sheets: Path | None) -> tuple[list[Measured], list[str]]:
    figures: list[Measured] = []
    missing: list[str] = []
    vae = weights / "base" / "vae" if (weights / "base").is_dir() else weights / "vae"
    if (weights / "oracle" / "config.json").is_file():
        found, matrices = measure_oracle(weights / "oracle", data)
        figures += found
        if sheets is not None:
            write_confusions(sheets / "toybox_confusions.png", matrices)
    else:
        missing.append("oracle")
    if (vae / "config.json").is_file():
        found, decoded = measure_vae(vae, data)
        figures += found
        if sheets is not None:
            write_pairs(sheets / "toybox_vae.png", data.images[:16], decoded[:16])
    else:
        missing.append("vae")
    if (weights / "clip" / "config.json").is_file():
        figures += measure_clip(weights / "clip", data)
    else:
        missing.append("clip")
    return figures, missing


def as_rows(figures: Sequence[Measured]) -> list[dict[str, Any]]:
    """The rows of `results/toybox_quality.json`."""
    return [
        {
            "metric": figure.metric,
            "higher_is_better": figure.metric != "dino/other toy",
            "value": figure.value,
            "spread": figure.spread,
            "n": figure.n,
            "baseline": "floor",
            "baseline_value": FLOORS.get(figure.metric, (None, None))[0],
            "aim": FLOORS.get(figure.metric, (None, None))[1],
            "seconds": figure.seconds,
        }
        for figure in figures
    ]


def as_table(figures: Sequence[Measured], missing: Sequence[str]) -> str:
    """The figures against their floors and aims, in Markdown."""
    lines = ["| what | value | ± | n | floor | aim | |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for figure in figures:
        floor, aim = FLOORS.get(figure.metric, (None, None))
        verdict = "" if floor is None or aim is None else _verdict(figure.value, floor, aim)
        lines.append(
            f"| {figure.metric} | {_number(figure.value)} | {_number(figure.spread)} | {figure.n} "
            f"| {_number(floor)} | {_number(aim)} | {verdict} |"
        )
    return "\n".join([*lines, *(f"\nmissing: {name}" for name in missing)]) + "\n"


def _verdict(value: float, floor: float, aim: float) -> str:
    return "aim" if value >= aim else "floor" if value >= floor else "below the floor"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value > 1.5 else f"{value:.3f}"


def _command(arguments: Sequence[str]) -> str:
    """What was called, to be called again; folders of models are a machine's own and are not told."""
    said = ["--weights=WEIGHTS" if argument.startswith("--weights=") else argument for argument in arguments]
    if "--weights" in said[:-1]:
        said[said.index("--weights") + 1] = "WEIGHTS"
    return f"python -m pcs_ext.toybox.quality {shlex.join(said)}".strip()


def main(
    weights: Path | None = None,
    scenes: int = 1000,
    prompts: int = 500,
    clips: int = 64,
    sets: int = 48,
    resolution: int = 64,
    sheets: Path | None = None,
    output: Path | None = None,
    cards: bool = False,
    json: bool = False,
) -> None:
    """Measure the models of toybox on held-out scenes.

    Args:
        weights: folder of the models; the shipped ones when not given.
        scenes: held-out pictures; 0 measures nothing but clips and sets.
        prompts: captions to generate from.
        clips: held-out clips, and captions to make clips from; 0 leaves them out.
        sets: captions to draw four views of a toy from; 0 leaves them out.
        resolution: of the pictures, in pixels.
        sheets: folder to write contact sheets to.
        output: also write the JSON there.
        cards: also write the figures into the model cards beside the weights.
        json: print JSON instead of a table.
    """
    try:
        figures, missing = measure(
            weights or weights_path("base").parent,
            scenes=scenes,
            prompts=prompts,
            clips=clips,
            sets=sets,
            resolution=resolution,
            sheets=sheets,
            reporter=ConsoleReporter(),
        )
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    command = _command(sys.argv[1:])
    result = as_result(as_rows(figures), command=command, seeds=[DATA_SEED], missing=missing)
    if output is not None:
        write_json(output, result)
    if cards:
        write_quality(weights or weights_path("base").parent, result["rows"], result["command"])
    sys.stdout.write(jsonlib.dumps(result, indent=2) + "\n" if json else as_table(figures, missing))


if __name__ == "__main__":
    tyro.cli(main)
