"""`python -m benchmarks.guidance_step`: one step of score distillation, ours and threestudio's sequence of operations.

A step renders a view of a field, takes the guided score of it, and goes back to the field's parameters. The peer is
the sequence of threestudio's Stable Diffusion guidance, as the research notes have it: the view is resized and encoded
with a drawn latent, the denoiser is asked with and without words, and the clean picture that its answer implies is
decoded in every step, although nothing reads it while the loss in picture space is off. Ours is what `3d make` runs.

Both have the same random weights in float32, the same field, renderer, samples and cached prompts, and take their
steps in turns in one process. threestudio itself cannot run without CUDA.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from benchmarks.random_models import GEOMETRIES, write_model
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.threed.camera_laws import CameraLaw, draw_cameras
from pcs_ext.threed.cameras import Cameras, rays
from pcs_ext.threed.distillation import DistillationConfig
from pcs_ext.threed.fields import Blob, VoxelField
from pcs_ext.threed.guidance import ScoreGuidance
from pcs_ext.threed.occupancy import Occupancy
from pcs_ext.threed.render import RenderConfig, render_rays

PROMPT, SCALE = "a photo of the dog", 101.0
Step = Callable[[], float]


def main(
    size: Literal["toybox", "sd15-small", "sd15"] = "sd15-small",
    side: int = 64,
    samples: int = 64,
    steps: int = 2,
    rounds: int = 3,
    threads: int = 0,
) -> None:
    """Measure and print JSON.

    Args:
        size: geometry of the randomly initialised model; sd15-small has the real one's pictures and depth at a quarter
            of its width; sd15 is the real one's, 4 GB and minutes per step on a CPU.
        side: of a rendered view, pixels.
        samples: per ray.
        steps: timed steps per round.
        rounds: of each contestant, in turns.
        threads: of the CPU; 0 leaves torch's choice.
    """
    if threads:
        torch.set_num_threads(threads)
    seconds: dict[str, list[float]] = {"peer": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "model", GEOMETRIES[size])
        contestants = {
            "peer": Contestant(side, samples, Threestudio(Path(folder) / "model", GEOMETRIES[size].resolution)),
            "ours": Contestant(side, samples, Ours(Path(folder) / "model")),
        }
        for contestant in contestants.values():
            contestant.step()  # the first one warms up
        for _ in range(rounds):
            for name, contestant in contestants.items():
                seconds[name] += [timed(contestant.step) for _ in range(steps)]
    found = {name: round(statistics.median(values), 4) for name, values in seconds.items()}
    settings = {"size": size, "side": side, "samples": samples, "steps": steps, "rounds": rounds, "threads": threads}
    ratio = round(found["ours"] / found["peer"], 3)
    print(json.dumps({"benchmark": "guidance_step", **settings, "seconds": found, "time_ratio": ratio}, indent=2))


def timed(step: Step) -> float:
    """Processor seconds of one call: other work on the machine does not count."""
    start = time.process_time()
    step()
    return time.process_time() - start


class Contestant:
    """A field, its renderer, and a guidance that judges views `b 3 h w` in [0, 1]."""

    def __init__(self, side: int, samples: int, guidance: Any) -> None:
        self.side, self.settings, self.guidance = side, RenderConfig(samples=samples), guidance
        self.field = VoxelField(64, blob=Blob())
        self.occupancy = Occupancy(self.field)
        self.occupancy.update()
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> float:
        """Render, judge, go back; the loss."""
        cameras = draw_cameras(CameraLaw(), 1, self.generator)
        seen = render_rays(
            self.field,
            rays(cameras, self.side, self.side),
            self.settings,
            occupancy=self.occupancy,
            generator=self.generator,
        )
        images = seen.rgb.view(1, self.side, self.side, 3).permute(0, 3, 1, 2)
        self.field.zero_grad(set_to_none=True)
        loss = self.guidance(images, cameras, self.generator)
        loss.backward()
        return loss.item()


class Ours:
    """`ScoreGuidance` of a model folder."""

    def __init__(self, folder: Path) -> None:
        backbone = load_backbone(folder, device="cpu", precision="fp32")
        assert isinstance(backbone, AbstractUnetBackbone)
        self.guidance = ScoreGuidance(backbone, PROMPT, DistillationConfig(guidance_scale=SCALE))

    def __call__(self, images: Tensor, cameras: Cameras, generator: torch.Generator) -> Tensor:
        """The loss of views, 0-d."""
        return self.guidance.terms(images * 2 - 1, cameras, progress=0.0, generator=generator).total


class Threestudio:
    """The peer's operations on diffusers' own modules."""

    def __init__(self, folder: Path, resolution: int) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel

        self.resolution = resolution
        self.unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet")
        self.vae: Any = AutoencoderKL.from_pretrained(folder / "vae")
        backbone = load_backbone(folder, device="cpu", precision="fp32")
        self.alphas = backbone.schedule.alphas_cumprod.float()
        with torch.no_grad():
            self.text = torch.cat([backbone.encode_prompt([text]).states for text in (PROMPT, "")])
        for module in (self.unet, self.vae):
            module.requires_grad_(False).eval()

    def __call__(self, images: Tensor, cameras: Cameras, generator: torch.Generator) -> Tensor:
        """The loss of views, 0-d."""
        size = (self.resolution, self.resolution)
        resized = F.interpolate(images, size, mode="bilinear", align_corners=False)
        factor = self.vae.config.scaling_factor
        latents = self.vae.encode(resized * 2 - 1).latent_dist.sample(generator) * factor
        timesteps = torch.randint(20, 981, (len(images),), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        with torch.no_grad():
            score, clean = self.score(latents, timesteps, noise)
            self.vae.decode(clean / factor)  # in every step, for a loss in picture space that is off
        target = (latents - torch.nan_to_num(score)).detach()
        return 0.5 * F.mse_loss(latents, target, reduction="sum") / len(images)

    def score(self, latents: Tensor, timesteps: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """w(t) (eps_hat - eps), and the clean latents that eps_hat implies; each `b c h w`."""
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        rows = self.text.repeat_interleave(len(latents), 0)
        both = self.unet(torch.cat([noisy, noisy]), torch.cat([timesteps] * 2), encoder_hidden_states=rows).sample
        text, none = both.chunk(2)
        guess = text + (SCALE - 1) * (text - none)
        return (1 - alpha) * (guess - noise), (noisy - (1 - alpha).sqrt() * guess) / alpha.sqrt()


if __name__ == "__main__":
    tyro.cli(main)
