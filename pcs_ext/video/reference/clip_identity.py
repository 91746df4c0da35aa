"""Identity loss on clips: the image encoder must see in every frame whom it saw in what was shown."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.encoder import PictureEncoder
from pcs_ext.image.reference.identity import IdentityLoss
from pcs_ext.image.reference.shown import Shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipIdentityLoss(IdentityLoss):
    """1 less the mean over frames of the cosine of the encoder's vectors (MotionCharacter, arXiv 2411.18281).

    Differentiable.
    """

    frames: int = 4
    """Of each clip that are decoded, evenly spread; decoding them is what costs."""

    def __call__(
        self, backbone: AbstractBackbone, encoder: PictureEncoder, estimate: Tensor, timesteps: Tensor, shown: Shown
    ) -> Tensor:
        """See `IdentityLoss`; the estimate may be `b c f h w`."""
        if estimate.dim() == 4:
            return super().__call__(backbone, encoder, estimate, timesteps, shown)
        count = min(self.frames, estimate.shape[2])
        chosen = torch.linspace(0, estimate.shape[2] - 1, count).round().long().to(estimate.device)
        pictures = estimate[:, :, chosen].transpose(1, 2).flatten(0, 1)
        rows = torch.tensor(shown.rows).repeat_interleave(count)
        beside = Shown(sight=shown.sight.map(lambda seen: seen.repeat_interleave(count, 0)), seen=rows)
        return super().__call__(backbone, encoder, pictures, timesteps.repeat_interleave(count), beside)
