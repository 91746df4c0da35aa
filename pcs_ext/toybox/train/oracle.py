"""Training of the oracle: cross entropy on every attribute, on images damaged the way generated ones are.

Patterns and views are also asked for place by place, where the toy is: from the whole picture alone the network hardly
learns to tell patterns apart, even on the pictures it trains on.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.toybox.oracle import HEADS, Oracle
from pcs_ext.toybox.train.adopt import adopted
from pcs_ext.toybox.train.data import labels_of, load_data, load_truth, single_rows
from pcs_ext.toybox.train.geometry import CHANNELS, mirrored_maps
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import compile_for, rows, run_stage

_BATCH = 32
_WEIGHTS = {"pattern": 3.0, "view": 2.0}
"""Of the heads' losses where not 1: the two attributes that are learned last."""
_RATE, _ADOPTED_RATE = 1e-3, 3e-4
"""Learning rate of an untrained oracle, and of one that goes on: the first undoes much of what it can."""
_PLACES_WEIGHT = 3.0
"""Of the patterns that are asked for place by place."""


class WithPlaces(nn.Module):
    """An oracle and two heads that are thrown away: pattern and maps (`scene_maps`) read from its surface features."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle = oracle
        width = oracle.channels[1]
        self.pattern = nn.Conv2d(width, len(oracle.heads["pattern"]), 1)
        self.maps = nn.Conv2d(width, CHANNELS, 1)
        self._features: list[Tensor] = []
        oracle.surface.mix.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, given: Any, features: Tensor) -> None:
        self._features.append(features)

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Logits per attribute, `b n`; of the pattern by place, `b n h/4 w/4`; maps `b 15 h/8 w/8`."""
        self._features.clear()
        logits = self.oracle(images)
        features = self._features[0]
        return logits, self.pattern(features), self.maps(F.avg_pool2d(features, 2))


def train_oracle(settings: Settings, steps: int, minutes: float | None, reporter: Reporter) -> None:
    """Train and save to `models/oracle`. Pictures of two toys are left out: their attributes are ambiguous."""
    data = load_data(settings, "data", "pairs")
    single, labels = single_rows(data), labels_of(data)
    coverage, maps = load_truth(settings, "data", "pairs")
    torch.manual_seed(0)
    oracle = Oracle.load(settings.folder / "models" / "oracle") if adopted(settings) else Oracle()
    model: Any = WithPlaces(oracle)
    model = model.to(settings.device, memory_format=torch.channels_last)
    compile_for(model, steps)

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        chosen = single[rows(len(single), _BATCH, generator)]
        flipped = torch.rand(_BATCH, generator=generator) < 0.5
        images = damage(shift(mirror(data.pixels(chosen), flipped), generator), generator).to(settings.device)
        logits, patterns, seen = model(images.contiguous(memory_format=torch.channels_last))
        here = {name: label[chosen].to(images.device) for name, label in labels.items()}
        terms = {name: _WEIGHTS.get(name, 1.0) * F.cross_entropy(logits[name].float(), here[name]) for name in HEADS}
        shares = mirror(coverage[chosen].float() / 255, flipped).to(images.device)
        truth = mirrored_maps(maps[chosen].float() / 127, flipped).to(images.device)
        terms["places"] = _PLACES_WEIGHT * place_loss(patterns.float(), here["pattern"], shares)
        terms["maps"] = (seen.float() - truth).square().sum(1).mean()
        return LossTerms(terms)

    def finish() -> None:
        oracle.save(settings.folder / "models" / "oracle")

    config = FitConfig(steps=steps, lr_schedule="cosine", warmup_steps=100, autocast="bf16", ema_decay=0.998)
    run_stage(
        "oracle",
        {"oracle": oracle, "heads": nn.ModuleList([model.pattern, model.maps])},
        loss,
        settings,
        config,
        reporter,
        learning_rate=_ADOPTED_RATE if adopted(settings) else _RATE,
        weight_decay=0.01,
        minutes=minutes,
        finish=finish,
    )


def damage(images: Tensor, generator: torch.Generator) -> Tensor:
    """Noise, blur and small shifts of brightness, per image: the faults of a decoder, not of the subject."""
    b = len(images)
    strength = 0.08 * torch.rand(b, 1, 1, 1, generator=generator)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mix = 0.5 * torch.rand(b, 1, 1, 1, generator=generator)
    gain = 1 + 0.1 * (2 * torch.rand(b, 1, 1, 1, generator=generator) - 1)
    noise = strength * torch.randn(images.shape, generator=generator)
    return ((images + mix * (blurred - images)) * gain + noise).clamp(-1, 1)


def mirror(images: Tensor, flipped: Tensor) -> Tensor:
    """The `b ... w` images mirrored where `flipped` (`b` bool)."""
    return torch.where(flipped.view(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to 4 % of its side, by half a place of the maps at most."""
    b, _, side, _ = images.shape
    reach = max(1, side // 24)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    y, x = torch.randint(2 * reach + 1, (2, b), generator=generator).tolist()
    return torch.stack([padded[i, :, y[i] : y[i] + side, x[i] : x[i] + side] for i in range(b)])


def place_loss(logits: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
    """Cross entropy (0-d) of logits `b n h w` with labels `b`, weighted by the share `b h w` that the toy covers."""
    errors = F.cross_entropy(logits, labels[:, None, None].expand_as(shares), reduction="none")
    return (errors * shares).sum() / shares.sum().clamp(min=1e-6)
