"""Training of the oracle: cross entropy on every attribute, on images damaged the way generated ones are."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.toybox.oracle import HEADS, Oracle
from pcs_ext.toybox.train.data import load_data
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import compile_for, rows, run_stage

_BATCH = 32
_WEIGHTS = {"pattern": 3.0, "view": 2.0}
"""Of the heads' losses where not 1: the two attributes that are learned last."""


def train_oracle(settings: Settings, steps: int, minutes: float | None, reporter: Reporter) -> None:
    """Train and save to `models/oracle`. Pictures of two toys are left out: their attributes are ambiguous."""
    data = load_data(settings, "data", "pairs")
    single = torch.tensor([index for index, captions in enumerate(data.captions) if " and a " not in captions[0]])
    labels = {
        name: torch.tensor([values.index(truth[name]) for truth in data.attributes]) for name, values in HEADS.items()
    }
    torch.manual_seed(0)
    oracle = Oracle().to(settings.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    compile_for(oracle, steps)

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        chosen = single[rows(len(single), _BATCH, generator)]
        images = damage(move(data.pixels(chosen), generator), generator).to(settings.device)
        logits = oracle(images.contiguous(memory_format=torch.channels_last))
        return LossTerms(
            {
                name: _WEIGHTS.get(name, 1.0)
                * F.cross_entropy(logits[name].float(), labels[name][chosen].to(images.device))
                for name in HEADS
            }
        )

    def finish() -> None:
        oracle.save(settings.folder / "models" / "oracle")

    config = FitConfig(steps=steps, lr_schedule="cosine", warmup_steps=100, autocast="bf16", ema_decay=0.998)
    run_stage(
        "oracle",
        {"oracle": oracle},
        loss,
        settings,
        config,
        reporter,
        learning_rate=1e-3,
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


def move(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and move each by up to 4 % of its side: no attribute tells left from right."""
    b, _, side, _ = images.shape
    reach = max(1, side // 24)
    mirrored = torch.where(torch.rand(b, 1, 1, 1, generator=generator) < 0.5, images.flip(-1), images)
    padded = F.pad(mirrored, (reach,) * 4, mode="replicate")
    y, x = torch.randint(2 * reach + 1, (2, b), generator=generator).tolist()
    return torch.stack([padded[i, :, y[i] : y[i] + side, x[i] : x[i] + side] for i in range(b)])
