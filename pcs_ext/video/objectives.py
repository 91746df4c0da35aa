"""Losses on clips, as pure functions of the denoiser's output and its target.

Axes: b clips, c channels, f frames, h w latent cells. Prediction and target are in whatever the denoiser predicts (eps
or v): everything here is a norm of linear maps of their difference or of both, so nothing depends on which it is.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

CosineForm = Literal["signed", "absolute"]


def debiased(clips: Tensor, anchors: Tensor, beta: float = 1.0) -> Tensor:
    """phi of MotionDirector (Zhao et al. 2023, arXiv 2310.08465, eq. 5): sqrt(beta^2 + 1) x_i - beta x_anchor.

    What all frames share, their appearance, shrinks by sqrt(beta^2 + 1) - beta (0.41 at beta 1); what differs between
    frames, motion, grows.

    Args:
        clips: `b c f h w`.
        anchors: frame index per clip, `b`.
        beta: at least 0; 0 changes nothing.

    Returns:
        `b c f h w`.
    """
    rows = torch.arange(len(clips), device=clips.device)
    anchor = clips[rows, :, anchors.to(clips.device)]
    return (beta**2 + 1) ** 0.5 * clips - beta * anchor.unsqueeze(2)


def appearance_debiased_loss(prediction: Tensor, target: Tensor, anchors: Tensor, beta: float = 1.0) -> Tensor:
    """MotionDirector's L_ad (eq. 6): squared error between phi of prediction and of target, mean over everything."""
    difference = prediction.float() - target.float()
    # phi is linear: phi(a) - phi(b) = phi(a - b).
    return debiased(difference, anchors, beta).square().mean()


def residuals(clips: Tensor, stride: int = 1) -> Tensor:
    """Differences of frames `stride` apart, `b c f - stride h w` (VMC, Jeong et al. 2023, arXiv 2312.00845, eq. 7)."""
    return clips[:, :, stride:] - clips[:, :, :-stride]


def residual_l2_loss(prediction: Tensor, target: Tensor, stride: int = 1) -> Tensor:
    """Mean squared error of frame differences: blind to any offset that all frames share (VMC, eq. 9)."""
    return (residuals(prediction.float(), stride) - residuals(target.float(), stride)).square().mean()


def residual_cosine_loss(
    prediction: Tensor, target: Tensor, *, stride: int = 1, form: CosineForm = "signed", eps: float = 1e-8
) -> Tensor:
    """1 - cosine between frame differences of prediction and target (VMC, eq. 10), mean over the rest; in [0, 2].

    Args:
        prediction, target: `b c f h w`.
        stride: frames between the two that are compared.
        form: "signed": the paper's, each difference one vector over channels and cells; a reversed motion costs 2.
            "absolute": what the released code computes, the absolute values of both as vectors over time, per channel
            and cell; it takes a motion and its reverse for the same.
        eps: smallest norm.
    """
    ours, theirs = residuals(prediction.float(), stride), residuals(target.float(), stride)
    if form == "absolute":
        return (1 - F.cosine_similarity(ours.abs(), theirs.abs(), dim=2, eps=eps)).mean()
    ours, theirs = (x.transpose(1, 2).flatten(2) for x in (ours, theirs))
    return (1 - F.cosine_similarity(ours, theirs, dim=2, eps=eps)).mean()


def after_first_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error of all frames but the first, which stays clean (LAMP, Wu et al. 2023, arXiv 2310.10769, eq. 4)."""
    return (prediction[:, :, 1:].float() - target[:, :, 1:].float()).square().mean()


def clip_loss(prediction: Tensor, target: Tensor, masks: Tensor | None = None) -> Tensor:
    """Squared error, mean over everything or over the masked cells of each clip.

    Args:
        prediction, target: `b c f h w`.
        masks: where the loss counts, `b 1 f h w` in [0, 1]; None: everywhere. A clip whose mask is empty counts 0.
    """
    errors = (prediction.float() - target.float()).square()
    if masks is None:
        return errors.mean()
    masks = masks.to(errors.device, errors.dtype)
    area = masks.flatten(1).sum(1).clamp_min(1e-6) * errors.shape[1]
    return ((masks * errors).flatten(1).sum(1) / area).mean()


def attention_map_loss(maps: Tensor, masks: Tensor, *, outside: float = 1.0) -> Tensor:
    """Pull a word's attention into its subject's mask and out of the rest.

    The positive and negative guidance of CustomVideo (Wang et al. 2024, arXiv 2401.09962) in its plainest form; the
    published weights are not known here, so `outside` is ours.

    Args:
        maps: attention of one word, `b q` in [0, 1], q cells.
        masks: `b q` in {0, 1}.
        outside: weight of attention outside the mask.

    Returns:
        Mean squared distance to 1 inside and to 0 outside, each averaged over its own cells.
    """
    inside = masks.to(maps.dtype)
    rest = 1 - inside
    pulled = (inside * (1 - maps).square()).sum(1) / inside.sum(1).clamp_min(1)
    pushed = (rest * maps.square()).sum(1) / rest.sum(1).clamp_min(1)
    return (pulled + outside * pushed).mean()


def random_anchors(clips: Tensor, generator: torch.Generator) -> Tensor:
    """A uniformly drawn frame per clip, `b`, from a CPU generator."""
    return torch.randint(clips.shape[2], (len(clips),), generator=generator)
