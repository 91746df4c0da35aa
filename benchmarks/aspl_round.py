"""`python -m benchmarks.aspl_round`: one ASPL round on four photos, ours and the released script's operations.

The peer is written from a description of the released Anti-DreamBooth script, operation by operation: a deep copy of
denoiser and text encoder, another one inside each call of training; a new AdamW per call; in every training step the
prompt is tokenised, photo and class image are encoded anew, and all of both models trains; 3 steps on clean photos, 6
gradient steps on all four photos at once with every weight still asking for gradients, that are thrown away, 3 steps on
the protected photos. Reading files is left out on both sides.

`ours` does the same work at equal gradients (tests/defense/test_engine.py compares them step for step): recipe
`aspl-compat`, all in float32 (the released cast to bfloat16 is left out on both sides). `ours_lora` is the default
recipe `aspl`, which changes the algorithm (LoRA surrogate) and is shown apart. Same random weights, same photos,
processes of their own, in turns. A run has 50 rounds: `warm` of them go before the clock starts, on both sides, so that
what is made once per run (our latents of clean photos and class images, first allocations) counts as what it is.
Ours keeps freed memory as `pcs-ext` does (pcs_ext/heap.py). `peak_mb` is the process's, libraries included; `grown_mb`
what the rounds added to what it was with the model loaded.
"""

import copy
import dataclasses
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from benchmarks.random_models import GEOMETRIES, write_model
from pcs_ext.defense.canvas import Canvas
from pcs_ext.defense.engine import Protection
from pcs_ext.defense.photos import OwnPhoto
from pcs_ext.defense.recipes import RECIPES
from pcs_ext.defense.surrogate import Surrogate
from pcs_ext.heap import keep_freed_memory
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.class_images import ClassImages
from pcs_ext.runtime import generator_for

PROMPT, CLASS_PROMPT = "a photo of sks dog", "a photo of dog"
PHOTOS, CLASS_PICTURES = 4, 3
Size = Literal["toybox", "sd15-small", "sd15"]
Role = Literal["", "peer", "ours", "ours_lora"]


def main(
    size: Size = "toybox",
    side: int = 0,
    rounds: int = 1,
    warm: int = 1,
    threads: int = 0,
    device: str = "cpu",
    role: Role = "",
    base: str = "",
) -> None:
    """Measure and print JSON.

    Args:
        size: geometry of the base, whose weights are random.
        side: of the photos in pixels; 0 takes the geometry's.
        rounds: processes per contestant, in turns.
        warm: rounds of the algorithm before the one that is timed.
        threads: of the CPU; 0 leaves torch's choice.
        device: cpu or cuda.
        role: of one process (internal).
        base: folder of the weights (internal).
    """
    if threads:
        torch.set_num_threads(threads)
    side = side or GEOMETRIES[size].resolution
    if role:
        print(json.dumps(_measure(role, base, side, device, warm)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "model", GEOMETRIES[size])
        flags = {"size": size, "side": side, "threads": threads, "device": device, "warm": warm}
        flags["base"] = f"{folder}/model"
        rows: dict[str, list[dict[str, float]]] = {"peer": [], "ours": [], "ours_lora": []}
        for name in list(rows) * rounds:
            rows[name].append(_child({**flags, "role": name}))
    result: dict[str, Any] = {"benchmark": "aspl_round", "size": size, "side": side, "photos": PHOTOS}
    result |= {"device": device, "threads": threads or torch.get_num_threads(), "rounds": rounds, "warm": warm}
    for name, row in rows.items():
        result[name] = {key: round(statistics.median(value[key] for value in row), 3) for key in row[0]}
    for name, key in itertools.product(("ours", "ours_lora"), rows["peer"][0]):
        result[name][f"{key}_ratio"] = round(result[name][key] / result["peer"][key], 3)
    print(json.dumps(result, indent=2))


def _child(flags: dict[str, Any]) -> dict[str, float]:
    words = [part for key, value in flags.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "benchmarks.aspl_round", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise SystemExit(f"{flags['role']} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure(role: Role, base: str, side: int, device: str, warm: int) -> dict[str, float]:
    pixels = torch.randint(0, 256, (PHOTOS, 3, side, side), generator=generator_for("photos"), dtype=torch.uint8)
    classes = torch.rand(CLASS_PICTURES, 3, side, side, generator=generator_for("class")) * 2 - 1
    prepare = released if role == "peer" else ours
    rounds = prepare(base, pixels, classes, device, "aspl" if role == "ours_lora" else "aspl-compat", warm + 1)
    before = psutil.Process().memory_info().rss / 2**20
    if device != "cpu":
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
    for _ in range(warm):
        next(rounds)
    start, cpu_start = time.perf_counter(), time.process_time()
    next(rounds)  # ends with the photos on the host
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak, "grown_mb": peak - before}


def ours(base: str, pixels: Tensor, classes: Tensor, device: str, recipe: str, rounds: int) -> Iterator[list[Tensor]]:
    """What `protect` runs, round by round, caches included."""
    keep_freed_memory()
    backbone = load_backbone(base, device=device, precision="fp32")
    backbone.resolution = pixels.shape[-1]
    method = dataclasses.replace(RECIPES[recipe].build("sd"), rounds=rounds + 1)
    assert method.training is not None
    method = dataclasses.replace(method, training=dataclasses.replace(method.training, rounding="none"))
    canvases = [
        Canvas(OwnPhoto(path=Path(f"{index}.png"), sha256=f"{index:064d}"[::-1], pixels=photo), method.budget)
        for index, photo in enumerate(pixels)
    ]
    surrogate = Surrogate(
        backbone, [PROMPT], training=method.training, class_images=ClassImages(classes, CLASS_PROMPT), seed=0
    )

    def run() -> Iterator[list[Tensor]]:
        with surrogate.active():
            for progress in Protection(canvases, [surrogate], method).run():
                if progress.resumable:  # a round is whole
                    yield [canvas.result() for canvas in canvases]

    return run()


class Released:
    """The released sequence of operations."""

    def __init__(self, base: str, pixels: Tensor, classes: Tensor, device: str) -> None:
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        self.tokenizer: Any = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
        self.scheduler: Any = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
        self.vae: Any = AutoencoderKL.from_pretrained(base, subfolder="vae").to(device).requires_grad_(False)  # type: ignore[union-attr]
        unet: Any = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
        text: Any = CLIPTextModel.from_pretrained(base, subfolder="text_encoder")
        self.models = [unet.to(device), text.to(device)]
        self.device = device
        self.photos = pixels.float().to(device) / 127.5 - 1
        self.classes = classes.to(device)

    def loss(self, models: list[Any], images: Tensor, prompts: list[str]) -> Tensor:
        """Squared errors; prompts are tokenised and images encoded here, in every step."""
        ids = self.tokenizer(prompts, truncation=True, padding="max_length", max_length=77, return_tensors="pt")
        latents = self.vae.encode(images).latent_dist.sample() * self.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        t = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(latents),), device=self.device).long()
        noisy = self.scheduler.add_noise(latents, noise, t)
        states = models[1](ids.input_ids.to(self.device))[0]
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, t)
        return F.mse_loss(models[0](noisy, t, states).sample.float(), target.float(), reduction="none")

    def train(self, models: list[Any], images: Tensor, steps: int = 3) -> list[Any]:
        """A call of training: copies, a new optimiser, photo and class image number `step`."""
        models = [copy.deepcopy(model).requires_grad_(True).train() for model in models]
        parameters = [parameter for model in models for parameter in model.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=5e-7, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        for step in range(steps):
            pair = torch.stack([images[step % len(images)], self.classes[step % len(self.classes)]])
            photo, prior = self.loss(models, pair, [PROMPT, CLASS_PROMPT]).chunk(2)
            loss = photo.mean() + 1.0 * prior.mean()
            loss.backward()
            float(loss)  # printed there
            optimizer.step()
            optimizer.zero_grad()
        return models

    def attack(self, models: list[Any], images: Tensor, steps: int = 6) -> Tensor:
        """All photos at once; the weights' gradients are computed and thrown away."""
        images = images.detach().clone()
        for _ in range(steps):
            images.requires_grad_(True)
            for model in models:
                model.zero_grad()
            loss = self.loss(models, images, [PROMPT] * len(images)).mean()
            loss.backward()
            float(loss)
            assert images.grad is not None
            moved = images + 0.005 * images.grad.sign()
            images = (self.photos + (moved - self.photos).clamp(-0.05, 0.05)).clamp(-1, 1).detach()
        return images

    def round(self) -> Tensor:
        """One of the 50."""
        surrogate = self.train([copy.deepcopy(model) for model in self.models], self.photos)
        images = self.attack(surrogate, self.photos)
        self.models = self.train(self.models, images)
        return images.cpu()


def released(base: str, pixels: Tensor, classes: Tensor, device: str, recipe: str, rounds: int) -> Iterator[Tensor]:
    """The peer's rounds."""
    peer = Released(base, pixels, classes, device)
    return (peer.round() for _ in range(rounds))


if __name__ == "__main__":
    tyro.cli(main)
