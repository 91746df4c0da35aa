"""Squared errors of the denoiser, and the ways in use to limit them to a subject's mask."""

import enum

from torch import Tensor


class MaskNormalisation(enum.StrEnum):
    """Six incompatible ways in use to turn masked squared errors into a number.

    `e` are squared errors `b c h w`, `m` the mask `b 1 h w` resized by area to the latents.
    """

    MULTIPLY_BOTH = "multiply-both"
    """Prediction and target times m, mean over everything: sum(m^2 e) / (b c h w). Break-A-Scene."""
    PER_SAMPLE_AREA = "per-sample-area"
    """sum(m e) / sum(m) per sample, m counted once although e has c channels: c times a mean. Mix-of-Show."""
    PER_SAMPLE_MEAN = "per-sample-mean"
    """sum(m e) / (c sum(m)) per sample: the mean over the masked area. Custom Diffusion."""
    SOFT = "soft"
    """MULTIPLY_BOTH with (1 + m) / 2 in place of m: what is around counts half. CLiC."""
    FLOOR = "floor"
    """m raised to a floor (0.1), mean over everything: the background still counts a little. OneTrainer."""
    PLAIN = "plain"
    """sum(m e) / (b c h w): small subjects get small losses. sd-scripts."""


MASK_FLOOR = 0.1


def masked_mean(errors: Tensor, mask: Tensor | None, normalisation: MaskNormalisation) -> Tensor:
    """Per-sample loss `b` of squared errors `b c ...` under a mask `b 1 ...` of the same trailing shape, or no mask."""
    axes = tuple(range(1, errors.dim()))
    if mask is None:
        return errors.mean(axes)
    mask = mask.to(errors.dtype)
    if normalisation is MaskNormalisation.MULTIPLY_BOTH:
        return (mask.square() * errors).mean(axes)
    if normalisation is MaskNormalisation.SOFT:
        return (((1 + mask) / 2).square() * errors).mean(axes)
    if normalisation is MaskNormalisation.FLOOR:
        return (mask.clamp_min(MASK_FLOOR) * errors).mean(axes)
    if normalisation is MaskNormalisation.PLAIN:
        return (mask * errors).mean(axes)
    area = mask.sum(axes).clamp_min(1e-6)
    total = (mask * errors).sum(axes)
    return total / area / (errors.shape[1] if normalisation is MaskNormalisation.PER_SAMPLE_MEAN else 1)


def denoising_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared errors in float32, shaped like the inputs."""
    return (prediction.float() - target.float()).square()
