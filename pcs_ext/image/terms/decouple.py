"""A subject's word that can do without those of the photo (DETEX, Cai et al. 2023, arXiv 2312.11826)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.image_words import showing
from pcs_ext.image.masked_loss import MaskNormalisation, denoising_errors, masked_mean
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class DecoupleConfig:
    """Denoising of the subject alone, under captions that leave out what is around it."""

    kind: Literal["decouple"] = "decouple"
    """Tag of this term in JSON."""
    around: tuple[str, ...]
    """Phrases of the captions about what the mask leaves out, always left out here: " on a <background> background"."""
    of_subject: tuple[str, ...] = ()
    """Phrases about the subject in this photo, each left out half of the time: " in <pose> pose"."""
    weight: float = 1.0
    """Of the term."""

    def __post_init__(self) -> None:
        if not self.around or not all((*self.around, *self.of_subject)):
            raise ConfigError(
                "decouple leaves phrases out of captions; give one or more as they stand there, none of them empty."
            )


class DecoupleTerm(AbstractTerm):
    """The mean squared error over the masked cells, of the same noisy latents; a second pass of the denoiser.

    With the main pass this is the paper's joint training: all words together explain the whole photo, the subject's,
    with or without its pose's, the masked part of it. Photos without masks and class images do not count.
    Recalled, not looked up: how often which words are dropped, and that the parts count alike.
    """

    name = "decouple"

    def __init__(self, config: DecoupleConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        asked, masks = step.asked(), step.batch.masks
        prior = step.batch.is_prior
        rows = list(range(len(asked.latents))) if prior is None else (~prior).nonzero().flatten().tolist()
        if masks is None or not rows:
            return asked.latents.new_zeros(())
        features = step.batch.features
        with showing(step.adapters.values(), None if features is None else features[rows]):
            told = step.backbone.encode_prompt([self._without(step.batch.captions[row], step) for row in rows])
        prediction = step.backbone.predict(asked.latents[rows], asked.timesteps[rows], told)
        errors = denoising_errors(prediction, asked.target[rows])
        cells = F.interpolate(masks[rows].to(errors), size=errors.shape[-2:], mode="area")
        return self.config.weight * masked_mean(errors, cells, MaskNormalisation.PER_SAMPLE_MEAN).mean()

    def _without(self, caption: str, step: Step) -> str:
        dropped = torch.rand(len(self.config.of_subject), generator=step.generator) < 0.5
        chosen = [phrase for phrase, drop in zip(self.config.of_subject, dropped.tolist(), strict=True) if drop]
        for phrase in (*self.config.around, *chosen):
            caption = caption.replace(phrase, "")
        return caption
