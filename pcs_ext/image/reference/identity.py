"""Identity loss: the image encoder must see in what is drawn whom it saw in what was shown."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.encoder import PictureEncoder
from pcs_ext.image.reference.shown import Sees, Shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdentityLoss:
    """1 - cosine of the encoder's vectors of the decoded clean estimate and of the pictures shown.

    The estimate is a picture only where there is little noise, so that only those rows count (PortraitBooth, arXiv
    2312.06354, and IDAdapter, arXiv 2403.13535, use it, both with a face recogniser). Differentiable.
    """

    weight: float
    below: float
    """Rows count whose timestep is under this share of the schedule, in (0, 1]."""

    def __call__(
        self, backbone: AbstractBackbone, encoder: PictureEncoder, estimate: Tensor, timesteps: Tensor, shown: Shown
    ) -> Tensor:
        """The weighted mean over rows that count, 0-d; 0 where none does.

        Args:
            backbone: decodes.
            encoder: made the features of `shown`.
            estimate: clean latents, `b c h w`.
            timesteps: `b`.
            shown: beside each.
        """
        count = backbone.schedule.num_train_timesteps
        seen = torch.tensor(shown.rows, device=timesteps.device)
        rows = ((timesteps < self.below * count) & seen).nonzero()[:, 0]
        if self.weight == 0 or not len(rows):
            return estimate.new_zeros(())
        drawn = encoder.differentiable(backbone.decode_latents(estimate[rows]).float())
        there = vector_of(shown.sight.features[rows.to(shown.sight.features.device)].float(), encoder.sees).mean(1)
        cosine = F.cosine_similarity(vector_of(drawn, encoder.sees), there.to(drawn), dim=-1)
        return self.weight * (1 - cosine).mean()


def vector_of(features: Tensor, sees: Sees) -> Tensor:
    """One vector of a picture: its embedding, the mean of its patches, or the deepest layer's class token.

    Args:
        features: `... d`, `... k d` or `... l k d`, the deepest layer last.
        sees: which of them.
    """
    if sees == "embedding":
        return features
    return features.mean(-2) if sees == "patches" else features[..., -1, 0, :]
