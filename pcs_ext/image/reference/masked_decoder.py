"""A masked transformer decoder: what a code tells of a picture of which nearly all is hidden (MAE, arXiv 2111.06377).

Pictures are latents, cut into square patches. Few stay visible; the decoder tells the others by these, their places and
the code.
"""

import torch
from torch import Tensor, nn

from pcs_ext.errors import ArtifactError


class MaskedDecoder(nn.Module):
    """Patches, most of them hidden, attend to each other and to a code, and become patches again.

    Args:
        patch: numbers of a patch, channels times cells.
        code: width of the code's rows.
        width: inside; a multiple of 4 and of `heads`.
        depth: blocks.
        heads: of every attention.
    """

    def __init__(self, patch: int, code: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.visible, self.told = nn.Linear(patch, width), nn.Linear(code, width)
        self.hidden = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, patch)

    def forward(self, patches: Tensor, kept: Tensor, code: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches `b n patch` in rows and columns of `grid`, which are visible `b n` bool, and a code `b q code` -> all
        patches `b n patch`. What is hidden is not read."""
        seen = self.visible(patches.masked_fill(~kept.unsqueeze(-1), 0.0))
        tokens = torch.where(kept.unsqueeze(-1), seen, self.hidden.to(seen))
        tokens = tokens + places(*grid, tokens.shape[-1]).to(tokens)
        told = self.told(code)
        for block in self.blocks:
            tokens = block(tokens, told)
        return self.out(self.norm(tokens))


def places(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of a grid's rows in the first half of `width`, and of its columns in the other,
    `rows*columns width`.

    Args:
        rows: of the grid.
        columns: of the grid.
        width: a multiple of 4; frequencies fall from 1 by powers of 10,000.
    """
    quarter = width // 4
    bands = 10_000.0 ** -(torch.arange(quarter) / quarter)
    down, across = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [count.flatten()[:, None] * bands for count in (down, across)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=-1)


def cut(latents: Tensor, side: int) -> tuple[Tensor, tuple[int, int]]:
    """Latents `b c h w` in patches of `side` cells, `b n c*side*side`, and the rows and columns of their grid.

    Raises:
        ArtifactError: `side` does not divide both sides of the latents.
    """
    height, width = latents.shape[2:]
    if height % side or width % side:
        raise ArtifactError(
            f"latents of {height} x {width} cells cannot be cut into patches of {side} x {side}; set patch with "
            "--config to a divisor of both."
        )
    cells = latents.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # b c rows side columns side
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), (height // side, width // side)


def visible(batch: int, count: int, masked: float, generator: torch.Generator | None) -> Tensor:
    """Which patches stay visible, `batch count` bool: in every row the same number, at other places.

    Args:
        batch: rows.
        count: patches of each.
        masked: share that is hidden, in [0, 1].
        generator: the only source of randomness.
    """
    order = torch.rand(batch, count, generator=generator).argsort(1).argsort(1)
    return order < round((1 - masked) * count)
