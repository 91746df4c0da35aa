"""Attention to a subject's word, held to where the subject is (FastComposer, arXiv 2305.10431, section 3.3)."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.attention import attention_program, token_grid
from pcs_ext.image.backbone import AbstractBackbone


@contextlib.contextmanager
def localized(
    backbone: AbstractBackbone, rows: Sequence[int], tokens: Sequence[int], masks: Tensor, levels: int
) -> Iterator[Callable[[], Tensor]]:
    """Inside, the base predicts for a batch; yields what asks `localization` of it afterwards.

    Args:
        backbone: predicts.
        rows: of every one of `m` words, its row of the batch; at least one.
        tokens: where it stands in that row's prompt.
        masks: `m rows columns` in [0, 1], of its subject.
        levels: see `middle_paths`.
    """
    looks: dict[str, Tensor] = {}
    at, place = torch.tensor(rows), torch.tensor(tokens)

    def keep(path: str, probabilities: Tensor) -> Tensor:
        # Heads `m h cells` of the words that have a picture.
        looks[path] = probabilities[at.to(probabilities.device), :, :, place.to(probabilities.device)]
        return probabilities

    with attention_program(backbone, keep, middle_paths(backbone, levels)):
        yield lambda: localization(looks, masks.to(backbone.device))


def localization(looks: Mapping[str, Tensor], masks: Tensor) -> Tensor:
    """Mean attention outside of a subject's mask less the mean inside, over heads, words and layers (0-d).

    Args:
        looks: by layer, probabilities `m h cells` of words.
        masks: `m rows columns` in [0, 1], of each word's subject.
    """
    losses = []
    for probabilities in looks.values():
        grid = token_grid(probabilities.shape[-1], (masks.shape[1], masks.shape[2]))
        inside = F.interpolate(masks[:, None], size=grid, mode="bilinear", antialias=True).flatten(2)
        looked, outside = probabilities.float(), 1 - inside
        losses.append(_mean(looked, outside).mean() - _mean(looked, inside).mean())
    return torch.stack(losses).mean()


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum(-1) / weights.sum(-1).clamp_min(1e-5)


def middle_paths(backbone: AbstractBackbone, levels: int) -> list[str]:
    """Cross-attentions of the middle blocks: outermost blocks are left out on both sides alike."""
    paths = backbone.cross_attention_paths()
    blocks = list(dict.fromkeys(path.split(".attentions.")[0] for path in paths))
    first = max(0, (len(blocks) - levels) // 2)
    chosen = blocks[first : first + levels]
    return [path for path in paths if path.split(".attentions.")[0] in chosen]
