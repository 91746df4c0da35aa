"""Which noun explains pictures best: a diffusion model classifies by its own error (arXiv 2303.16203).

What a file paints for its subject is shown to the base without the file, noised, with one noun after another in the
prompt. The noun under which the base errs least is what the pictures show, as far as the base knows. Errors of two
nouns are compared picture by picture on the same noise, so that a few pictures tell.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.defense.audit.method import AuditMethod
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.objectives import denoising_errors
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.runtime import generator_for

_GUIDANCE = 3.0
"""Of the pictures: enough to show what is meant, little enough to keep what was learned."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """How well a claim explains some pictures."""

    shows: str
    """The noun, other than the claim, under which the base errs least."""
    advantage: float
    """By how much less it errs under that noun than under the claim, as a share of its error; negative: the claim
    explains the pictures best."""
    agreeing: float
    """Share of the pictures for which that noun is better."""


@torch.no_grad()
def paint(backbone: AbstractBackbone, prompt: str, method: AuditMethod) -> Tensor:
    """Latents `n c h w` of a few pictures of a prompt, from fixed seeds."""
    config = SampleConfig(num_inference_steps=method.picture_steps, guidance_scale=_GUIDANCE)
    count = method.pictures
    images = sample(backbone, [prompt] * count, seeds=range(method.seed, method.seed + count), config=config)
    return backbone.encode_images(images.to(backbone.device, backbone.dtype)).float()


@torch.no_grad()
def errors(backbone: AbstractBackbone, latents: Tensor, prompts: Sequence[str], method: AuditMethod) -> Tensor:
    """Mean squared error of the prediction under each prompt, `prompts n`, over the method's noise levels."""
    schedule, rows = backbone.schedule, torch.zeros(len(prompts), len(latents))
    conditioning = backbone.encode_prompt(list(prompts))
    for index, level in enumerate(method.picture_levels):
        draws = [
            torch.randn(latents.shape[1:], generator=generator_for("audit pictures", method.seed, index, picture))
            for picture in range(len(latents))
        ]
        noise = torch.stack(draws).to(latents.device)
        timesteps = torch.full((len(latents),), round(level * (schedule.num_train_timesteps - 1)))
        timesteps = timesteps.to(latents.device)
        noisy, target = schedule.add_noise(latents, noise, timesteps), schedule.target(latents, noise, timesteps)
        for row in range(len(prompts)):
            prediction = backbone.predict(noisy.to(backbone.dtype), timesteps, conditioning[[row] * len(latents)])
            rows[row] += denoising_errors(prediction, target).mean((1, 2, 3)).cpu() / len(method.picture_levels)
    return rows


def explanation(found: Tensor, claims: int, others: Sequence[str]) -> Explanation:
    """Compare the best way to put the claim with the best other noun.

    Args:
        found: of `errors`: first the rows of the claim's wordings, then one for each other noun.
        claims: number of wordings.
        others: the nouns.
    """
    claim = found[:claims][found[:claims].mean(1).argmin()]
    best = int(found[claims:].mean(1).argmin())
    other = found[claims + best]
    gain = claim - other
    return Explanation(
        shows=others[best],
        advantage=float(gain.mean() / torch.minimum(claim, other).mean()),
        agreeing=float((gain > 0).float().mean()),
    )
