"""Subjects, their words, and attention that stays on them (FastComposer, arXiv 2305.10431, section 3.3)."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.attention import attention_program, token_grid
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import Terms
from pcs_ext.image.reference.fusing import Places
from pcs_ext.image.reference.nouns import names, noun_positions
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Shown


@contextlib.contextmanager
def held_to_masks(
    backbone: AbstractBackbone, pairs: Pairs, places: Places, *, weight: float, levels: int
) -> Iterator[Terms]:
    """Inside, the base predicts for a batch; yields the term `localization`, none where nothing can be held.

    Args:
        backbone: predicts.
        pairs: the batch.
        places: words, and by `pictures` the mask that each is held to.
        weight: of the term.
        levels: blocks with cross-attention that are held, the middle ones.
    """
    if pairs.masks is None or not places.rows or weight == 0:
        yield dict
        return
    looks: dict[str, Tensor] = {}
    rows, tokens = torch.tensor(places.rows), torch.tensor(places.tokens)

    def keep(path: str, probabilities: Tensor) -> Tensor:
        # Heads `m h cells` of the words that have a picture.
        looks[path] = probabilities[rows.to(probabilities.device), :, :, tokens.to(probabilities.device)]
        return probabilities

    masks = pairs.masks[rows, torch.tensor(places.pictures)].to(backbone.device)
    with attention_program(backbone, keep, middle_paths(backbone, levels)):
        yield lambda: {"localization": weight * localization(looks, masks)}


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


def placed(backbone: AbstractBackbone, prompts: Sequence[str], shown: Shown) -> tuple[Places, Tensor]:
    """Where the nouns stand, and `b r width`: of each picture the mean over those of the same noun."""
    rows, tokens, pictures = [], [], []
    embeddings = shown.sight.features.clone()
    for row, seen in enumerate(shown.rows):
        for noun in dict.fromkeys(shown.nouns[row]):
            if not seen or not names(prompts[row], noun):
                continue
            own = [index for index, other in enumerate(shown.nouns[row]) if other == noun]
            embeddings[row, own[0]] = shown.sight.features[row, own].mean(0)
            found = noun_positions(backbone, prompts[row], noun)
            rows += [row] * len(found)
            tokens += found
            pictures += [own[0]] * len(found)
    return Places(rows, tokens, pictures), embeddings
