"""A learned word beside which other words mean what they did (CoRe, Wu et al. 2024, arXiv 2408.15914)."""

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.tokens import TokenAdapter
from pcs_ext.image.adapters.vocabulary import token_positions
from pcs_ext.image.attention import TokenMeans, attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.terms.base import AbstractTerm, Step
from pcs_ext.image.types import Conditioning

CONTEXT_TEMPLATES = (
    *(f"a {{subject}} {place}" for place in (
        "on the beach", "in the snow", "on the grass", "in the desert", "at night", "in a room", "on a table",
        "in a city", "under water", "in the mountains", "in the jungle", "in front of a house",
    )),
    *(f"a {colour} {{subject}} seen from {view}" for colour, view in (
        ("red", "the top"), ("blue", "the side"), ("green", "the front"), ("yellow", "behind"), ("purple", "the side"),
        ("black", "the top"), ("white", "the front"),
    )),
    *(f"{style} of a {{subject}}" for style in (
        "a pencil sketch", "pixel art", "an oil painting", "flat vector art", "a watercolor painting",
        "a black and white photo", "an abstract painting", "a clay figure",
    )),
    *(f"a {{subject}} style {thing}" for thing in ("house", "mug", "car", "boat", "robot")),
    *(f"a {{subject}} wearing {thing}" for thing in ("a hat", "a red scarf", "glasses", "a crown")),
)  # fmt: skip
"""Places, colours, styles, things in the subject's style, and clothes: the kinds of the paper's 100 prompts."""


@config
class ContextConfig:
    """Prompts with the learned word, held to the same prompts with the class noun, at all words but those two."""

    kind: Literal["context"] = "context"
    """Tag of this term in JSON."""
    noun: str
    """The class noun, "dog"."""
    templates: tuple[str, ...] = CONTEXT_TEMPLATES
    """One is drawn per step; no photos of them are needed."""
    embedding_weight: float = 1.5e-4
    """Of the distance of text states (the paper's)."""
    attention_weight: float = 0.05
    """Of the distance of mean attention (the paper's); 0 spares two passes of the denoiser per step."""

    def __post_init__(self) -> None:
        if not self.noun.strip() or not self.templates or not all(SUBJECT in text for text in self.templates):
            raise ConfigError(
                f"a context needs a noun and templates with {SUBJECT} in each; got {self.noun!r} and "
                f"{list(self.templates)}."
            )


@dataclasses.dataclass(frozen=True)
class Pair:
    """A prompt about the word, the same about the noun, and where their other words are."""

    own: str
    other: str
    own_at: Tensor
    """Positions in the padded prompt, `m`."""
    other_at: Tensor
    """`m`, in the same order."""


class ContextTerm(AbstractTerm):
    """Mean of 1 - cos of the text states (equation 3) and squared difference of the mean attention (equation 4).

    The mean attention of a word is that over all cells, heads and cross-attentions. All positions of a padded prompt
    count but the word's and the noun's.

    Differs from the paper: the list of prompts is ours.
    """

    name = "context"

    def __init__(self, config: ContextConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        losses: list[Tensor] = []
        for adapter in step.words().values():
            drawn = int(torch.randint(len(self.config.templates), (), generator=step.generator))
            pair = pair_of(step.backbone, adapter, self.config.templates[drawn], self.config.noun)
            own = step.backbone.encode_prompt([pair.own])
            with torch.no_grad():
                other = step.backbone.encode_prompt([pair.other])
            losses.append(self.config.embedding_weight * state_distance(own.states[0], other.states[0], pair))
            if self.config.attention_weight > 0:
                losses.append(self.config.attention_weight * self._attention(step, pair, own, other))
        return torch.stack(losses).sum()

    def _attention(self, step: Step, pair: Pair, own: Conditioning, other: Conditioning) -> Tensor:
        means = token_means(step, own)
        with torch.no_grad():
            wanted = token_means(step, other)
        return (means[:, pair.own_at] - wanted[:, pair.other_at]).square().mean()


def pair_of(backbone: AbstractBackbone, adapter: TokenAdapter, template: str, noun: str) -> Pair:
    """The two prompts of a template, their other words matched one by one."""
    own, other = template.replace(SUBJECT, adapter.tokens[0]), template.replace(SUBJECT, noun)
    is_own = token_positions(backbone, adapter.tokens, [own])[0]
    first = int(is_own.nonzero()[0])
    length = len(backbone.tokenizers[0](noun, add_special_tokens=False).input_ids)
    is_other = torch.zeros_like(is_own)
    is_other[first : first + length] = True
    own_at, other_at = (~is_own).nonzero()[:, 0], (~is_other).nonzero()[:, 0]
    count = min(len(own_at), len(other_at))  # the longer word pushes padding out of the prompt
    return Pair(own, other, own_at[:count], other_at[:count])


def state_distance(own: Tensor, other: Tensor, pair: Pair) -> Tensor:
    """Mean of 1 - cos over the other words, 0-d, of text states `n d`."""
    return (1 - F.cosine_similarity(own[pair.own_at].float(), other[pair.other_at].float(), dim=-1)).mean()


def token_means(step: Step, conditioning: Conditioning) -> Tensor:
    """Mean attention that each position of one prompt gets while the step's latents are denoised, `b n`."""
    asked, means = step.asked(), TokenMeans()
    told = Conditioning.cat([conditioning] * len(asked.latents))
    with attention_program(step.backbone, means):
        step.backbone.predict(asked.latents, asked.timesteps, told)
    return means.means()
