"""FreeInit (Wu et al. 2023, arXiv 2312.07537): starts whose low frequencies are those of the clip made before.

Training clips keep some of their layout under the strongest noise, pure noise has none: sampled again from a start
with low frequencies of a clip, frames agree better. It costs a whole sampling per round and takes away some motion.
"""

import torch
from torch import Tensor

CUTOFF, ORDER = 0.25, 4
"""Of the Butterworth filter in space and time, as a share of the highest frequency, and its steepness: the paper's."""


def low_pass(frames: int, height: int, width: int) -> Tensor:
    """What of each frequency passes, `f h w` in [0, 1], in the order of `torch.fft.fftn`; a half at the cutoff."""
    axes = [2 * torch.fft.fftfreq(side) for side in (frames, height, width)]
    grid = torch.meshgrid(*axes, indexing="ij")
    distance = sum((axis / CUTOFF).square() for axis in grid)
    assert isinstance(distance, Tensor)
    return 1 / (1 + distance**ORDER)


def mixed_start(low: Tensor, high: Tensor) -> Tensor:
    """Low frequencies of one start and the others of another, both `b c f h w` (eq. 5 to 7)."""
    passes = low_pass(*low.shape[-3:]).to(low.device)
    axes = (-3, -2, -1)
    spectrum = torch.fft.fftn(low.float(), dim=axes) * passes + torch.fft.fftn(high.float(), dim=axes) * (1 - passes)
    return torch.fft.ifftn(spectrum, dim=axes).real


def next_start(latents: Tensor, start: Tensor, fresh: Tensor, abar: float) -> Tensor:
    """The start of the next round: a finished clip at the strongest noise, the noise it came from, then mixed.

    Args:
        latents: of the finished clip, `b c f h w`.
        start: unit noise that the first round was sampled from.
        fresh: unit noise for the high frequencies.
        abar: cumulative alpha of the schedule's last timestep.
    """
    return mixed_start(abar**0.5 * latents + (1 - abar) ** 0.5 * start, fresh)
