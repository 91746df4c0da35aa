"""Training of the motion reader: cross entropy on clips damaged the way generated ones are."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.toybox.motion_reader import NONE, READINGS, MotionReader
from pcs_ext.toybox.train.clips import load_clips
from pcs_ext.toybox.train.oracle import damage
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import rows, run_stage

_BATCH = 16
_STILL = 0.15
"""Share of samples that repeat one frame: a generator that moves nothing must be told from one that moves."""
_FLICKER = 0.25
"""Of the damage, how much changes from frame to frame."""


def train_motion_reader(settings: Settings, steps: int, minutes: float | None, reporter: Reporter) -> None:
    """Train and save to `models/motion_reader`."""
    data = load_clips(settings)
    labels = torch.tensor([READINGS.index(motion) for motion in data.motions])
    torch.manual_seed(0)
    reader = MotionReader().to(settings.device)

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        chosen = rows(len(data), _BATCH, generator)
        clips, truth = freeze(data.pixels(chosen), labels[chosen], generator)
        logits = reader(damage_clips(clips, generator).to(settings.device))
        return LossTerms({"motion": F.cross_entropy(logits.float(), truth.to(logits.device))})

    def finish() -> None:
        reader.save(settings.folder / "models" / "motion_reader")

    config = FitConfig(steps=steps, lr_schedule="cosine", warmup_steps=100, autocast="bf16", ema_decay=0.998)
    run_stage(
        "motion_reader",
        {"motion_reader": reader},
        loss,
        settings,
        config,
        reporter,
        learning_rate=1e-3,
        weight_decay=0.01,
        minutes=minutes,
        finish=finish,
    )


def freeze(clips: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Some clips stand still, at a random frame of theirs, and their label says so.

    Args:
        clips: `b f 3 h w`.
        labels: `b`, indices of `READINGS`.
        generator: draws which.
    """
    still = torch.rand(len(clips), generator=generator) < _STILL
    frame = torch.randint(clips.shape[1], (len(clips),), generator=generator)
    stopped = clips[torch.arange(len(clips)), frame][:, None].expand_as(clips)
    return torch.where(still[:, None, None, None, None], stopped, clips), torch.where(
        still, READINGS.index(NONE), labels
    )


def damage_clips(clips: Tensor, generator: torch.Generator) -> Tensor:
    """`damage`, for the most part the same in all frames of a clip, a little of it flickering; `b f 3 h w`."""
    b, f = clips.shape[:2]
    # Frames side by side are one picture to `damage`; blur does not see over their edges by more than a pixel.
    wide = clips.permute(0, 2, 3, 1, 4).flatten(3)
    whole = damage(wide, generator).unflatten(3, (f, clips.shape[-1])).permute(0, 3, 1, 2, 4)
    flickering = damage(clips.flatten(0, 1), generator).unflatten(0, (b, f))
    return whole + _FLICKER * (flickering - clips)
