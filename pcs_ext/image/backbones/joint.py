"""Two attentions whose scores share one softmax, put together from their results.

softmax([S1, S2]) [V1; V2] is what either finds by itself, weighed by the sums of its exponentiated scores. So the first
one's processor is not touched, and a strength that multiplies the second sum leaves the first as it is at 0.
"""

import torch
from torch import Tensor

from pcs_ext.image.backbones.cpu_attention import attend


def joint_attention(
    mixed: Tensor,
    own: tuple[Tensor, Tensor],
    other: tuple[Tensor, Tensor, Tensor],
    strength: Tensor,
    scale: float,
    opened: Tensor | None = None,
) -> Tensor:
    """What one softmax over both finds. Differentiable.

    Args:
        mixed: what the first attention found, `b heads n d`.
        own: its queries `b heads n d` and keys `b heads m d`.
        other: queries, keys and values of the second, `b heads n d`, `b heads k d` twice.
        strength: `b`, of the second; 1 is the plain joint softmax, 0 the first attention to the bit; or `b k`, of each
            of its keys.
        scale: of both scores.
        opened: `b 1 n k` bool, which of the second's keys each query may look at; None: all. Queries that may look at
            none keep what the first found.
    """
    query, key, value = other
    first = torch.logsumexp(scores(*own, scale), -1)
    if strength.dim() == 2:
        assert opened is None, "rows that are weighed one by one are open to all"
        return _weighed(mixed, first, other, strength, scale)
    looked = scores(query, key, scale)
    if opened is None:
        found = attend(query, key, value, scale)
    else:
        looked = looked.masked_fill(~opened, torch.finfo(looked.dtype).min)
        found = looked.softmax(-1).to(value.dtype) @ value
    second = torch.logsumexp(looked, -1) + strength.log().to(first)[:, None, None]
    share = torch.sigmoid(second - first).unsqueeze(-1).to(mixed.dtype)
    return torch.lerp(mixed, found.to(mixed.dtype), share)


def _weighed(
    mixed: Tensor, first: Tensor, other: tuple[Tensor, Tensor, Tensor], strength: Tensor, scale: float
) -> Tensor:
    """`joint_attention` with a strength for each key: exp(score) counts so often."""
    query, key, value = other
    # So little that nothing is left of it in float32, and not minus infinity, where gradients end.
    raised = scores(query, key, scale) + strength.float().clamp_min(1e-30).log()[:, None, None]
    found = raised.softmax(-1).to(mixed.dtype) @ value.to(mixed.dtype)
    share = torch.sigmoid(torch.logsumexp(raised, -1) - first)
    return torch.lerp(mixed, found, share.unsqueeze(-1).to(mixed.dtype))


def in_heads(x: Tensor, heads: int) -> Tensor:
    """`b n d` -> `b heads n d/heads`."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def side_by_side(x: Tensor) -> Tensor:
    """Inverse of `in_heads`."""
    return x.transpose(1, 2).flatten(2)


def scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Before the softmax, `b heads n m`, in float32 whatever autocast says: sums of exponentials are compared."""
    with torch.autocast(query.device.type, enabled=False):
        return scale * (query.float() @ key.float().transpose(-1, -2))
