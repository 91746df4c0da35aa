"""A wide latent denoised in overlapping windows whose predictions are fused (MultiDiffusion, arXiv 2302.08113).

Predictions are fused, then the scheduler steps once. For samplers that are linear in the prediction, such as DDIM, that
equals MultiDiffusion's average of stepped windows; samplers with a memory become possible.
"""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.sample import Predict
from pcs_ext.image.types import Conditioning


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """Where windows lie on a latent, and how much each of their cells counts."""

    width: int
    """Of the latent, cells. Windows are as high as the latent."""
    window: int
    """Width of a window, cells."""
    starts: tuple[int, ...]
    """First column of every window; a window that reaches beyond the last column goes on at the first."""
    weights: Tensor
    """`window` float32, above 0."""
    counts: tuple[float, ...] = ()
    """How often each window counts; empty: once."""
    period: int | None = None
    """Columns after which the latent repeats itself; windows that see the same are denoised once. None: it does not."""

    def columns(self, start: int, device: torch.device) -> Tensor:
        """The columns of a window, `window` int64."""
        return torch.remainder(start + torch.arange(self.window, device=device), self.width)

    def alike(self) -> list[list[tuple[int, float]]]:
        """Windows that see the same, first columns and counts, a list each."""
        counts = self.counts or (1.0,) * len(self.starts)
        groups: dict[int, list[tuple[int, float]]] = {}
        for start, count in zip(self.starts, counts, strict=True):
            groups.setdefault(start % (self.period or self.width), []).append((start, count))
        return list(groups.values())


def plan_windows(width: int, window: int, stride: int, *, wrap: bool) -> WindowPlan:
    """Windows at every `stride` cells; around the circle and feathered (`wrap`), or from edge to edge and even. Around
    the circle a stride that does not divide the width is made shorter, and windows lie at even distances rounded to
    cells.

    Raises:
        UsageError: the window is wider than the latent, or the stride leaves gaps.
    """
    if not 1 <= stride <= window <= width:
        raise UsageError(
            f"windows of {window} cells at a stride of {stride} do not fit a latent of {width} cells: expected 1 <= "
            "stride <= window <= width."
        )
    if wrap:
        count = -(-width // stride)
        starts = tuple(index * width // count for index in range(count))
        return WindowPlan(width=width, window=window, starts=starts, weights=_feather(window))
    starts = tuple(dict.fromkeys([*range(0, width - window + 1, stride), width - window]))
    return WindowPlan(width=width, window=window, starts=starts, weights=torch.ones(window))


def _feather(window: int) -> Tensor:
    """A raised cosine, nowhere zero: what a window thinks of its edges, where it sees one side only, counts least."""
    at = (torch.arange(window) + 0.5) / window
    return 0.5 - 0.5 * torch.cos(2 * torch.pi * at) + 1e-2


def windowed(predict: Predict, plan: WindowPlan, *, windows_per_batch: int = 4) -> Predict:
    """A denoiser for the whole latent out of one for windows.

    Args:
        predict: as `AbstractBackbone.predict`.
        plan: of latents `b c h plan.width`.
        windows_per_batch: how many windows are denoised at once; bounds memory, changes nothing beyond rounding.
    """

    windows = plan.alike()

    def fused(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        total = torch.zeros_like(latents, dtype=torch.float32)
        counted = torch.zeros(plan.width, device=latents.device)
        weights = plan.weights.to(latents.device)
        for first in range(0, len(windows), windows_per_batch):
            batch = windows[first : first + windows_per_batch]
            seen = torch.cat([latents[..., plan.columns(group[0][0], latents.device)] for group in batch])
            copies = Conditioning.cat([conditioning] * len(batch))
            parts = predict(seen, timesteps.repeat(len(batch)), copies).float().chunk(len(batch))
            for group, part in zip(batch, parts, strict=True):
                for start, count in group:
                    at = plan.columns(start, latents.device)
                    total.index_add_(-1, at, part * weights * count)
                    counted.index_add_(0, at, weights * count)
        return total / counted

    return fused
