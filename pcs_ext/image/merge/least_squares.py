"""One weight for several subjects, in closed form. Pure functions of matrices, computed in float64."""

from collections.abc import Sequence

import torch
from torch import Tensor


def constrained(weight: Tensor, context: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """The weight nearest to `weight` on the context that gives the wanted outputs exactly, `out in`, float32.

    min ||C (W - W0)^T|| subject to W K^T = V^T (Custom Diffusion, Kumari et al. 2022, arXiv 2212.04488, eq. 4-5):
    W = W0 + (V^T - W0 K^T) (D K^T)^-1 D with D = K (C^T C)^-1.

    Args:
        weight: W0, `out in`.
        context: C, `n in`: inputs whose outputs should stay.
        inputs: K, `s in`; rows that are (nearly) alike count once.
        outputs: V, `s out`.
    """
    weight64, context, inputs, outputs = (value.double() for value in (weight, context, inputs, outputs))
    gram = context.T @ context
    # Captions may not span all inputs: what they never use costs a little, so that the inverse exists.
    gram = gram + 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    spread = torch.linalg.solve(gram, inputs.T).T
    missing = outputs.T - weight64 @ inputs.T
    return (weight64 + missing @ torch.linalg.pinv(spread @ inputs.T, hermitian=True) @ spread).float()


def fused(weight: Tensor, weights: Sequence[Tensor], grams: Sequence[Tensor], *, ridge: float = 0.1) -> Tensor:
    """The weight whose outputs are nearest to each subject's own weight on that subject's inputs, `out in`, float32.

    min sum_i ||(W - W_i) X_i||^2 + ridge t ||W - W0||^2, with t the mean of the diagonal of sum_i X_i X_i^T: gradient
    fusion (Mix-of-Show, Gu et al. 2023, arXiv 2305.18292, eq. 4). Differs from the released code, which descends this
    with L-BFGS from W0 for 50 to 500 steps: it is linear least squares, so it is solved.

    Args:
        weight: W0, `out in`; decides where the inputs say nothing.
        weights: W_i, `out in` each.
        grams: X_i X_i^T, `in in` each.
        ridge: pull towards W0, relative to the inputs' size. Descent from W0 that stops early has such a pull built in;
            without it, inputs that painting did not show come out amplified (docs/LOG.md).
    """
    base, total = weight.double(), torch.stack([gram.double() for gram in grams]).sum(0)
    pull = (ridge * total.diagonal().mean()).clamp_min(1e-12)
    wanted = torch.stack([own.double() @ gram.double() for own, gram in zip(weights, grams, strict=True)]).sum(0)
    eye = torch.eye(len(total), dtype=total.dtype, device=total.device)
    return torch.linalg.solve(total + pull * eye, (wanted + pull * base).T).T.float()
