"""Attention cell by cell, to hold what was made faster against."""

import math

import torch
from torch import Tensor


def looked(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Attention written out, cell by cell: `n d`, `m d`, `m d` -> `n d`."""
    width = query.shape[1] // heads
    out = torch.zeros_like(query)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for cell in range(len(query)):
            weights = (keys[:, part] @ query[cell, part] / math.sqrt(width)).softmax(0)
            out[cell, part] = weights @ values[:, part]
    return out
