"""Concept-centric personalisation: what is drawn and what is asked of it, each with a guidance of its own.

Cao et al. 2023, arXiv 2312.08195; the formula and the scales are the released code's. The recipe of the same name tunes
the denoiser to draw the concept when nothing is asked. With e0 the base and e1 the tuned denoiser, e = e0(no words) +
concept (e1(no words) - e0(no words)) + control (e0(words) - e0(no words)).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.duet import set_scale
from pcs_ext.image.guidance import combine_terms
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import Predict, SampleConfig, SampleHooks, initial_noise, sample
from pcs_ext.image.types import Conditioning


@config
class ConceptCentricConfig:
    """How much of the concept, and how much of what is asked of it."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Its guidance_scale is the control's, other than 1."""
    concept_scale: float = 2.5
    """Guidance towards the concept; 0 is the plain base."""

    def __post_init__(self) -> None:
        if self.sampling.guidance_scale == 1.0 or self.concept_scale < 0:
            raise ConfigError(
                f"concept-centric needs a guidance_scale other than 1 and a concept_scale of 0 or more; got "
                f"{self.sampling.guidance_scale} and {self.concept_scale}."
            )


def concept_centric_guidance(preset: Preset) -> ConceptCentricConfig:
    """2.5 and 2.5, 25 steps of DPM-Solver++."""
    return ConceptCentricConfig(
        id="concept-centric",
        sampling=SampleConfig(scheduler="dpmsolver++", num_inference_steps=25, guidance_scale=2.5),
    )


@torch.no_grad()
def sample_guided_twice(
    backbone: AbstractBackbone,
    adapters: Sequence[AbstractAdapter],
    plain: str,
    *,
    seed: int,
    config: ConceptCentricConfig,
    negative_prompt: str = "",
) -> Tensor:
    """A picture of a concept, `1 3 h w` in [-1, 1], float32 on the CPU.

    Args:
        backbone: with the adapters injected.
        adapters: the concept's.
        plain: what is asked, in plain words: "wearing glasses".
        seed: of the noise.
        config: how.
        negative_prompt: what the control stays away from, in place of no words.
    """
    shape = initial_noise(backbone, [seed], config.sampling).shape
    pixels = (shape[-2] * backbone.vae_factor, shape[-1] * backbone.vae_factor)
    nothing = backbone.encode_prompt([""], size=pixels)
    hooks = SampleHooks(predict=lambda predict: guided_twice(predict, adapters, nothing, config))
    return sample(
        backbone, [plain], seeds=[seed], config=config.sampling, negative_prompts=[negative_prompt], hooks=hooks
    )


def guided_twice(
    predict: Predict, adapters: Sequence[AbstractAdapter], nothing: Conditioning, config: ConceptCentricConfig
) -> Predict:
    """`[negative, positive]` of which classifier-free guidance makes both guidances.

    Args:
        predict: the denoiser.
        adapters: the concept's, at work in its own prediction alone.
        nothing: no words.
        config: the scales.
    """
    weight = config.concept_scale / config.sampling.guidance_scale

    def predicted(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        concept = predict(latents[:1], timesteps[:1], nothing)
        set_scale(adapters, 0.0)
        try:
            asked = predict(latents, timesteps, conditioning)
            base = asked[:1] if weight == 0 else predict(latents[:1], timesteps[:1], nothing)
        finally:
            set_scale(adapters, 1.0)
        return torch.cat([asked[:1], combine_terms(asked[1:], [(weight, concept, base)])])

    return predicted
