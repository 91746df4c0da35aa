"""A guide as the diffusion model that nerfstudio's generfacto asks: texts out of prompts, a loss out of renders."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.image.types import Conditioning
from pcs_ext.threed.distillation import DistillationConfig
from pcs_ext.threed.studios.guide import Guide


@dataclasses.dataclass(frozen=True)
class TextPair:
    """What generfacto carries about as a text embedding."""

    negative: Conditioning
    """One row."""
    positive: Conditioning
    """One row."""

    def to(self, device: object) -> "TextPair":
        """Itself: conditioning stays where the guide's base is."""
        return self


class GuideDiffusion:
    """Has the three members that generfacto reads: `device`, `get_text_embeds`, `sds_loss`.

    It is no module, so a trainer's checkpoints hold the field and not the base.

    Args:
        guide: the base with the subject in it.
        settings: noise levels, weighting, clamping; the guidance scale comes with every call.
        seed: of noise levels and noise.
    """

    def __init__(self, guide: Guide, settings: DistillationConfig, seed: int = 0) -> None:
        self.guide, self.settings = guide, settings
        self.generator = torch.Generator().manual_seed(seed)

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        return self.guide.backbone.device

    def get_text_embeds(self, prompt: str, negative_prompt: str) -> TextPair:
        """Both prompts, encoded by the base as it is now; `{subject}` where a learned subject goes.

        Raises:
            UsageError: `{subject}` without a subject, or the reverse.
        """
        return TextPair(
            self.guide.encode([self.guide.away(negative_prompt)]), self.guide.encode([self.guide.words(prompt)])
        )

    def sds_loss(
        self, text_embeddings: TextPair, image: Tensor, guidance_scale: float = 101.0, grad_scaler: object = None
    ) -> Tensor:
        """The SDS loss, 0-d, on the device of the picture.

        Args:
            text_embeddings: of the picture's direction.
            image: `1 3 h w` in [0, 1], with a graph.
            guidance_scale: standard form, one more than generfacto's own.
            grad_scaler: not read; the loss is computed in the base's precision, outside of autocast.
        """
        settings = dataclasses.replace(self.settings, guidance_scale=float(guidance_scale))
        return self.guide.loss(
            image.permute(0, 2, 3, 1),
            (text_embeddings.negative, text_embeddings.positive),
            settings,
            progress=0.0,
            generator=self.generator,
        )
