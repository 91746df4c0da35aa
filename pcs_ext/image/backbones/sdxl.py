"""Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952): two text encoders, pooled text and size conditioning."""

import dataclasses
from collections.abc import Sequence

import torch

from pcs_ext.image.backbones.unet import AbstractUnetBackbone, tokenize
from pcs_ext.image.types import Conditioning


class SDXLBackbone(AbstractUnetBackbone):
    """The second-to-last states of both encoders side by side; the second's projection is the pooled text."""

    family = "sdxl"
    zeros_for_nothing = True
    """No negative prompt is zeros instead of the empty prompt's states: so the published model is sampled. A pipeline
    folder may say otherwise (`force_zeros_for_empty_prompt`)."""

    def encode_prompt(self, prompts: Sequence[str], *, size: tuple[int, int] | None = None) -> Conditioning:
        """See `AbstractBackbone.encode_prompt`. Original and target size are `size`, the crop starts at the corner."""
        states, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            output = encoder(tokenize(tokenizer, prompts).to(self.device), output_hidden_states=True)
            states.append(output.hidden_states[-2])
            pooled = output[0]
        height, width = size or (self.resolution, self.resolution)
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], device=self.device).repeat(len(prompts), 1)
        return Conditioning(states=torch.cat(states, dim=-1), pooled=pooled, time_ids=time_ids)

    def encode_negative(self, prompts: Sequence[str], *, size: tuple[int, int] | None = None) -> Conditioning:
        """See `AbstractBackbone.encode_negative`; states of their own for each layer are left as they are."""
        told = super().encode_negative(prompts, size=size)
        if not self.zeros_for_nothing or told.per_layer is not None or told.pooled is None:
            return told
        empty = torch.tensor([not text for text in prompts], device=told.states.device)[:, None]
        pooled, states = told.pooled.masked_fill(empty, 0), told.states.masked_fill(empty[..., None], 0)
        return dataclasses.replace(told, states=states, pooled=pooled)
