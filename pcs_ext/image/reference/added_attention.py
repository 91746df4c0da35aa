"""A cross-attention whose answer is added to the cells that ask, and is nothing before training."""

import torch.nn.functional as F
from torch import Tensor, nn


class AddedAttention(nn.Module):
    """What cells find in tokens; the output map begins at zero.

    DreamTuner's subject encoder attention (S-E-A, arXiv 2312.13691), and Re-Imagen's attention to neighbours (arXiv
    2209.14491), which also norms what it reads.

    Args:
        width: of the cells.
        context: of the tokens.
        heads: as many as divide the width, at most.
        norms_tokens: whether it does.
    """

    def __init__(self, width: int, context: int, heads: int, *, norms_tokens: bool = False) -> None:
        super().__init__()
        self.heads = next(count for count in range(heads, 0, -1) if width % count == 0)
        self.norm = nn.LayerNorm(width)
        self.told = nn.LayerNorm(context) if norms_tokens else nn.Identity()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(context, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, cells: Tensor, tokens: Tensor) -> Tensor:
        """What is added to the cells: `b n width` and `b m context` -> `b n width`, in the tokens' precision."""
        parts = (self.to_q(self.norm(cells.to(tokens.dtype))), *self.to_kv(self.told(tokens)).chunk(2, -1))
        query, key, value = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in parts)
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
