"""DCI: early in sampling the base lays out what a prompt says, and the subject joins it where it is looked for.

Jin et al. 2024, arXiv 2412.04831; the numbers are the released code's. Its other half, words that take in what is
particular to each photo, is the recipe `dci`. Differs from the code: weights are means over heads, the auxiliary branch
is the base itself unless told otherwise (the code runs the tuned model for both), and has a negative prediction of its
own.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.attention_edits import AttentionEdit, Capture, with_rows
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.duet import duet, set_scale
from pcs_ext.image.prompt_programs import read_text
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import SampleConfig, SampleHooks, initial_noise, sample
from pcs_ext.runtime import seed_for

_SHARP, _STRONG = 10.0, 500.0
"""What the released code multiplies attention by before it takes shares of words and of places."""


@config
class DciConfig:
    """How the branches come together."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Of both branches."""
    last: float = 0.3
    """Share of the sampling, from pure noise on, in which they come together, in [0, 1]."""
    context: float = 0.0
    """lambda: how much places where the base looks for other words than the noun count for the base; 0 is the code's
    default, -2 to 2 are usual."""
    auxiliary: Literal["base", "tuned"] = "base"
    """Whose weights draw the other branch: the plain base's, or the subject's under the plain noun."""

    def __post_init__(self) -> None:
        if not 0 <= self.last <= 1:
            raise ConfigError(f"last {self.last} is out of range; expected a share in [0, 1].")


def dci(preset: Preset) -> DciConfig:
    """The first 0.3 of 200 DDIM steps at guidance 6, lambda 0. `toybox`: 25 steps."""
    small = preset == "toybox"
    return DciConfig(
        id="dci",
        sampling=SampleConfig(
            scheduler="ddim", num_inference_steps=25 if small else 200, guidance_scale=5.0 if small else 6.0
        ),
    )


@torch.no_grad()
def sample_integrated(
    backbone: AbstractBackbone,
    adapters: Sequence[AbstractAdapter],
    prompt: str,
    plain: str,
    own: Sequence[int],
    noun: Sequence[int],
    *,
    seed: int,
    config: DciConfig,
    negative_prompt: str = "",
) -> Tensor:
    """A picture of a subject, `1 3 h w` in [-1, 1], float32 on the CPU.

    Args:
        backbone: with the adapters injected.
        adapters: the subject's.
        prompt: with its words.
        plain: the same with its noun.
        own: tokens of its words in `prompt`.
        noun: tokens of the noun in `plain`.
        seed: of the noise; the base's branch has its own.
        config: how; `last` 0 is plain sampling of the subject.
        negative_prompt: what to stay away from.
    """
    guided = config.sampling.guidance_scale != 1.0
    shape = initial_noise(backbone, [seed], config.sampling).shape
    pixels = (shape[-2] * backbone.vae_factor, shape[-1] * backbone.vae_factor)
    players = adapters if config.auxiliary == "base" else []
    set_scale(players, 0.0)
    told = backbone.encode_pair(negative_prompt if guided else None, plain, size=pixels)
    set_scale(players, 1.0)
    merge = Integration(
        own, _length(backbone, prompt), noun, _length(backbone, plain), row=int(guided), context=config.context
    )
    paths, last = backbone.cross_attention_paths(), config.last
    hooks = SampleHooks(
        predict=duet(
            backbone, players, told,
            base=[
                AttentionEdit(program=merge.base_maps, paths=paths, last=last),
                AttentionEdit(program=merge.base_outputs, paths=paths, at="output", last=last),
            ],
            subject=[
                AttentionEdit(program=merge.weigh, paths=paths, last=last),
                AttentionEdit(program=merge.mix, paths=paths, at="output", last=last),
            ],
            guided=guided, last=last,
        )
    )  # fmt: skip
    both = sample(
        backbone, [plain, prompt], seeds=[seed_for(seed, "auxiliary"), seed], config=config.sampling,
        negative_prompts=[negative_prompt] * 2, hooks=hooks,
    )  # fmt: skip
    return both[1:]


def _length(backbone: AbstractBackbone, prompt: str) -> int:
    """Tokens of a prompt as the encoder reads it, where learned words may be marks."""
    return backbone.token_count(read_text(backbone, prompt))


class Integration:
    """Programs on cross-attention that mix the base's answers into the subject's, cell by cell.

    Args:
        own: tokens of the subject's words in its prompt of `own_length` tokens.
        noun: tokens of the noun in the base's prompt of `noun_length` tokens.
        row: of the batch that is told the prompts; the others stay.
        context: lambda.
    """

    def __init__(
        self, own: Sequence[int], own_length: int, noun: Sequence[int], noun_length: int, *, row: int, context: float
    ) -> None:
        self.own, self.own_length, self.noun, self.noun_length = list(own), own_length, list(noun), noun_length
        self.row, self.context = row, context
        self.base_maps, self.base_outputs = Capture([row]), Capture([row])
        self._shares: dict[str, Tensor] = {}

    def weigh(self, path: str, probabilities: Tensor) -> Tensor:
        """Keep how much of each cell is the subject's."""
        base = self.base_maps.seen[path][0]
        concept = word_share(probabilities[self.row], self.own, self.own_length)
        rest = 1 - word_share(base, self.noun, self.noun_length)
        self._shares[path] = subject_share(concept, rest, self.context).mean(0)
        return probabilities

    def mix(self, path: str, output: Tensor) -> Tensor:
        """The subject's answer to its share, the base's to the rest."""
        share = self._shares.pop(path)[:, None].to(output)
        base = self.base_outputs.seen[path][0].to(output)
        return with_rows(output, [self.row], torch.lerp(base, output[self.row], share)[None])


def word_share(probabilities: Tensor, positions: Sequence[int], length: int) -> Tensor:
    """Share that some words have of a sharpened attention to the prompt's own tokens, in [0, 1].

    Args:
        probabilities: `heads cells keys`; the first key is the start mark.
        positions: of the words.
        length: tokens of the prompt, without its marks.
    """
    sharp = (_SHARP * probabilities[..., 1 : 1 + length].float()).softmax(-1)
    return sharp[..., [position - 1 for position in positions]].sum(-1)


def subject_share(concept: Tensor, rest: Tensor, context: float) -> Tensor:
    """How much of each cell is the subject's, `heads cells` in (0, 1): softmax over the branches of strengths by place.

    Args:
        concept: where the subject's words are looked for, `heads cells`.
        rest: where the base looks for anything but the noun, likewise.
        context: lambda, weight of the latter.
    """
    ours, theirs = (_STRONG * (_SHARP * looks).softmax(-1) for looks in (concept, rest))
    return torch.sigmoid(ours - context * theirs)
