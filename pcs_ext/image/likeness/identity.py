"""The identity in a prediction (Banerjee et al. 2023, arXiv 2307.08585): like its photo, unlike other people."""

import torch
from torch import Tensor

from pcs_ext.image.likeness.config import IdentityConfig
from pcs_ext.image.likeness.recogniser import Recogniser, clear_enough, implied
from pcs_ext.image.terms.base import AbstractTerm, Noised, Step


class IdentityTerm(AbstractTerm):
    """weight (1 - cosine) + contrast NT-Xent, each a mean over the photos that have little noise; 0 where none has.

    Only what a prediction of a photo implies is compared; class images are negatives, as they are.

    Args:
        config: how.
        device: of the encoder.

    Raises:
        ModelError: there is no such encoder.
    """

    name = "identity"

    def __init__(self, config: IdentityConfig, device: torch.device) -> None:
        self.config, self.recogniser = config, Recogniser(config.encoder, device)

    def __call__(self, step: Step) -> Tensor:
        asked, batch = step.asked(), step.batch
        assert step.prediction is not None, "this term looks at what the denoiser answered"
        prior = torch.zeros(len(batch.captions), dtype=torch.bool) if batch.is_prior is None else batch.is_prior
        clear = clear_enough(step.backbone, asked.timesteps, self.config.below)
        rows = [row for row in range(len(prior)) if clear[row] and not prior[row]]
        if not rows:
            return step.prediction.new_zeros((), dtype=torch.float32)
        own = Noised(latents=asked.latents[rows], timesteps=asked.timesteps[rows], target=asked.target[rows])
        made = self.recogniser(implied(step.backbone, own, step.prediction[rows]), self._masks(step, rows))
        shown = self._seen(step, rows)
        total = self.config.weight * (1 - (made * shown).sum(-1)).mean()
        others = prior.nonzero()[:, 0].tolist()
        if self.config.contrast and others:
            total = total + self.config.contrast * told_apart(
                made, shown, self._seen(step, others), self.config.temperature
            )
        return total

    def _seen(self, step: Step, rows: list[int]) -> Tensor:
        """Of pictures as they are, `n d`."""
        keys = None if step.batch.keys is None else [step.batch.keys[row] for row in rows]
        return self.recogniser.photos(step.batch.images[rows], self._masks(step, rows), keys)

    def _masks(self, step: Step, rows: list[int]) -> Tensor | None:
        return None if step.batch.masks is None else step.batch.masks[rows]


def told_apart(made: Tensor, own: Tensor, others: Tensor, temperature: float) -> Tensor:
    """NT-Xent: -log of the share of its own photo among it and the others, mean over rows, 0-d.

    Args:
        made: unit vectors `n d`.
        own: of each, the photo, `n d`.
        others: `m d`, of other people.
        temperature: above 0.
    """
    right = (made * own).sum(-1, keepdim=True)
    scores = torch.cat([right, made @ others.T], -1) / temperature
    return -scores.log_softmax(-1)[:, 0].mean()
