"""`python -m benchmarks.world`: pictures per second of the embedded world, as JSON."""

import json
import time
from typing import Any

import torch
import tyro

from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.render import render, render_rgb
from pcs_ext.toybox.world.sampling import sample_scene


def main(device: str = "cpu", threads: int = 0, batch: int = 64, repeats: int = 3) -> None:
    """Measure sampling, captioning and rendering.

    Args:
        device: where to render.
        threads: of the CPU; 0 leaves torch's choice.
        batch: scenes per call.
        repeats: timed calls; the best counts.
    """
    if threads:
        torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    scenes = [sample_scene(generator) for _ in range(batch)]
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"
    result: dict[str, Any] = {"device": name, "batch": batch, "supersample": 2}
    sampling = _best(lambda: [caption(sample_scene(generator), generator) for _ in range(batch)], device, repeats)
    result["scenes_and_captions_per_second"] = round(batch / sampling, 1)
    for side in (64, 128):
        pictures = _best(lambda side=side: render_rgb(scenes, resolution=side, device=device), device, repeats)
        truths = _best(lambda side=side: render(scenes, resolution=side, device=device), device, repeats)
        result[f"rgb_{side}_per_second"] = round(batch / pictures, 1)
        result[f"rgb_and_truth_{side}_per_second"] = round(batch / truths, 1)
    print(json.dumps(result, indent=2))


def _best(work: Any, device: str, repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    tyro.cli(main)
