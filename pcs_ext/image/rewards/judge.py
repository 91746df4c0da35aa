"""What a picture is worth: its likeness to the photos, and to what was asked."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pcs_ext.image.evaluate.encoders import load_image_encoder
from pcs_ext.image.photo_reader import encoder_folder, load_photo_encoder
from pcs_ext.image.rewards.config import RewardConfig

_WHERE = "the phase's reward in the JSON of --dry-run, and pass it with --config"


class Judge:
    """Weighted cosines.

    Args:
        config: weights and encoders.
        photos: `3 s s` each in [-1, 1], of the subject.
        device: where encoders run.

    Raises:
        ModelError: there is no such encoder.
    """

    def __init__(self, config: RewardConfig, photos: Iterable[Tensor], device: torch.device) -> None:
        self.config = config
        self.clip = load_photo_encoder(config.encoder, device) if config.text else None
        if config.identity:
            folder = encoder_folder(config.identity_encoder or config.encoder, "the reward", _WHERE)
            self.eye = load_image_encoder(folder, device)
            with torch.no_grad():
                self.wanted = F.normalize(self.eye.encode_images(torch.stack(list(photos)).to(device)).mean(0), dim=0)

    def __call__(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Rewards `b` of images `b 3 h w` in [-1, 1]; differentiable.

        Args:
            images: to judge.
            texts: `b`, what was asked for, in words that the encoder knows.
        """
        worth = torch.zeros(len(images), device=images.device)
        if self.config.identity:
            worth = worth + self.config.identity * (self.eye.encode_images(images) @ self.wanted)
        if self.clip is not None:
            with torch.no_grad():
                asked = self.clip.encode_texts(texts)
            worth = worth + self.config.text * (self.clip.encode_images(images) * asked).sum(-1)
        return worth
