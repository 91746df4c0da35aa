"""`python -m benchmarks.motion_director_step`: one training step of MotionDirector, ours and the released script's.

The peer is the sequence of operations of showlab/MotionDirector's trainer, as the research notes have it: every linear
layer wrapped once per clip by a LoRA whose branches all run, multiplied by 0 where they are off; the prompt encoded in
every step; a forward pass of one random frame past the temporal layers, a forward pass of all frames with both LoRAs,
squared error and the debiased loss; then both backward passes, the first of which keeps its graph, the spatial LoRA
stepped in between, so that the second computes gradients for it that nothing uses.

Ours is what `video learn-motion` runs: cached prompts, `PassesLoss`, `LowRankAdapter`, `fit`, freed memory kept
(pcs_ext/heap.py). Both have the same frozen
text-to-video UNet with random weights in bf16, LoRAs in fp32 under autocast, the same latents, rank and losses, no
checkpointing, and run in processes of their own, one at a time, in turns.
"""

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from benchmarks.memory import peak_mb
from benchmarks.random_models import GEOMETRIES, write_model

Size = Literal["toybox", "modelscope"]
WIDTHS: dict[Size, tuple[int, ...]] = {"toybox": (64, 128, 192, 192), "modelscope": (320, 640, 1280, 1280)}
RANK, LEARNING_RATE, WARM_UP = 32, 5e-4, 1
PROMPT = "a photo of the dog"


def main(
    size: Size = "toybox",
    frames: int = 8,
    side: int = 16,
    clips: int = 1,
    steps: int = 5,
    rounds: int = 3,
    threads: int = 0,
    device: str = "cpu",
    role: Literal["", "ours", "peer"] = "",
    base: str = "",
) -> None:
    """Measure and print JSON.

    Args:
        size: widths of the randomly initialised UNet; modelscope is the real one's, for a GPU.
        frames: of a clip.
        side: of its latents; 48 is 384 pixels.
        clips: learned together: so many spatial LoRAs on the peer's side, one on ours.
        steps: timed steps per process.
        rounds: processes per contestant, in turns.
        threads: of the CPU; 0 leaves torch's choice.
        device: cpu or cuda.
        role: of one process (internal).
        base: folder of the model (internal).
    """
    if threads:
        torch.set_num_threads(threads)
    if role:
        print(json.dumps(_measure(role, base, (clips, frames, side), steps, device)))
        return
    flags: dict[str, Any] = {"size": size, "frames": frames, "side": side, "clips": clips, "steps": steps}
    flags |= {"threads": threads, "device": device}
    rows: dict[str, list[dict[str, float]]] = {"peer": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        write_text_to_video(Path(folder) / "model", WIDTHS[size])
        for _ in range(rounds):
            for name, row in rows.items():
                row.append(_child({**flags, "role": name, "base": f"{folder}/model"}))
    result: dict[str, Any] = {"benchmark": "motion_director_step", **flags, "rounds": rounds}
    for name, row in rows.items():
        result[name] = {key: round(statistics.median(one[key] for one in row), 4) for key in row[0]}
    for key, ratio in (("seconds", "time_ratio"), ("cpu_seconds", "cpu_time_ratio"), ("peak_mb", "memory_ratio")):
        result[ratio] = round(result["ours"][key] / result["peer"][key], 3)
    print(json.dumps(result, indent=2))


def write_text_to_video(folder: Path, widths: tuple[int, ...]) -> None:
    """A ModelScope pipeline folder with random weights, small in everything but the UNet."""
    from diffusers import UNet3DConditionModel

    geometry = GEOMETRIES["toybox"]
    write_model(folder, geometry)
    torch.manual_seed(0)
    last = len(widths) - 1
    unet = UNet3DConditionModel(
        sample_size=16,
        block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock3D",) * last + ("DownBlock3D",),
        up_block_types=("UpBlock3D",) + ("CrossAttnUpBlock3D",) * last,
        cross_attention_dim=geometry.text_width,
    )
    for file in (folder / "unet").iterdir():
        file.unlink()
    unet.save_pretrained(folder / "unet")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index |= {"_class_name": "TextToVideoSDPipeline", "unet": ["diffusers", "UNet3DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def _child(flags: dict[str, Any]) -> dict[str, float]:
    arguments = [part for key, value in flags.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "benchmarks.motion_director_step", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise SystemExit(f"{flags['role']} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure(role: str, base: str, shape: tuple[int, int, int], steps: int, device: str) -> dict[str, float]:
    from pcs_ext.video.backbones.load import load_video_backbone

    clips, frames, side = shape
    backbone = load_video_backbone(base, device=device, precision="bf16")
    latents = torch.randn(clips, 4, frames, side, side, generator=torch.Generator().manual_seed(1))
    step = (ours if role == "ours" else released_script)(backbone, latents, WARM_UP + steps)
    for _ in range(WARM_UP):
        step()
    seconds, cpu_seconds = [], []
    for _ in range(steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        step()  # ends with the loss on the host, so the device has finished
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    peak = peak_mb() if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
    return {"seconds": statistics.median(seconds), "cpu_seconds": statistics.median(cpu_seconds), "peak_mb": peak}


class LoraLinear(nn.Module):
    """The peer's layer: a linear one, or another of these, and a branch that always runs."""

    def __init__(self, inner: nn.Module, rank: int) -> None:
        super().__init__()
        width_in, width_out = _widths(inner)
        self.inner, self.scale = inner, 1.0
        self.down, self.up = nn.Linear(width_in, rank, bias=False), nn.Linear(rank, width_out, bias=False)
        self.dropout = nn.Dropout(0.1)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.dropout(self.up(self.down(x))) * self.scale


def _widths(layer: Any) -> tuple[int, int]:
    while isinstance(layer, LoraLinear):
        layer = layer.inner
    return layer.in_features, layer.out_features


def _wrapped(backbone: Any, kind: Any) -> list[LoraLinear]:
    """LoRAs in front of all layers of a kind, one more around those that are there."""
    import re

    targets, made = backbone.targets(kind), []
    for path, module in list(backbone.denoiser.named_modules()):
        # A wrapped layer goes by the path of what it wraps.
        if any(part in path.split(".") for part in ("inner", "down", "up", "dropout")):
            continue
        if isinstance(module, (nn.Linear, LoraLinear)) and any(re.search(p, path) for p in targets.patterns):
            owner, _, name = path.rpartition(".")
            lora = LoraLinear(module, RANK).to(backbone.device)
            parent: Any = backbone.denoiser.get_submodule(owner)
            if name.isdigit():
                parent[int(name)] = lora
            else:
                setattr(parent, name, lora)
            made.append(lora)
    return made


def released_script(backbone: Any, latents: Tensor, steps: int) -> Callable[[], float]:
    """The peer's step."""
    temporal = _wrapped(backbone, "temporal")
    spatial = [_wrapped(backbone, "spatial") for _ in latents]
    optimizers = [_adamw(loras) for loras in (temporal, *spatial)]
    backbone.denoiser.train()
    generator = torch.Generator().manual_seed(0)

    def step() -> float:
        which = int(torch.randint(len(latents), (), generator=generator))
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        for number, loras in enumerate(spatial):
            for lora in loras:
                lora.scale = float(number == which)
        with torch.no_grad():
            told = backbone.encode_prompt([PROMPT])
        clean, schedule = latents[[which]].to(backbone.device), backbone.schedule
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        timesteps = torch.randint(1000, (1,), generator=generator).to(clean.device)
        noisy, frame = schedule.add_noise(clean, noise, timesteps), int(torch.randint(clean.shape[2], ()))
        autocast = torch.autocast(backbone.device.type, torch.bfloat16)
        with backbone.frame_by_frame(), autocast:
            one = slice(frame, frame + 1)
            predicted = backbone.predict(noisy[:, :, one], timesteps, told).float()
        loss_spatial = F.mse_loss(predicted, schedule.target(clean, noise, timesteps)[:, :, one])
        with autocast:
            predicted = backbone.predict(noisy, timesteps, told).float()
        target = schedule.target(clean, noise, timesteps)
        loss_temporal = F.mse_loss(predicted, target) + F.mse_loss(_phi(predicted, frame), _phi(target, frame))
        loss_spatial.backward(retain_graph=True)
        optimizers[1 + which].step()
        loss_temporal.backward()
        optimizers[0].step()
        return (loss_spatial + loss_temporal).item()

    return step


def _phi(clip: Tensor, anchor: int) -> Tensor:
    return 2**0.5 * clip - clip[:, :, anchor : anchor + 1]


def _adamw(loras: list[LoraLinear]) -> torch.optim.AdamW:
    parameters = [p for lora in loras for p in (lora.down.weight, lora.up.weight)]
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=1e-2)


def ours(backbone: Any, latents: Tensor, steps: int) -> Callable[[], float]:
    """Our step: the recipe of the paper's values, no pass skipped."""
    from pcs_ext.heap import keep_freed_memory
    from pcs_ext.image.adapters import build_adapter
    from pcs_ext.image.adapters.base import injected
    from pcs_ext.image.fit import fit
    from pcs_ext.video.recipes import MOTIONS
    from pcs_ext.video.training import EncodedClips, PassesLoss, parameter_groups

    keep_freed_memory()
    recipe = MOTIONS["motion-director"].build("sd")
    (phase,) = recipe.phases
    phase = dataclasses.replace(phase, passes=tuple(dataclasses.replace(one, skipped=0.0) for one in phase.passes))
    adapters = {name: build_adapter(name, layers.adapter(backbone)) for name, layers in recipe.adapters.items()}
    stack = contextlib.ExitStack()
    stack.enter_context(injected(backbone, *adapters.values()))
    with torch.no_grad():
        told = backbone.encode_prompt([PROMPT] * len(latents))
    clips = EncodedClips(list(latents), [PROMPT] * len(latents), told)
    loss = PassesLoss(phase, backbone, adapters, clips, frames=latents.shape[2])
    config = dataclasses.replace(phase.fit, steps=steps, gradient_accumulation=len(phase.passes), autocast="bf16")
    run = fit(loss, parameter_groups(phase, adapters), config)
    # The stack lives as long as the step does.
    return lambda: (stack, next(run).losses["total"])[1]


if __name__ == "__main__":
    tyro.cli(main)
