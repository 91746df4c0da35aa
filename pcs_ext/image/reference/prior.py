"""A prior over image embeddings, which tells of words the embedding of the picture that they describe (ECLIPSE).

In one pass and without diffusion, learned by the distance to the embedding of the true picture and by a contrast with
the texts of a batch (Patel et al. 2023, arXiv 2312.04655).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.image.reference.contrasting import cosines_of
from pcs_ext.image.reference.pairs import Pairs


class Prior(nn.Module):
    """Encoded words, some of them pictures' embeddings -> the embedding of a picture.

    Args:
        context: width of text states.
        picture: width of embeddings.
        width: inside.
        depth: blocks.
        heads: of their attentions.
        places: tokens of a prompt at most.
    """

    def __init__(self, context: int, picture: int, *, width: int, depth: int, heads: int, places: int) -> None:
        super().__init__()
        self.words, self.pictures = nn.Linear(context, width), nn.Linear(picture, width)
        self.places = nn.Parameter(0.02 * torch.randn(places + 1, width))
        self.asked = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, picture)

    def forward(self, states: Tensor, at: tuple[Tensor, Tensor], embeddings: Tensor) -> Tensor:
        """Text states `b n context`, rows and tokens `m` that are pictures, and their embeddings `m picture` -> `b
        picture`."""
        told = self.words(states).index_put(at, self.pictures(embeddings))
        tokens = torch.cat([told, self.asked.expand(len(told), 1, -1)], dim=1) + self.places[-told.shape[1] - 1 :]
        for block in self.blocks:
            tokens = block(tokens)
        return self.out(self.norm(tokens[:, -1]))


def prior_terms(
    told: Tensor, pairs: Pairs, *, contrast_weight: float, temperature: float, rows: Tensor | None = None
) -> dict[str, Tensor]:
    """By what a prior learns: `projection` and, where the image encoder has texts, `contrast`.

    Args:
        told: embeddings of a batch, `b width`.
        pairs: the batch, with its targets.
        contrast_weight: of the contrast.
        temperature: see `text_contrast`.
        rows: `b` bool, those that count; None: all.
    """
    target, texts = pairs.shown.target, pairs.shown.texts
    if target is None:
        return {}
    counted = torch.ones(len(told), dtype=torch.bool, device=told.device) if rows is None else rows
    found = {"projection": F.mse_loss(told[counted], target[counted, 0].to(told))}
    if texts is not None:
        found["contrast"] = contrast_weight * text_contrast(told[counted], texts[counted].to(told), temperature)
    return found


def text_contrast(embeddings: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """-log of the share that each embedding's own text has among the texts of the batch, a mean, 0-d (ECLIPSE, eq. 4 as
    recalled).

    Args:
        embeddings: `m d`.
        texts: `m d`, of the captions in the same order.
        temperature: divides the cosines.
    """
    cosines = cosines_of(embeddings, texts)
    return F.cross_entropy(cosines / temperature, torch.arange(len(cosines), device=cosines.device))
