"""Several layers of an image encoder, coarse to fine, as several words."""

import torch
from torch import Tensor, nn

from pcs_ext.image.reference.base import Reading


class ScaleWords(nn.Module):
    """Class tokens of all layers, each normed, side by side -> a network of two hidden layers for every word.

    Early layers tell colours and lines apart, late ones persons (Face2Diffusion, arXiv 2403.05094, section 3.2, whose
    released networks these are; DreamIdentity, arXiv 2307.00300, has the same idea). Without their dropout, so that a
    training that goes on is the one that was stopped.

    Args:
        reading: of the image encoder.
        words: how many.
        hidden: width inside.
        made: width of a word.
    """

    def __init__(self, reading: Reading, words: int, hidden: int, made: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(reading.width) for _ in range(reading.layers))
        self.words = nn.ModuleList(
            nn.Sequential(
                nn.Linear(reading.layers * reading.width, hidden), nn.LeakyReLU(0.2),
                nn.Linear(hidden, hidden), nn.LeakyReLU(0.2),
                nn.Linear(hidden, made),
            )
            for _ in range(words)
        )  # fmt: skip

    def forward(self, classes: Tensor) -> Tensor:
        """`b l width` -> `b words made`."""
        scales = [norm(classes[:, index]) for index, norm in enumerate(self.norms)]
        joined = torch.cat(scales, dim=-1)
        return torch.stack([word(joined) for word in self.words], dim=1)
