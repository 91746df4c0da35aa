"""Losses against loops written from their formulas."""

import pytest
import torch

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.masked_loss import MASK_FLOOR, MaskNormalisation, masked_mean
from pcs_ext.image.objectives import DenoisingObjective, ObjectiveConfig
from pcs_ext.image.types import Batch


def by_loop(errors: torch.Tensor, mask: torch.Tensor, kind: MaskNormalisation) -> torch.Tensor:
    b, c, h, w = errors.shape
    result = []
    for i in range(b):
        total = area = 0.0
        for k in range(c):
            for y in range(h):
                for x in range(w):
                    m = float(mask[i, 0, y, x])
                    weights = {"multiply-both": m * m, "soft": (0.5 + 0.5 * m) ** 2, "floor": max(m, MASK_FLOOR)}
                    weight = weights.get(kind.value, m)
                    total += weight * float(errors[i, k, y, x])
                    area += m if k == 0 else 0.0
        divisor = {"per-sample-area": area, "per-sample-mean": area * c}.get(kind.value, c * h * w)
        result.append(total / divisor)
    return torch.tensor(result)


@pytest.mark.parametrize("kind", list(MaskNormalisation))
def test_masked_normalisations_equal_brute_force(kind: MaskNormalisation) -> None:
    errors, mask = torch.rand(2, 4, 3, 5), torch.rand(2, 1, 3, 5)
    torch.testing.assert_close(masked_mean(errors, mask, kind), by_loop(errors, mask, kind), atol=1e-5, rtol=1e-5)


def test_full_mask_equals_no_mask_for_means() -> None:
    errors, ones = torch.rand(2, 4, 3, 5), torch.ones(2, 1, 3, 5)
    plain = masked_mean(errors, None, MaskNormalisation.PLAIN)
    for kind in set(MaskNormalisation) - {MaskNormalisation.PER_SAMPLE_AREA}:
        torch.testing.assert_close(masked_mean(errors, ones, kind), plain)


def batch_of(backbone: AbstractBackbone, prior: int) -> tuple[Batch, torch.Tensor]:
    count = 2 + prior
    images = torch.zeros(count, 3, 32, 32)
    is_prior = torch.tensor([False] * 2 + [True] * prior) if prior else None
    return Batch(images=images, captions=("a dog",) * count, is_prior=is_prior), torch.randn(count, 4, 8, 8)


def test_prior_loss_is_added_to_the_mean_of_the_photos(sd: AbstractBackbone) -> None:
    batch, latents = batch_of(sd, prior=2)
    conditioning = sd.encode_prompt(batch.captions)
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    one = DenoisingObjective(ObjectiveConfig(prior_loss_weight=1.0))(sd, batch, latents, conditioning, seeds[0])
    half = DenoisingObjective(ObjectiveConfig(prior_loss_weight=0.5))(sd, batch, latents, conditioning, seeds[1])
    torch.testing.assert_close(half.terms["prior"] * 2, one.terms["prior"])
    torch.testing.assert_close(half.terms["denoising"], one.terms["denoising"])
    torch.testing.assert_close(one.total, one.terms["denoising"] + one.terms["prior"])


def test_pixels_outside_the_mask_do_not_count(sd: AbstractBackbone) -> None:
    batch, latents = batch_of(sd, prior=0)
    masks = torch.zeros(2, 1, 32, 32)
    masks[..., :16] = 1
    batch = Batch(images=batch.images, captions=batch.captions, masks=masks)
    objective = DenoisingObjective(ObjectiveConfig(mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN))
    latents.requires_grad_(True)

    def predict(noisy, timesteps, conditioning):
        return noisy * 0

    sd.predict = predict  # type: ignore[method-assign]
    sd.schedule = type(sd.schedule)(alphas_cumprod=sd.schedule.alphas_cumprod, prediction_type="v_prediction")
    total = objective(sd, batch, latents, sd.encode_prompt(batch.captions), torch.Generator().manual_seed(0)).total
    (gradient,) = torch.autograd.grad(total, latents)
    assert gradient[..., :4].abs().min() > 0
    assert gradient[..., 4:].abs().max() == 0
