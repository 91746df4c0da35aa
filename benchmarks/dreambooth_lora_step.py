"""`python -m benchmarks.dreambooth_lora_step`: one DreamBooth-LoRA step with prior preservation, ours and diffusers'.

The peer is the sequence of operations of diffusers' examples/dreambooth/train_dreambooth_lora.py at its defaults:
encode the images and the prompts in every step, add a rank 4 peft adapter to to_q, to_k, to_v, to_out.0, predict noise
for photos and class images at once, add the two halves' losses, clip, AdamW, read the loss. Its default precision is
float32 (`accelerate` without mixed precision); `peer_bf16` is the same with `--mixed_precision bf16`, which also casts
the frozen weights. Reading photos from disk, which it does in every step too, is left out on both sides.

Ours is what `learn` runs: cached latents and prompts, DenoisingObjective, LowRankAdapter, fit; `ours` in bf16, which
is what it chooses where the CPU multiplies bf16, `ours_fp32` elsewhere; freed memory is kept as `pcs-ext` keeps it
(pcs_ext/heap.py). Both get the same weights and the same pixels, run in processes of their own, one at a time, in
turns.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks.random_models import GEOMETRIES, write_model
from pcs_ext.heap import keep_freed_memory

Size = Literal["toybox", "sd15-small", "sd15"]
RANK, LEARNING_RATE, WARM_UP = 4, 5e-4, 2
PROMPTS = ("a photo of sks dog", "a photo of dog")


def main(
    size: Size = "toybox",
    base: str = "",
    batch: int = 4,
    steps: int = 6,
    rounds: int = 3,
    threads: int = 0,
    device: str = "cpu",
    role: Literal["", "ours", "ours_fp32", "peer", "peer_bf16"] = "",
) -> None:
    """Measure and print JSON.

    Args:
        size: geometry of the randomly initialised base, when no `base` is given.
        base: diffusers folder with real weights instead; `size` still gives the resolution.
        batch: photos per step; as many class images are stacked on top.
        steps: timed steps per process.
        rounds: processes per contestant, in turns.
        threads: of the CPU; 0 leaves torch's choice.
        device: cpu or cuda.
        role: of one process (internal).
    """
    if threads:
        torch.set_num_threads(threads)
    if role:
        print(json.dumps(_measure(role, base, GEOMETRIES[size].resolution, batch, steps, device)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if not base:
            write_model(Path(folder) / "model", GEOMETRIES[size])
        arguments = {"size": size, "base": base or f"{folder}/model", "batch": batch, "steps": steps}
        arguments |= {"threads": threads, "device": device}
        rows: dict[str, list[dict[str, float]]] = {"peer": [], "peer_bf16": [], "ours": [], "ours_fp32": []}
        for _ in range(rounds):
            for name, row in rows.items():
                row.append(_child({**arguments, "role": name}))
    result: dict[str, Any] = {"benchmark": "dreambooth_lora_step", "size": size, "batch": f"{batch} + {batch}"}
    result |= {"device": device, "threads": threads or torch.get_num_threads(), "steps": steps, "rounds": rounds}
    for name, row in rows.items():
        seconds = [value["seconds"] for value in row]
        result[name] = {
            "seconds_per_step": round(statistics.median(seconds), 4),
            "fastest": round(min(seconds), 4),
            "cpu_seconds_per_step": round(statistics.median(value["cpu_seconds"] for value in row), 4),
            "slowest": round(max(seconds), 4),
            "peak_mb": round(statistics.median(value["peak_mb"] for value in row)),
            "once_seconds": round(statistics.median(value["once_seconds"] for value in row), 2),
        }
    ours = result["ours"]
    for other in ("peer", "peer_bf16"):
        result[f"time_ratio_to_{other}"] = round(ours["seconds_per_step"] / result[other]["seconds_per_step"], 3)
        # Over all threads: hardly moved by other work on the machine.
        cpu = ours["cpu_seconds_per_step"] / result[other]["cpu_seconds_per_step"]
        result[f"cpu_time_ratio_to_{other}"] = round(cpu, 3)
        fp32 = result["ours_fp32"]["cpu_seconds_per_step"] / result[other]["cpu_seconds_per_step"]
        result[f"fp32_cpu_time_ratio_to_{other}"] = round(fp32, 3)
        result[f"memory_ratio_to_{other}"] = round(ours["peak_mb"] / result[other]["peak_mb"], 3)
    print(json.dumps(result, indent=2))


def _child(arguments: dict[str, Any]) -> dict[str, float]:
    flags = [part for key, value in arguments.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "benchmarks.dreambooth_lora_step", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise SystemExit(f"{arguments['role']} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure(role: str, base: str, resolution: int, batch: int, steps: int, device: str) -> dict[str, float]:
    pixels = torch.rand(2 * batch, 3, resolution, resolution, generator=torch.Generator().manual_seed(1)) * 2 - 1
    prompts = [PROMPTS[0]] * batch + [PROMPTS[1]] * batch
    total = WARM_UP + steps
    if role.startswith("ours"):
        autocast = "none" if role == "ours_fp32" else "bf16"
        step = ours(base, pixels, prompts, autocast, total, torch.device(device))
    else:
        step = diffusers_script(base, pixels, prompts, role == "peer_bf16", torch.device(device))
    start = time.perf_counter()
    for _ in range(WARM_UP):
        step()
    once = time.perf_counter() - start
    seconds, cpu_seconds = [], []
    for _ in range(steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        step()  # ends with the loss on the host, so the device has finished
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {
        "seconds": statistics.median(seconds),
        "cpu_seconds": statistics.median(cpu_seconds),
        "peak_mb": peak,
        "once_seconds": once,
    }


def diffusers_script(
    base: str, pixels: torch.Tensor, prompts: list[str], bf16: bool, device: torch.device
) -> Callable[[], float]:
    """The peer's step."""
    import torch.nn.functional as F
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from peft import LoraConfig
    from transformers import CLIPTextModel, CLIPTokenizer

    weight_dtype = torch.bfloat16 if bf16 else torch.float32
    tokenizer: Any = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    text_encoder: Any = CLIPTextModel.from_pretrained(base, subfolder="text_encoder")
    vae: Any = AutoencoderKL.from_pretrained(base, subfolder="vae")
    unet: Any = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    scheduler: Any = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    for module in (text_encoder, vae, unet):
        module.requires_grad_(False)
        module.to(device, dtype=weight_dtype)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets))
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=1e-2)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    ids = tokenizer(prompts, truncation=True, padding="max_length", max_length=77, return_tensors="pt").input_ids
    unet.train()

    def step() -> float:
        values = pixels.to(device, dtype=weight_dtype)
        latents = vae.encode(values).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), device=device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        states = text_encoder(ids.to(device))[0]
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            predicted = unet(noisy, timesteps, encoder_hidden_states=states).sample.float()
        predicted, predicted_prior = predicted.chunk(2)
        velocity = scheduler.config.prediction_type == "v_prediction"
        target, target_prior = (scheduler.get_velocity(latents, noise, timesteps) if velocity else noise).chunk(2)
        loss = F.mse_loss(predicted.float(), target.float()) + F.mse_loss(predicted_prior.float(), target_prior.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        return loss.detach().item()

    return step


def ours(
    base: str, pixels: torch.Tensor, prompts: list[str], autocast: Any, steps: int, device: torch.device
) -> Callable[[], float]:
    """Our step."""
    keep_freed_memory()
    from pcs_ext.image.adapters import LowRankConfig, build_adapter
    from pcs_ext.image.backbones.load import load_backbone
    from pcs_ext.image.fit import FitConfig, fit
    from pcs_ext.image.objectives import DenoisingObjective, ObjectiveConfig
    from pcs_ext.image.training import LatentCache, PromptCache
    from pcs_ext.image.types import Batch, LossTerms, ParameterGroup

    precision = "fp32" if autocast == "none" else autocast
    backbone = load_backbone(base, device=str(device), precision=precision)
    adapter = build_adapter("denoiser", LowRankConfig(rank=RANK))
    adapter.inject(backbone)
    parameters = adapter.parameters()["denoiser"]
    half = len(prompts) // 2
    batch = Batch(
        images=pixels,
        captions=tuple(prompts),
        is_prior=torch.tensor([False] * half + [True] * half),
        keys=tuple(f"image {index}" for index in range(len(prompts))),
    )
    latents, states = LatentCache(backbone), PromptCache(backbone, enabled=True)
    objective = DenoisingObjective(ObjectiveConfig(prior_loss_weight=1.0))

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        return objective(backbone, batch, latents(batch), states(batch.captions), generator)

    group = ParameterGroup(name="lora", parameters=parameters, learning_rate=LEARNING_RATE, weight_decay=1e-2)
    run = fit(loss, [group], FitConfig(steps=steps, autocast=autocast))
    return lambda: next(run).losses["total"]


if __name__ == "__main__":
    tyro.cli(main)
