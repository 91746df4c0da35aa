"""A word between a photo, its subject alone and its class (Lu et al. 2024, arXiv 2401.15708, L_PE)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import Concept
from pcs_ext.image.contrast import PromptReader
from pcs_ext.image.photo_reader import load_photo_encoder
from pcs_ext.image.types import Batch


class Prototype:
    """1 - cosine of what CLIP reads in the subject's words and the mean of photo, masked photo and class noun.

    The mean is of unit vectors. Around the subject the masked photo is black; photos without masks leave it out.

    Args:
        backbone: with the subject's words in it.
        concept: says them, and the class noun, in its first template.
        encoder: the CLIP whose text tower the base reads with: `toybox`, a transformers folder or a hub id.

    Raises:
        ModelError: there is no such CLIP, or it is not the base's.
    """

    def __init__(self, backbone: AbstractBackbone, concept: Concept, encoder: str) -> None:
        self.clip = load_photo_encoder(encoder, backbone.device)
        self.reader = PromptReader(backbone, self.clip)
        template = concept.templates[0]
        self.own, self.other = concept.prompt(template), concept.class_prompt(template)

    def __call__(self, batch: Batch) -> Tensor:
        """Mean over the photos, 0-d. Differentiable with respect to the words."""
        return 1 - F.cosine_similarity(self.reader([self.own]), self._wanted(batch), dim=-1).mean()

    @torch.no_grad()
    def _wanted(self, batch: Batch) -> Tensor:
        """`b d`, float32."""
        images = batch.images.to(self.clip.device)
        seen = [self.clip.encode_images(images)]
        if batch.masks is not None:
            seen.append(self.clip.encode_images((images + 1) * batch.masks.to(images) - 1))
        return torch.stack([*seen, self.reader([self.other]).expand_as(seen[0])]).mean(0)
