"""Prompts of clips in which a word means something else in every frame."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import AbstractAdapter, FrameWordAdapter
from pcs_ext.image.adapters.vocabulary import token_positions
from pcs_ext.image.attention import AttentionMaps
from pcs_ext.image.sample import Predict
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbone import AbstractVideoBackbone


def clip_conditioning(
    backbone: AbstractVideoBackbone, adapters: Iterable[AbstractAdapter], prompt: str, frames: int
) -> Conditioning:
    """Conditioning of one clip: of one row, or of a row per frame where the prompt holds a word by frame.

    Raises:
        UsageError: more frames than such a word was learned for, or several such words.
    """
    words = [a for a in adapters if isinstance(a, FrameWordAdapter) and a.tokens[0] in prompt]
    if not words:
        return backbone.encode_prompt([prompt])
    if len(words) > 1:
        raise UsageError(f"prompt {prompt!r} holds {len(words)} words by frame; expected one.")
    with words[0].reading_frames(frames):
        return backbone.encode_prompt([prompt] * frames)


def by_frame(
    backbone: AbstractVideoBackbone, adapters: Iterable[AbstractAdapter], prompt: str, negative: str, frames: int
) -> Callable[[Predict], Predict] | None:
    """A wrapper of the denoiser that gives one clip's frames their own prompts; None where they have none."""
    own = clip_conditioning(backbone, adapters, prompt, frames)
    if own.batch_size == 1:
        return None
    guided = Conditioning.cat([backbone.encode_prompt([negative])[torch.zeros(frames, dtype=torch.long)], own])

    def wrap(inner: Predict) -> Predict:
        def predict(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            if conditioning.batch_size != len(latents):  # by frame already
                return inner(latents, timesteps, conditioning)
            return inner(latents, timesteps, guided if len(latents) == 2 else own)

        return predict

    return wrap


class WordMaps(AttentionMaps):
    """Where words look in the frames of one clip.

    Args:
        latents: of the clip, `1 c f h w`.
    """

    def __init__(self, latents: Tensor) -> None:
        rows, columns = latents.shape[-2:]
        super().__init__(side=max(2, min(rows, columns) // 4), size=(rows, columns))

    def of(self, backbone: AbstractVideoBackbone, tokens: tuple[str, ...], prompt: str) -> Tensor:
        """Attention to a word, the mean over its tokens, `1 f rows columns`.

        Raises:
            UsageError: the prompt is so long that the word is cut off.
        """
        at = token_positions(backbone, tokens, [prompt])[0]
        if not bool(at.any()):
            raise UsageError(f"prompt {prompt!r} is longer than the model reads: {tokens[0]} is cut off. Shorten it.")
        return self.maps()[:, at].mean(1)[None]
