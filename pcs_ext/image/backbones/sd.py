"""Stable Diffusion 1.x and 2.x, toybox among them: one CLIP text encoder, last hidden states."""

from collections.abc import Sequence

from pcs_ext.image.backbones.unet import AbstractUnetBackbone, tokenize
from pcs_ext.image.types import Conditioning


class StableDiffusionBackbone(AbstractUnetBackbone):
    """One text encoder whose normed last states condition the denoiser."""

    family = "sd"

    def encode_prompt(self, prompts: Sequence[str], *, size: tuple[int, int] | None = None) -> Conditioning:
        """See `AbstractBackbone.encode_prompt`; the family is not conditioned on size."""
        ids = tokenize(self.tokenizers[0], prompts).to(self.device)
        return Conditioning(states=self.text_encoders[0](ids).last_hidden_state)
