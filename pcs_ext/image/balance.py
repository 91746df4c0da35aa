"""Subjects that are learned at one pace (MagicTailor's dual-stream balancing, arXiv 2410.13370)."""

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError


@config
class BalanceConfig:
    """The loss of the subject that is worst, and for the others, what they were to a slow average of the weights."""

    preservation: float = 0.2
    """Weight of the others' distance to the prediction by the averaged weights (the phase's `ema_decay`); the released
    code's."""

    def __post_init__(self) -> None:
        if self.preservation < 0:
            raise ConfigError(f"preservation of the balance must be 0 or more, got {self.preservation}.")


def balanced(losses: Tensor, drifts: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of the subjects' mean losses, and the mean of the other subjects' mean drifts; each 0-d.

    A batch that shows one subject alone has no others: the second is 0.

    Args:
        losses: of every photo, `b`.
        drifts: of its prediction from the averaged weights' one, squared, `b`.
        shown: which subjects it shows, `b k` bool, at least one in all.
    """
    weights = shown.to(losses)
    count = weights.sum(0)
    present = count > 0
    by_subject = (weights.T @ losses / count.clamp_min(1))[present]
    drift_by_subject = (weights.T @ drifts / count.clamp_min(1))[present]
    worst = int(by_subject.detach().argmax())
    others = torch.cat([drift_by_subject[:worst], drift_by_subject[worst + 1 :]])
    return by_subject[worst], others.mean() if len(others) else losses.new_zeros(())


def shown_parts(part_masks: Tensor | None, rows: int) -> Tensor:
    """Which subjects photos show, `b k` bool: those whose masks are not black. Without masks there is one subject.

    Args:
        part_masks: `b k h w` in [0, 1].
        rows: b, where there are none.
    """
    if part_masks is None:
        return torch.ones(rows, 1, dtype=torch.bool)
    return part_masks.amax((2, 3)) > 0.5
