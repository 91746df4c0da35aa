"""Identity tokens in a transformer over space and time, which the clip's tokens see and which see only themselves."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[Tensor, Tensor]
"""Keys and values `b m d` of identity tokens in one block's self-attention, all heads side by side."""


def identity_pairs(denoiser: Any, tokens: Tensor, timesteps: Tensor) -> list[Pair]:
    """What every block's self-attention may look at of identity tokens that pass through the blocks by themselves.

    They go through each block's self-attention, in which they see one another and have no places, and its feed-forward
    network, modulated as the clip's tokens are. They look at no text and at nothing of the clip: in the joint sequence
    this is an attention whose mask forbids both (SUGAR, arXiv 2412.10533).

    Args:
        denoiser: Wan's transformer.
        tokens: `b m width`.
        timesteps: `b`.
    """
    told, pairs = _modulation(denoiser, tokens, timesteps), []
    for block in denoiser.blocks:
        shift, scale, gate, feed_shift, feed_scale, feed_gate = (block.scale_shift_table + told).chunk(6, dim=1)
        seen = (block.norm1(tokens.float()) * (1 + scale) + shift).to(tokens.dtype)
        attention = block.attn1
        keys, values = attention.norm_k(attention.to_k(seen)), attention.to_v(seen)
        pairs.append((keys, values))
        found = _attended(attention.norm_q(attention.to_q(seen)), keys, values, attention.heads)
        tokens = (tokens.float() + attention.to_out[0](found) * gate).to(tokens.dtype)
        fed = (block.norm3(tokens.float()) * (1 + feed_scale) + feed_shift).to(tokens.dtype)
        tokens = (tokens.float() + block.ffn(fed).float() * feed_gate).to(tokens.dtype)
    return pairs


def _modulation(denoiser: Any, tokens: Tensor, timesteps: Tensor) -> Tensor:
    """`b 6 width`: what every block adds its own table to."""
    embedder = denoiser.condition_embedder
    waves = embedder.timesteps_proj(timesteps).to(next(embedder.time_embedder.parameters()).dtype)
    told = embedder.time_proj(embedder.act_fn(embedder.time_embedder(waves).type_as(tokens)))
    return told.unflatten(1, (6, -1)).float()


def _attended(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """`b n d` and twice `b m d` -> `b n d`."""
    asked, told, found = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, keys, values))
    return F.scaled_dot_product_attention(asked, told, found).transpose(1, 2).flatten(2)


@contextlib.contextmanager
def seeing_identity(denoiser: Any, pairs: Sequence[Pair], strength: Tensor) -> Iterator[None]:
    """Inside, the clip's tokens look at identity tokens, too, in one softmax with each other.

    Args:
        denoiser: Wan's transformer.
        pairs: of every block.
        strength: `b`, between the plain attention, 0, whose rows stay to the bit, and this one, 1.
    """
    before = [block.attn1.processor for block in denoiser.blocks]
    try:
        for block, pair, own in zip(denoiser.blocks, pairs, before, strict=True):
            block.attn1.processor = _Seeing(own, pair, strength)
        yield
    finally:
        for block, own in zip(denoiser.blocks, before, strict=True):
            block.attn1.processor = own


class _Seeing:
    """A self-attention of the clip that has identity tokens behind its own."""

    def __init__(self, plain: Any, pair: Pair, strength: Tensor) -> None:
        self.plain, self.pair, self.strength = plain, pair, strength

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any, attention_mask: Any, rotary_emb: Any
    ) -> Tensor:
        own = self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        # Frame by frame every clip has several rows.
        rows = len(hidden_states) // len(self.strength)
        keys, values = (part.repeat_interleave(rows, 0) for part in self.pair)
        query = rotated(attn.norm_q(attn.to_q(hidden_states)), rotary_emb, attn.heads)
        clip_keys = rotated(attn.norm_k(attn.to_k(hidden_states)), rotary_emb, attn.heads)
        found = _attended(
            query,
            torch.cat([clip_keys, keys.to(clip_keys)], dim=1),
            torch.cat([attn.to_v(hidden_states), values.to(clip_keys)], dim=1),
            attn.heads,
        )
        strength = self.strength.repeat_interleave(rows, 0).to(own)[:, None, None]
        return own + strength * (attn.to_out[0](found).to(own) - own)


def rotated(states: Tensor, rotary: tuple[Tensor, Tensor], heads: int) -> Tensor:
    """`b n d` with pairs of numbers turned by the angles of their place (RoPE, arXiv 2104.09864): cosines and sines
    `1 n 1 d/heads`, each twice."""
    cosine, sine = (part[..., ::2] for part in rotary)
    first, second = states.unflatten(2, (heads, -1, 2)).unbind(-1)
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.to(states.dtype).flatten(2)
