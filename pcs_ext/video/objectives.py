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


def appearance_statistics_loss(prediction: Tensor, frozen: Tensor) -> Tensor:
    """Squared distance of every frame's channel means and deviations to a frozen model's, mean over both.

    MotionCrafter's frozen branch (Zhang et al. 2023, arXiv 2312.05288), which normalises appearance. The form is ours:
    statistics over cells are what a frame's look shares wherever things are, so moving them costs nothing.

    Args:
        prediction: `b c f h w`, of the model that learns.
        frozen: the same of the model without anything learned; gets no gradient.
    """
    ours, theirs = prediction.float(), frozen.detach().float()
    means = (ours.mean((3, 4)) - theirs.mean((3, 4))).square().mean()
    deviations = (_deviation(ours) - _deviation(theirs)).square().mean()
    return (means + deviations) / 2


def _deviation(clips: Tensor) -> Tensor:
    """Standard deviation over cells, `b c f`; differentiable where it is 0."""
    return (clips.var((3, 4), correction=0) + 1e-12).sqrt()


def pseudo_flow(maps: Tensor) -> Tensor:
    """Where something moves, from where a word for it looks: |difference| of neighbouring frames' maps, in [0, 1].

    SAVE (Song et al. 2023, arXiv 2312.02503) computes its pseudo optical flow from attention maps instead of by a flow
    network; the exact form is ours. The first frame has that of the second; all is divided by the clip's maximum.

    Args:
        maps: attention `b f h w`, at least 2 frames.

    Returns:
        `b f h w`, without gradient.
    """
    change = (maps[:, 1:] - maps[:, :-1]).detach().abs()
    flow = torch.cat([change[:, :1], change], 1)
    return flow / flow.amax((1, 2, 3), keepdim=True).clamp_min(1e-8)


def motion_attention_loss(motion: Tensor, protagonist: Tensor) -> Tensor:
    """Squared distance of where the motion's word looks to the pseudo flow of its protagonist's word (SAVE).

    Args:
        motion: attention of the motion's word, `b f h w`; divided by each frame's maximum.
        protagonist: the same of the protagonist's word.
    """
    looks = motion / motion.amax((2, 3), keepdim=True).clamp_min(1e-8)
    return (looks - pseudo_flow(protagonist)).square().mean()


def random_anchors(clips: Tensor, generator: torch.Generator) -> Tensor:
    """A uniformly drawn frame per clip, `b`, from a CPU generator."""
    return torch.randint(clips.shape[2], (len(clips),), generator=generator)
