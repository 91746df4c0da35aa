"""`python -m benchmarks.panorama_systems`: StitchDiffusion against MultiDiffusion on the embedded world.

A LoRA learns 48 true panoramas with their captions (recipe `stitchdiffusion`); with it, every method samples the same
prompts from the same seeds. Measured: how well the ends meet, what the oracle reads in perspective pictures taken
inside, how even the poles are, and seconds. Writes `results/panorama_systems.json` and a picture for the docs.
"""

import dataclasses
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import tyro
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import config_hash, write_json
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.learn import learn, resolve_recipe
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import ConsoleReporter
from pcs_ext.results import as_result
from pcs_ext.runtime import cache_folder
from pcs_ext.svg.panorama.projection import perspective
from pcs_ext.svg.panorama.sample import Method, PanoramaConfig, sample_panoramas
from pcs_ext.svg.panorama.seams import discontinuity, pole_spread, seam_ratio
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.oracle import Oracle
from pcs_ext.toybox.train.panorama import SCENES, TRIGGER, scenes_around, words, write_panoramas
from pcs_ext.toybox.world.render import render_rgb

ROOT = Path(__file__).parents[1]
METHODS: tuple[Method, ...] = ("stitch", "padded", "circular", "multidiffusion")
CONTEXTS = ("on the beach", "in the desert", "in the snow", "on the grass", "in a room", "at night")
_CROPS = (0.0, 90.0, 180.0, 270.0)


def contexts_read(oracle: Oracle, panoramas: Tensor, context: str) -> list[float]:
    """Of every panorama, the share of its perspective pictures in which the oracle reads the context."""
    side = panoramas.shape[-2]
    crops = torch.stack([perspective(panoramas, azimuth, fov=60.0, height=side, width=side) for azimuth in _CROPS], 1)
    read = oracle.read(crops.flatten(0, 1))
    right = [float(one["context"] == context) for one in read]
    return [statistics.fmean(right[i : i + len(_CROPS)]) for i in range(0, len(right), len(_CROPS))]


def figures(panoramas: Tensor) -> dict[str, list[float]]:
    """What needs no oracle, per panorama."""
    return {
        "seam": seam_ratio(panoramas).tolist(),
        "seam over mean": seam_ratio(panoramas, over="mean").tolist(),
        "discontinuity": discontinuity(panoramas).tolist(),
        "pole spread": pole_spread(panoramas).tolist(),
    }


def main(
    panoramas: int = SCENES,
    seeds: int = 3,
    steps: int = 0,
    work: Path = Path(),
    output: Path = ROOT / "results" / "panorama_systems.json",
    sheet: Path = ROOT / "docs" / "images" / "panoramas.png",
) -> None:
    """Learn, sample, measure, write.

    Args:
        panoramas: how many are learned from.
        seeds: per prompt.
        steps: of training; 0 takes the recipe's.
        work: folder of the learned look; kept for the next call.
        output: result file.
        sheet: picture of the first seed of every prompt, a row per method.
    """
    work = work if work != Path() else cache_folder() / "panorama-systems"
    backbone, oracle = load_backbone("toybox", device="cpu"), Oracle.load(weights_path("oracle"))
    wanted = resolve_recipe("stitchdiffusion", TRIGGER, "toybox")
    wanted = wanted.with_steps(steps) if steps else wanted
    work /= config_hash([wanted, panoramas, backbone.fingerprint])
    write_panoramas(work / "panoramas", panoramas, backbone.resolution)
    look = work / "look"
    if not look.exists():
        learn(work / "panoramas", noun=TRIGGER, output=look, recipe=wanted, base=backbone, reporter=ConsoleReporter())
    artifact = Artifact.load(look)
    measured, pictures = measure(artifact, backbone, oracle, seeds)
    truth = figures(render_rgb(scenes_around("held-out panoramas", 24), resolution=backbone.resolution))
    rows = [row for method in METHODS for row in result_rows(method, measured, truth)]
    command = " ".join(["python -m benchmarks.panorama_systems", *sys.argv[1:]])
    write_json(output, as_result(rows, command=command, seeds=range(seeds)))
    Image.fromarray(_sheet(pictures)).save(sheet)
    for row in rows:
        text = f"{row['method']:15} {row['metric']:15} {row['value']:.3f} ± {row['spread']:.3f}"
        if row["baseline_value"] is not None:
            text += f"  ({row['baseline']} {row['baseline_value']:.3f})"
        sys.stdout.write(f"{text}\n")


def measure(
    artifact: Artifact, backbone: Any, oracle: Oracle, seeds: int
) -> tuple[dict[Method, dict[str, list[float]]], list[Tensor]]:
    """Figures per method and panorama; and per method the first seed's pictures."""
    measured: dict[Method, dict[str, list[float]]] = {method: {} for method in METHODS}
    pictures = []
    with artifact.applied(backbone), torch.inference_mode():
        for method in METHODS:
            # Square windows from edge to edge, as MultiDiffusion has them; the tuned methods see the panorama whole.
            window = "square" if method == "multidiffusion" else "wide"
            config = PanoramaConfig(method=method, window=window, sampling=artifact.sampling)
            shown = []
            for index, context in enumerate(CONTEXTS):
                toy = scenes_around("held-out panoramas", len(CONTEXTS))[index]
                prompt = f"a {TRIGGER}, {words(dataclasses.replace(toy, context=context))}"
                start = time.perf_counter()
                made = sample_panoramas(backbone, [prompt] * seeds, seeds=range(seeds), config=config)
                seconds = (time.perf_counter() - start) / seeds
                found = figures(made) | {"context": contexts_read(oracle, made, context), "seconds": [seconds] * seeds}
                for name, values in found.items():
                    measured[method].setdefault(name, []).extend(values)
                shown.append(made[0])
            pictures.append(torch.stack(shown))
    return measured, pictures


def result_rows(
    method: Method, measured: dict[Method, dict[str, list[float]]], truth: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """Rows of the result file; the baseline is MultiDiffusion, of MultiDiffusion itself the true panoramas."""
    rows = []
    for name, values in measured[method].items():
        baseline = measured["multidiffusion"] if method != "multidiffusion" else truth
        row = {
            "method": method,
            "metric": name,
            "higher_is_better": name == "context",
            "value": statistics.fmean(values),
            "spread": 1.96 * statistics.stdev(values) / math.sqrt(len(values)),
            "n": len(values),
            "baseline": "multidiffusion" if method != "multidiffusion" else "true panoramas",
            "baseline_value": statistics.fmean(baseline[name]) if name in baseline else None,
            "seconds": round(statistics.fmean(measured[method]["seconds"]), 2),
        }
        rows.append({"system": "stitchdiffusion", **row} if method == "stitch" else row)
    return rows


def _sheet(pictures: list[Tensor]) -> Any:
    """Rows of panoramas, each turned by half so that the seam is in the middle."""
    rows = [torch.cat(list(row.roll(row.shape[-1] // 2, -1)), -1) for row in pictures]
    levels = ((torch.cat(rows, 1).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.permute(1, 2, 0).repeat_interleave(2, 0).repeat_interleave(2, 1).numpy()


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    tyro.cli(main)
