"""A learned word and the rest of the text, looked at alike (PersonaMagic, Li et al. 2024, arXiv 2412.15674)."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.layers import original_modules
from pcs_ext.image.adapters.vocabulary import token_positions
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.terms.base import AbstractTerm, Step

TEMPLATES = (
    "a photo of {subject} on the beach",
    "a photo of {subject} in the snow",
    "a photo of {subject} wearing a red hat",
    "a painting of {subject} in the mountains at night",
    "{subject} reading a book on a table",
    "{subject} riding a motorcycle through the city",
    "a pencil sketch of {subject} in a jungle",
    "{subject} as a knight in armor",
)


@config
class EquilibriumConfig:
    """Tandem equilibrium: the text encoder's last self-attention, of prompts like those that will be asked."""

    kind: Literal["equilibrium"] = "equilibrium"
    """Tag of this term in JSON."""
    templates: tuple[str, ...] = TEMPLATES
    """Prompts, one is drawn per step; ours."""
    sharpness: float = 100.0
    """Times the attentions, before their softmax; the released code's."""
    weight: float = 1e-3
    """The released code's."""

    def __post_init__(self) -> None:
        if not self.templates or not all(SUBJECT in template for template in self.templates):
            raise ConfigError(f"every template of an equilibrium says {SUBJECT}, and there must be one.")


class EquilibriumTerm(AbstractTerm):
    """-weight * a * (1 - a), a being the word's share against the other word that is looked at most.

    a is the mean over heads and queries of softmax(sharpness * [A_word, A_other]), of the word's token that is looked
    at most; -weight / 4 at best, where both are looked at alike. Of the first text encoder, and of timesteps of the
    step where the word depends on them: the first one's.
    """

    name = "equilibrium"

    def __init__(self, config: EquilibriumConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        drawn = int(torch.randint(len(self.config.templates), (), generator=step.generator))
        shares: list[Tensor] = []
        for adapter in step.words().values():
            prompt = self.config.templates[drawn].replace(SUBJECT, adapter.tokens[0])
            maps = self._maps(step, prompt)
            read = min(len(step.backbone.tokenizers[0](prompt).input_ids), maps.shape[-1])
            own = token_positions(step.backbone, adapter.tokens, [prompt])[0].nonzero().flatten().tolist()
            others = [at for at in range(1, read - 1) if at not in own]
            if own and others:
                shares.append(share(maps, own, others, self.config.sharpness))
        if not shares:
            raise ConfigError("an equilibrium needs a learned word that is one or more tokens of its prompts.")
        told = torch.stack(shares)
        return -self.config.weight * (told * (1 - told)).mean()

    def _maps(self, step: Step, prompt: str) -> Tensor:
        """Attention of the last layer, `heads n n`; differentiable."""
        noised = step.noised
        with _last_projections(step.backbone.text_encoders[0]) as (found, attention):
            told = step.backbone.encode_prompt([prompt])
            if told.per_layer is not None and noised is not None:
                found.clear()
                told.at(noised.timesteps[:1], step.backbone.cross_attention_paths()[0])
            return _attention(found, attention)


def share(maps: Tensor, own: Sequence[int], others: Sequence[int], sharpness: float) -> Tensor:
    """The word's share, 0-d in [0, 1].

    Args:
        maps: attention `heads queries keys`.
        own, others: keys of the word and of the other words.
        sharpness: times the attentions.
    """
    word, other = (maps[..., list(at)] for at in (own, others))
    both = torch.stack([looked[..., looked.sum((0, 1)).argmax()] for looked in (word, other)], dim=-1)
    return (sharpness * both).softmax(-1)[..., 0].mean()


@contextlib.contextmanager
def _last_projections(encoder: nn.Module) -> Iterator[tuple[dict[str, Tensor], nn.Module]]:
    """Inside, the queries and keys of the last self-attention are kept, by `q` and `k`."""
    attention = [module for path, module in original_modules(encoder) if path.endswith(".self_attn")][-1]
    found: dict[str, Tensor] = {}

    def keeping(name: str):
        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            found[name] = output

        return keep

    handles = [getattr(attention, f"{name}_proj").register_forward_hook(keeping(name)) for name in ("q", "k")]
    try:
        yield found, attention
    finally:
        for handle in handles:
            handle.remove()


def _attention(found: dict[str, Tensor], attention: nn.Module) -> Tensor:
    """softmax(q k / sqrt(width)) of what precedes each query, of the first prompt, `heads n n`, float32."""
    heads = int(attention.num_heads)  # type: ignore[arg-type]
    queries, keys = (found[name][0].float().unflatten(-1, (heads, -1)).transpose(0, 1) for name in ("q", "k"))
    scores = queries @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5
    later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, float("-inf")).softmax(-1)
