"""Learned words told apart from pictures of other classes: the discriminative term of MC-TI, and what it reads.

Multi-class textual-inversion (Wang et al., WACV 2025, arXiv 2410.22317).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config_hash
from pcs_ext.errors import ModelError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import tokenize
from pcs_ext.image.data import Photo
from pcs_ext.image.evaluate.encoders import ClipEncoder


class PromptReader:
    """Prompts as the base's text encoder reads them, in the space where CLIP compares texts with pictures.

    Args:
        backbone: its first text encoder is meant; learned words in it count.
        clip: the CLIP whose text tower that encoder is; its projection is used.

    Raises:
        ModelError: the projection does not fit the encoder.
    """

    def __init__(self, backbone: AbstractBackbone, clip: ClipEncoder) -> None:
        self.backbone = backbone
        self.projection = clip.model.text_projection.weight.detach().float().to(backbone.device)
        width = backbone.text_encoders[0].config.hidden_size
        if self.projection.shape[1] != width:
            raise ModelError(
                f"{clip.id} projects texts of width {self.projection.shape[1]}, the text encoder of {backbone.name} "
                f"has width {width}; expected the CLIP it comes from (ViT-L/14 for Stable Diffusion 1.x and SDXL)."
            )

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors `b d`, float32. Differentiable with respect to learned words."""
        ids = tokenize(self.backbone.tokenizers[0], prompts).to(self.backbone.device)
        pooled = self.backbone.text_encoders[0](ids).pooler_output
        return F.normalize(pooled.float() @ self.projection.T, dim=-1)


class Rivals:
    """Photos of other classes, for subjects that shall be told apart from them.

    Args:
        clip: encodes the photos.
        photos: of every other class.

    Raises:
        UsageError: no class, or one without photos.
    """

    def __init__(self, clip: ClipEncoder, photos: Sequence[Sequence[Photo]]) -> None:
        if not photos or not all(photos):
            raise UsageError("telling classes apart takes at least one other class, with at least one photo of each.")
        self.clip = clip
        self.features = [photo_features(clip, group) for group in photos]

    @property
    def digest(self) -> str:
        """16 hex digits of who they are: a run that goes on must meet the same ones."""
        return config_hash([self.clip.id, [feature.flatten()[::7].tolist() for feature in self.features]])


@torch.no_grad()
def photo_features(clip: Any, photos: Sequence[Photo]) -> Tensor:
    """Unit vectors of photos and their mirror images, `2n d`, float32 on the CPU.

    Args:
        clip: an `ImageEncoder`.
        photos: `n`, of any sizes; the encoder's own preprocessing fits them.
    """
    images = [photo.image[None] for photo in photos]
    return torch.cat([clip.encode_images(side) for image in images for side in (image, image.flip(-1))]).float().cpu()


class Contrast:
    """The term CE(scale * cos(text of the learned word, picture of class k) over k, own class).

    One picture of every class is drawn per step. Only the own word trains, against the others' pictures, so classes
    can be learned one by one and in any order.

    Args:
        reader: of prompts, with the learned word in its backbone.
        own: features of the own class's photos, `n d` (`photo_features`).
        rivals: of the others'.
        scale: times the cosines; 10 in the released code.
    """

    def __init__(self, reader: PromptReader, own: Tensor, rivals: Sequence[Tensor], scale: float) -> None:
        self.reader, self.classes, self.scale = reader, [own, *rivals], scale

    def __call__(self, prompt: str, generator: torch.Generator) -> Tensor:
        """The cross-entropy of one step, 0-d. Differentiable with respect to the word."""
        drawn = [features[int(torch.randint(len(features), (), generator=generator))] for features in self.classes]
        text = self.reader([prompt])
        logits = self.scale * text @ torch.stack(drawn).to(text).T
        return F.cross_entropy(logits, torch.zeros(1, dtype=torch.long, device=logits.device))
