"""Where sampling a clip starts: independent, correlated or shared noise, and noise that remembers a clip."""

import torch
from torch import Tensor

from pcs_ext.errors import UsageError


def correlated_noise(shape: tuple[int, ...], correlation: float, generator: torch.Generator) -> Tensor:
    """Unit normal noise `b c f h w` whose frames m and n have covariance correlation^|m - n|.

    The 3D Gaussian prior of Magic-Me (Ma et al. 2024, arXiv 2402.09368, section 3.3), drawn frame by frame as an
    autoregressive process, which has the same distribution as their Cholesky factor.

    Args:
        shape: `(b, c, f, h, w)`.
        correlation: in [0, 1]; the paper takes 0.1, at 0.2 clips nearly stand still, at 1 all frames are equal.
        generator: on the CPU.

    Raises:
        UsageError: a correlation outside [0, 1].
    """
    if not 0 <= correlation <= 1:
        raise UsageError(f"correlation must be in [0, 1], got {correlation}.")
    fresh = torch.randn(shape, generator=generator)
    frames = [fresh[:, :, 0]]
    for index in range(1, shape[2]):
        frames.append(correlation * frames[-1] + (1 - correlation**2) ** 0.5 * fresh[:, :, index])
    return torch.stack(frames, 2)


def shared_noise(
    shape: tuple[int, ...], share: float, generator: torch.Generator, *, unit_variance: bool = True
) -> Tensor:
    """`share` of one noise for all frames plus `1 - share` of each frame's own, `b c f h w`.

    LAMP (Wu et al. 2023, arXiv 2310.10769, eq. 5) with share 0.2. Its sum has a deviation of
    sqrt(share^2 + (1 - share)^2), 0.82 there, and the released code leaves it so: that is `unit_variance=False`.
    Differs from it by default, because a denoiser is trained on unit noise.

    Raises:
        UsageError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise UsageError(f"share must be in [0, 1], got {share}.")
    b, c, _, h, w = shape
    common = torch.randn((b, c, 1, h, w), generator=generator, device=generator.device)
    mixed = share * common + (1 - share) * torch.randn(shape, generator=generator, device=generator.device)
    return mixed / (share**2 + (1 - share) ** 2) ** 0.5 if unit_variance else mixed


def with_common(own: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """`own` noise of a clip's frames, `b c f h w`, and one noise common to them, mixed as `shared_noise` does.

    At share 0 nothing is drawn and `own` comes back.
    """
    if share == 0:
        return own
    common = torch.randn((*own.shape[:2], 1, *own.shape[3:]), generator=generator)
    return (share * common + (1 - share) * own) / (share**2 + (1 - share) ** 2) ** 0.5


def blended_noise(inverted: Tensor, fresh: Tensor, share: float) -> Tensor:
    """sqrt(share) of a clip's inverted noise and sqrt(1 - share) of fresh noise: unit deviation is kept.

    MotionDirector's start (its released configuration: share 0 for several clips, 0.1 to 0.5 for one).

    Args:
        inverted: `b c f h w` or `1 c f h w`, from DDIM inversion of a clip.
        fresh: `b c f h w`.
        share: in [0, 1].

    Raises:
        UsageError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise UsageError(f"share must be in [0, 1], got {share}.")
    return share**0.5 * inverted.to(fresh) + (1 - share) ** 0.5 * fresh
