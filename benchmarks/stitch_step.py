"""`python -m benchmarks.stitch_step`: one step of StitchDiffusion, ours and the released listing's sequence.

The listing (WACV 2024, as the research notes have it): on a canvas twice as wide as the panorama the block across the
seam is denoised twice and nine windows once each, eleven calls of the denoiser with and without words, each followed by
a step of the scheduler; what they give is averaged. Ours is what `panorama make --method stitch` runs: predictions are
fused, the scheduler steps once, and what the periodic canvas shows twice is denoised once. Both start from the same
canvas with the same random weights, take their steps in turns in one process, and end in the same canvas.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor

from benchmarks.random_models import GEOMETRIES, write_model
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.sample import SampleConfig, SampleHooks, build_scheduler, sample
from pcs_ext.image.types import Conditioning
from pcs_ext.svg.panorama.sample import PanoramaConfig
from pcs_ext.svg.panorama.stitch import periodic, stitch_plan
from pcs_ext.svg.panorama.windows import windowed

PROMPT, SCALE, STEPS = "a photo of the toy", 7.5, 50


def main(size: Literal["toybox", "sd15-small"] = "toybox", rounds: int = 5, threads: int = 0) -> None:
    """Measure and print JSON.

    Args:
        size: geometry of the randomly initialised model; sd15-small has the real one's pictures (panoramas of 512 x
            1024) and depth at a quarter of its width, and takes minutes per step.
        rounds: of each contestant, in turns, after one that warms up.
        threads: of the CPU; 0 leaves torch's choice.
    """
    if threads:
        torch.set_num_threads(threads)
    seconds: dict[str, list[float]] = {"listing": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        write_model(Path(folder) / "model", GEOMETRIES[size])
        backbone = load_backbone(Path(folder) / "model", device="cpu", precision="fp32")
        cells = backbone.resolution // backbone.vae_factor
        canvas = periodic(torch.randn(1, 4, cells, 4 * cells, generator=torch.Generator().manual_seed(0)))
        ways = {"listing": listing, "ours": ours}
        ends = {name: way(backbone, canvas) for name, way in ways.items()}
        for _ in range(rounds):
            for name, way in ways.items():
                start = time.process_time()
                way(backbone, canvas)
                seconds[name].append(time.process_time() - start)
    found = {name: round(statistics.median(values), 4) for name, values in seconds.items()}
    report = {
        "benchmark": "stitch_step",
        "size": size,
        "rounds": rounds,
        "threads": threads,
        "processor_seconds": found,
        "time_ratio": round(found["ours"] / found["listing"], 3),
        "largest_difference": float((ends["ours"] - ends["listing"]).abs().max()),
    }
    print(json.dumps(report, indent=2))


def _config(canvas: Tensor, factor: int) -> SampleConfig:
    height, width = canvas.shape[-2] * factor, canvas.shape[-1] * factor
    return SampleConfig(scheduler="ddim", num_inference_steps=STEPS, guidance_scale=SCALE, height=height, width=width)


def listing(backbone: AbstractBackbone, canvas: Tensor) -> Tensor:
    """The canvas after the first step, the listing's way."""
    conditioning = Conditioning.cat([backbone.encode_negative([""]), backbone.encode_prompt([PROMPT])])
    scheduler = build_scheduler(backbone, _config(canvas, backbone.vae_factor))
    timestep, width = scheduler.timesteps[0], canvas.shape[-1] // 2
    value, count = torch.zeros_like(canvas), torch.zeros_like(canvas)
    seam = torch.arange(3 * width // 2, 5 * width // 2) % (2 * width)
    windows = [torch.arange(start, start + width) for start in range(0, width + 1, width // 8)]
    for columns in [seam, seam, *windows]:
        latents = canvas[..., columns]
        prediction = backbone.predict(torch.cat([latents, latents]), timestep.expand(2), conditioning)
        without, words = prediction.chunk(2)
        stepped = scheduler.step(without + SCALE * (words - without), timestep, latents).prev_sample
        value[..., columns] += stepped
        count[..., columns] += 1
    return value / count


class _Stepped(Exception):
    """The first step is done."""


def ours(backbone: AbstractBackbone, canvas: Tensor) -> Tensor:
    """The canvas after the first step of `sample`, with the hooks of the method."""
    plan, ended = stitch_plan(canvas.shape[-1] // 2), []

    def stop(_step: int, _timestep: Tensor, latents: Tensor) -> Tensor:
        ended.append(latents)
        raise _Stepped

    hooks = SampleHooks(
        predict=lambda predict: windowed(predict, plan, windows_per_batch=PanoramaConfig().windows_per_batch),
        on_step=stop,
        initial_latents=canvas,
    )
    config = _config(canvas, backbone.vae_factor)
    try:
        sample(backbone, [PROMPT], seeds=[0], config=config, negative_prompts=[""], hooks=hooks)
    except _Stepped:
        return ended[0]
    raise AssertionError("no step was taken")


if __name__ == "__main__":
    tyro.cli(main)
