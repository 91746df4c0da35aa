"""`python -m benchmarks.svg_systems`: exemplars with named layers, customised by a prompt, in three ways.

SVGCustomization; tracing its customised picture (LIVE-style, with as many paths); VectorFusion on the plain base. Of
each: share of the exemplar's ids in the output, paths, control points, roughness of outlines, likeness to the
customised picture, to the exemplar, and to the prompt. Runs are kept in a work folder; an interrupted call goes on.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import tyro
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import config_hash, read_json, write_json
from pcs_ext.errors import PcsError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.evaluate import Judges
from pcs_ext.reporter import ConsoleReporter
from pcs_ext.results import as_result
from pcs_ext.runtime import cache_folder
from pcs_ext.svg.customize import Request, customize_svg, resolve_customization
from pcs_ext.svg.exemplar import on_canvas
from pcs_ext.svg.make import resolve_text_to_vector, text_to_vector
from pcs_ext.svg.vector.losses import smoothness_loss
from pcs_ext.svg.vector.read import read_svg
from pcs_ext.svg.vector.scene import Scene
from pcs_ext.svg.vector.vectorize import Vectorization, read_target, vectorize
from pcs_ext.svg.vector.write import new_svg, write_svg
from pcs_ext.toybox.judges import toybox_judges

ROOT = Path(__file__).parents[1]
WISHES = {
    "house": "a red {subject} in snow",
    "mug": "a green {subject} on a table",
    "rocket": "a blue {subject} at night",
    "dog": "a yellow {subject} on grass",
    "robot": "a pink {subject} on the beach",
    "cat": "an orange {subject} in a room",
    "car": "a cyan {subject} in the desert",
    "teapot": "a purple {subject} on a table",
    "boat": "a white {subject} at night",
    "duck": "a blue {subject} in snow",
    "bear": "a gray {subject} on grass",
    "tree": "a brown {subject} in the desert",
}
HIGHER = {
    "ids-kept": True,
    "paths": False,
    "control-points": False,
    "roughness": False,
    "picture-levels": False,
    "clip-i": True,
    "dino-i": True,
    "clip-t": True,
}
EXISTS_FOR = ("roughness", "picture-levels", "clip-i", "dino-i", "clip-t")
"""Metrics whose rows name the system: those that a baseline could win. No way but ours knows the exemplar's ids, so all
others keep none, and tracing is given our number of paths."""
_SIDE = 128
"""Of a picture in the sheet."""
SYSTEM = "svgcustomization"
BASELINES = {"live-tracing": "tracing the customised picture", "vectorfusion": "VectorFusion on the plain base"}


def main(
    exemplars: int = len(WISHES),
    seeds: int = 1,
    recipe: str = "svg-customization-lora",
    steps: int = 0,
    work: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: in the cache folder)")] = Path(),
    output: Path = ROOT / "results" / "svg_systems.json",
    sheet: Path = ROOT / "docs" / "images" / "svg_systems.png",
) -> None:
    """Measure and write the results.

    Args:
        exemplars: the first so many of examples/svg.
        seeds: of learning and sampling: 0, 1, ...
        recipe: of the customisation.
        steps: of learning an exemplar; 0 takes the recipe's.
        work: folder of the runs.
        output: results file.
        sheet: picture with a row per exemplar, the first seed's: it, its customised picture, and what three ways drew.
    """
    torch.set_num_threads(1)
    work = work if work != Path() else cache_folder() / "svg_systems"
    names = list(WISHES)[:exemplars]
    try:
        backbone, judges = load_backbone("toybox", reporter=ConsoleReporter()), toybox_judges()
        runs = [_run(work, name, seed, recipe, steps, backbone, judges) for name in names for seed in range(seeds)]
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    command = f"python -m benchmarks.svg_systems --exemplars {len(names)} --seeds {seeds} --recipe {recipe}"
    command += f" --steps {steps}" if steps else ""
    rows = _rows(runs, judges)
    write_json(output, as_result(rows, command=command, seeds=range(seeds), subjects=names))
    for row in rows:
        against = "" if row["baseline"] is None else f"  {row['baseline']} {row['baseline_value']:.3f}"
        sys.stdout.write(f"{row['method']:18} {row['metric']:16} {row['value']:.3f}{against}\n")
    Image.fromarray(_sheet([_folder(work, name, 0, recipe, steps, backbone) for name in names], names)).save(sheet)
    sys.stdout.write(f"{output}\n{sheet}\n")


def _folder(work: Path, name: str, seed: int, recipe: str, steps: int, backbone: AbstractBackbone) -> Path:
    ways = [resolve_customization(recipe, name, backbone, steps=steps or None), resolve_text_to_vector(backbone)]
    return work / f"{name}-{seed}-{recipe}-{config_hash([ways, backbone.fingerprint])}"


def _sheet(folders: list[Path], names: list[str]) -> Any:
    """`h w 3` bytes."""
    rows = []
    for folder, name in zip(folders, names, strict=True):
        scenes = [read_svg(path).scene for path in (
            ROOT / "examples" / "svg" / f"{name}.svg",
            *(folder / f"{way}.svg" for way in ("ours", "traced", "vectorfusion")),
        )]  # fmt: skip
        drawn = [on_canvas(scene, _SIDE).clamp(0, 1) for scene in scenes]
        picture, _ = read_target(folder / "ours.svg.work" / "customized.png", _SIDE)
        picture = F.interpolate(picture[None], size=(_SIDE, _SIDE), mode="nearest")[0]
        rows.append(torch.cat([drawn[0], picture, *drawn[1:]], dim=-1))
    return (torch.cat(rows, dim=-2).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def _run(
    work: Path, name: str, seed: int, recipe: str, steps: int, backbone: AbstractBackbone, judges: Judges
) -> dict[str, dict[str, float]]:
    """Metrics by system; a finished run is read back."""
    folder = _folder(work, name, seed, recipe, steps, backbone)
    done = folder / "metrics.json"
    if done.exists():
        return read_json(done)
    exemplar = ROOT / "examples" / "svg" / f"{name}.svg"
    request = Request(
        exemplar=exemplar,
        prompt=WISHES[name],
        output=folder / "ours.svg",
        noun=name,
        recipe=resolve_customization(recipe, name, backbone, steps=steps or None),
        seed=seed,
    )
    start = time.perf_counter()
    customize_svg(request, base=backbone, reporter=ConsoleReporter())
    seconds = {SYSTEM: time.perf_counter() - start}
    picture, _ = read_target(request.work / "customized.png", 1024)
    ours = read_svg(request.output).scene
    start = time.perf_counter()
    traced = vectorize(picture, Vectorization(paths=len(ours.paths), side=backbone.resolution))
    seconds["live-tracing"] = time.perf_counter() - start
    write_svg(folder / "traced.svg", new_svg(traced))
    start = time.perf_counter()
    text = WISHES[name].replace("{subject}", name)
    fused = text_to_vector(backbone, text, resolve_text_to_vector(backbone), seed=seed, folder=folder / "vectorfusion")
    seconds["vectorfusion"] = time.perf_counter() - start
    write_svg(folder / "vectorfusion.svg", new_svg(fused))
    scenes = {SYSTEM: ours, "live-tracing": traced, "vectorfusion": fused}
    before = read_svg(exemplar).scene
    found = {
        system: {**_metrics(scene, before, picture, text, judges), "seconds": seconds[system]}
        for system, scene in scenes.items()
    }
    # VectorFusion has not seen that picture.
    del found["vectorfusion"]["picture-levels"]
    write_json(done, found)
    return found


def _metrics(scene: Scene, exemplar: Scene, picture: Tensor, text: str, judges: Judges) -> dict[str, float]:
    side = picture.shape[1]
    drawn, before = on_canvas(scene, side), on_canvas(exemplar, side)
    subpaths = [subpath for path in scene.paths for subpath in path.subpaths]
    ids = {path.id for path in scene.paths}
    found = {
        "ids-kept": sum(path.id in ids for path in exemplar.paths) / len(exemplar.paths),
        "paths": float(len(scene.paths)),
        "control-points": float(sum(len(subpath.points) for subpath in subpaths)),
        "roughness": statistics.fmean(float(smoothness_loss(subpath)) for subpath in subpaths),
        "picture-levels": 255 * float((drawn - picture).abs().mean()),
    }
    pair = torch.stack([drawn, before]) * 2 - 1
    for name, judge in (("clip-i", judges.clip), ("dino-i", judges.dino)):
        if judge is not None:
            with torch.no_grad():
                new, old = judge.encode_images(pair)
            found[name] = float(new @ old)
    if judges.clip is not None:
        with torch.no_grad():
            image, words = judges.clip.encode_images(pair[:1]), judges.clip.encode_texts([f"flat vector art of {text}"])
        found["clip-t"] = float((image * words).sum())
    return found


def _rows(runs: list[dict[str, dict[str, float]]], judges: Judges) -> list[dict[str, Any]]:
    """One row per method and metric, and one of ours against each baseline."""
    rows = []
    for method, baselines in (("live-tracing", [None]), ("vectorfusion", [None]), (SYSTEM, [*BASELINES])):
        for metric in HIGHER:
            for baseline in baselines:
                if metric in runs[0][method] and (baseline is None or metric in runs[0][baseline]):
                    rows.append(_row(runs, method, metric, baseline, judges))
    return rows


def _row(
    runs: list[dict[str, dict[str, float]]], method: str, metric: str, baseline: str | None, judges: Judges
) -> dict[str, Any]:
    values = [run[method][metric] for run in runs]
    encoder = {"clip-i": judges.clip, "clip-t": judges.clip, "dino-i": judges.dino}.get(metric)
    return {
        **({"system": SYSTEM} if method == SYSTEM and metric in EXISTS_FOR else {}),
        "method": method,
        "metric": metric,
        "higher_is_better": HIGHER[metric],
        "value": statistics.fmean(values),
        "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
        "unit": "exemplar",
        "n": len(values),
        "encoder": None if encoder is None else encoder.id,
        "baseline": baseline,
        "baseline_value": None if baseline is None else statistics.fmean(run[baseline][metric] for run in runs),
        "seconds": round(statistics.fmean(run[method]["seconds"] for run in runs), 1),
        "peak_mb": None,
    }


if __name__ == "__main__":
    tyro.cli(main)
