"""A learned word pulled towards given words and away from others.

ReVersion (Huang et al. 2023, arXiv 2303.13495): towards prepositions, away from the caption's other words. Lego
(Motamed et al. 2023, arXiv 2311.13833): towards words for a concept, away from those for what has it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.layers import original
from pcs_ext.image.adapters.vocabulary import ExtendedTokenizer, TokenRows
from pcs_ext.image.terms.base import AbstractTerm, Step

PREPOSITIONS = tuple(
    "aboard about above across after against along among around as at before behind below beneath beside between "  # noqa: SIM905
    "beyond by down following for from in inside into like near of off on onto out over past to toward under "
    "underneath up upon with within without".split()
)

VERBS = tuple(
    "holding carrying wearing riding touching hugging kissing facing pushing pulling leaning hanging floating "  # noqa: SIM905
    "standing sitting lying painted carved printed wrapped filled covered hidden holds carries wears rides".split()
)


@config
class SteeringConfig:
    """InfoNCE between the learned row, words as positives, and the caption's other words as negatives."""

    kind: Literal["steering"] = "steering"
    """Tag of this term in JSON."""
    positives: int = 4
    """Prepositions drawn per caption."""
    verbs: int = 0
    """Verbs drawn per caption, positives as well (Inv-ReVersion); 0: none."""
    verb_weight: float = 0.5
    """What a verb counts where a preposition counts 1."""
    words: tuple[str, ...] = ()
    """Positives instead of prepositions, all of them; one of several tokens counts by their mean."""
    away: tuple[str, ...] = ()
    """Words that are negatives in addition."""
    adapters: tuple[str, ...] = ()
    """Whose rows are steered, by name; empty: those of all with words."""
    temperature: float = 0.07
    """Divides the cosines."""
    weight: float = 0.01
    """Of the term."""


class SteeringTerm(AbstractTerm):
    """-log(sum over positives / sum over positives and negatives) of exp(cosine / temperature), mean over captions.

    Differs from the paper: its list of prepositions is not known here, the list is ours, as is that of verbs, and of
    them those that are one token of the model are used.
    """

    name = "steering"

    def __init__(self, config: SteeringConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        losses: list[Tensor] = []
        for name, adapter in step.words().items():
            if self.config.adapters and name not in self.config.adapters:
                continue
            for index, rows in enumerate(adapter.rows()):
                if not isinstance(rows, TokenRows):
                    raise ConfigError("steering works on rows of adapters of kind embedding.")
                losses += self._of_encoder(step, index, rows.weight, adapter.tokens[0])
        if not losses:
            return torch.zeros((), device=step.backbone.device)
        return self.config.weight * torch.stack(losses).mean()

    def _of_encoder(self, step: Step, index: int, learned: Tensor, placeholder: str) -> list[Tensor]:
        tokenizer = step.backbone.tokenizers[index]
        assert isinstance(tokenizer, ExtendedTokenizer)
        embedding = original(step.backbone.text_encoders[index].get_input_embeddings())
        assert isinstance(embedding, nn.Embedding)
        given = [_row(tokenizer.base, embedding, word) for word in self.config.words]
        away = [_row(tokenizer.base, embedding, word) for word in self.config.away]
        prepositions = [] if given else single_tokens(tokenizer.base, PREPOSITIONS)
        verbs = single_tokens(tokenizer.base, VERBS) if self.config.verbs and not given else []
        own = [token for adapter in step.words().values() for token in adapter.tokens]
        losses = []
        for caption in step.batch.captions:
            if placeholder not in caption:
                continue
            text = caption
            for token in own:
                text = text.replace(token, " ")
            others = tokenizer.base(text, add_special_tokens=False).input_ids
            negatives = torch.cat([embedding.weight[others], *away])
            if given:
                positives, weights = torch.cat(given), None
            else:
                drawn = [*_some(prepositions, self.config.positives, step), *_some(verbs, self.config.verbs, step)]
                positives, weights = embedding.weight[drawn], torch.ones(len(drawn))
                weights[min(len(prepositions), self.config.positives) :] = self.config.verb_weight
            losses.append(info_nce(learned.mean(0), positives, negatives, self.config.temperature, weights))
        return losses


def _some(ids: list[int], count: int, step: Step) -> list[int]:
    """So many of them at random, or all; nothing is drawn of none."""
    return [ids[i] for i in torch.randperm(len(ids), generator=step.generator)[:count].tolist()] if ids else []


def _row(tokenizer: object, embedding: nn.Embedding, word: str) -> Tensor:
    """`1 d`, the mean over the word's tokens.

    Raises:
        ConfigError: it holds none.
    """
    ids = tokenizer(word, add_special_tokens=False).input_ids  # type: ignore[operator]
    if not ids:
        raise ConfigError(f"{word!r} holds no word, so there is nothing to steer by.")
    return embedding.weight[ids].mean(0, keepdim=True)


def single_tokens(tokenizer: object, words: tuple[str, ...]) -> list[int]:
    """Ids of the words that are one token.

    Raises:
        ConfigError: none is.
    """
    pieces = [tokenizer(word, add_special_tokens=False).input_ids for word in words]  # type: ignore[operator]
    ids = [ids[0] for ids in pieces if len(ids) == 1]
    if not ids:
        raise ConfigError(
            f"none of {', '.join(words[:5])}, ... is one token of this base, so there is nothing to steer towards."
        )
    return ids


def info_nce(
    anchor: Tensor, positives: Tensor, negatives: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """InfoNCE with several positives, 0-d.

    Args:
        anchor: `d`.
        positives, negatives: `p d` and `n d`; n may be 0.
        temperature: divides the cosines.
        weights: times the exponentials of the positives, `p`, at least one positive; None: all 1.
    """
    with torch.autocast(anchor.device.type, enabled=False):  # a temperature makes much of small differences
        cosines = F.normalize(torch.cat([positives, negatives]).float(), dim=-1) @ F.normalize(anchor.float(), dim=-1)
    logits = cosines / temperature
    if weights is not None:
        logits = torch.cat([logits[: len(weights)] + weights.to(logits).log(), logits[len(weights) :]])
    return logits.logsumexp(0) - logits[: len(positives)].logsumexp(0)
