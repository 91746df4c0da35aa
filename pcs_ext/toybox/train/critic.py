"""A reader of noisy latents: what a half-drawn picture is going to show. It teaches the denoiser, and measures nothing.

The oracle judges pictures and must not be what a denoiser is trained to please, so the critic is a network of its own,
sees latents and never a pixel, and knows how noisy they are: a gradient that has to hold under noise changes shapes,
not grain (classifiers for guidance are trained so, Dhariwal and Nichol 2021, arXiv 2105.05233, section 4).
"""

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pcs_ext.errors import ModelError
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.toybox.oracle import HEADS
from pcs_ext.toybox.train.data import labels_of, load_data, single_rows
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import rows, run_stage
from pcs_ext.toybox.train.unet import STREAMS, build_schedule, load_latents

NOISIEST = 700
"""First timestep that the critic does not read: beyond, little but place and colour is to be seen."""
_BATCH = 64
_CHANNELS = (96, 160, 224)
_WIDTH = 128
_FREQUENCIES = 32
_WEIGHTS = {"class": 2.0, "view": 2.0, "color": 1.0, "pattern": 1.0}
"""Of the attributes' losses where not 1/2."""
_SMOOTHING = 0.05
_FILE = "critic.safetensors"


class Critic(nn.Module):
    """A small residual network with one classifier per attribute, each of which weighs the places it reads.

    Args:
        channels: by level; every level but the first halves the side.
    """

    def __init__(self, channels: tuple[int, ...] = _CHANNELS) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH), nn.SiLU())
        self.stem = nn.Conv2d(4, channels[0], 3, padding=1)
        self.levels = nn.ModuleList([nn.ModuleList([_Block(width), _Block(width)]) for width in channels])
        halves = itertools.pairwise(channels)
        self.halve = nn.ModuleList([nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in halves])
        self.laterals = nn.ModuleList([nn.Conv2d(width, channels[0], 1) for width in channels])
        self.mix, self.mixed = _Block(channels[0]), nn.GroupNorm(8, channels[0])
        self.places = nn.Conv2d(channels[0], len(HEADS), 1)
        self.norm = nn.GroupNorm(8, channels[-1])
        read = 2 * channels[-1] + channels[0]
        self.classifiers = nn.ModuleDict({name: nn.Linear(read, len(values)) for name, values in HEADS.items()})

    def forward(self, latents: Tensor, timesteps: Tensor) -> dict[str, Tensor]:
        """Logits per attribute, `b n`, of latents `b 4 h w` noised to timesteps `b` below `NOISIEST`."""
        turns = torch.exp(-math.log(1e4) * torch.arange(_FREQUENCIES, device=latents.device) / _FREQUENCIES)
        angles = timesteps.float()[:, None] * turns
        when = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x, features = self.stem(latents), []
        for depth, blocks in enumerate(self.levels):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, when)
            features.append(x)
            x = self.halve[depth](x) if depth < len(self.halve) else x
        whole = F.silu(self.norm(x))
        pooled = torch.cat([whole.mean((2, 3)), whole.amax((2, 3))], 1)
        seen = self._at_places(features, when).unbind(1)
        return {
            name: classifier(torch.cat([pooled, own], 1))
            for (name, classifier), own in zip(self.classifiers.items(), seen, strict=True)
        }

    def _at_places(self, features: list[Tensor], when: Tensor) -> Tensor:
        """Features from coarse to fine, then a weighted mean over places for every attribute, `b heads c`."""
        x = self.laterals[-1](features[-1])
        for lateral, finer in zip(reversed(self.laterals[:-1]), reversed(features[:-1]), strict=True):
            x = lateral(finer) + F.interpolate(x, scale_factor=2, mode="nearest")
        x = F.silu(self.mixed(self.mix(x, when)))
        return self.places(x).flatten(2).softmax(-1) @ x.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    """Pre-activation residual block that the noise's level scales and shifts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.into = nn.GroupNorm(8, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.again, self.out = nn.GroupNorm(8, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.when = nn.Linear(_WIDTH, 2 * channels)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, when: Tensor) -> Tensor:
        scale, shift = self.when(when)[:, :, None, None].chunk(2, 1)
        inner = self.again(self.into(F.silu(self.norm(x)))) * (1 + scale) + shift
        return x + self.out(F.silu(inner))


def train_critic(settings: Settings, steps: int, minutes: float | None, reporter: Reporter) -> None:
    """Train on the latents of all streams and save to `models/critic`.

    Raises:
        InputError: the latents are not cached yet, or of other pictures.
    """
    data = load_data(settings, *STREAMS)
    latents = load_latents(settings, len(data))
    labels, single = labels_of(data), single_rows(data)
    torch.manual_seed(0)
    critic: Any = Critic().to(settings.device)
    schedule = build_schedule()

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        chosen = single[rows(len(single), _BATCH, generator)]
        clean = latents[chosen].to(settings.device).float()
        timesteps = (torch.rand(_BATCH, generator=generator) ** 1.5 * NOISIEST).long().to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        read = critic(schedule.add_noise(clean, noise, timesteps), timesteps)
        return LossTerms(
            {
                name: _WEIGHTS.get(name, 0.5)
                * F.cross_entropy(read[name].float(), label[chosen].to(clean.device), label_smoothing=_SMOOTHING)
                for name, label in labels.items()
            }
        )

    def finish() -> None:
        folder = settings.folder / "models" / "critic"
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in critic.state_dict().items()}, folder / _FILE)

    run_stage(
        "critic",
        {"critic": critic},
        loss,
        settings,
        FitConfig(steps=steps, lr_schedule="cosine", warmup_steps=100, autocast="bf16", ema_decay=0.998),
        reporter,
        learning_rate=1.2e-3,
        weight_decay=0.05,
        minutes=minutes,
        finish=finish,
    )


def load_critic(settings: Settings) -> Critic:
    """What the stage saved, frozen.

    Raises:
        ModelError: it has not run yet.
    """
    path = settings.folder / "models" / "critic" / _FILE
    if not path.is_file():
        raise ModelError(f"{path} does not exist; run the stage critic first.")
    critic = Critic()
    critic.load_state_dict(load_file(path))
    return critic.to(settings.device).eval().requires_grad_(False)
