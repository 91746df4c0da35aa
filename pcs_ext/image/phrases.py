"""Where words stand among a prompt's tokens, and which tokens of two prompts belong together."""

import dataclasses
import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import tokenize
from pcs_ext.image.prompt_programs import read_text


def phrase_positions(backbone: AbstractBackbone, prompt: str, phrase: str, *, behind: str = "") -> tuple[int, ...]:
    """Indices among the prompt's tokens (0 is the start mark) of a phrase's first occurrence.

    Compared by token ids, so words that the tokenizer splits, and learned tokens of several vectors, are found whole.

    Args:
        backbone: whose tokenizer reads.
        prompt: the text.
        phrase: words of it.
        behind: beginning of the prompt in which the phrase is not meant.

    Raises:
        UsageError: the phrase is empty, does not stand in the prompt, or lies behind the encoder's limit.
    """
    tokenizer = backbone.tokenizers[0]
    wanted = tokenizer(read_text(backbone, phrase), add_special_tokens=False).input_ids
    whole = tokenizer(read_text(backbone, prompt), add_special_tokens=False).input_ids
    # A phrase with a mark means the noun behind that mark, not the first one that reads alike.
    marked = read_text(backbone, phrase) != phrase and phrase in prompt
    before = read_text(backbone, prompt[: prompt.find(phrase)] if marked else behind)
    first = len(tokenizer(before, add_special_tokens=False).input_ids)
    for start in range(first, len(whole) - len(wanted) + 1) if wanted else ():
        if whole[start : start + len(wanted)] == wanted:
            if start + len(wanted) + 2 > tokenizer.model_max_length:
                raise UsageError(
                    f"{phrase!r} stands behind the {tokenizer.model_max_length - 2} tokens that the text encoder "
                    f"reads of {prompt!r}; put it further to the front."
                )
            return tuple(range(start + 1, start + 1 + len(wanted)))
    raise UsageError(f"{phrase!r} does not stand in the prompt {prompt!r}; expected words of it, as they stand there.")


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Which tokens of a source prompt belong to which of a target prompt, both padded to one length."""

    groups: int
    source: Tensor
    """Group of every source token, int64 `n`."""
    target: Tensor
    """Group of every target token, int64 `n`; every group has tokens on both sides."""

    def move(self, source: Tensor, target: Tensor) -> Tensor:
        """Cross-attention `... n` of the source prompt in terms of the target's tokens; rows keep their sums.

        A token with one counterpart gets its attention. Several tokens that stand for others ("dog" for "sks dog")
        share the attention of those, in the proportions they have in `target`.
        """
        to_groups = torch.nn.functional.one_hot(torch.stack([self.source, self.target]), self.groups).to(source)
        mass, own = source @ to_groups[0], target @ to_groups[1]
        share = target / own.clamp_min(torch.finfo(source.dtype).tiny).index_select(-1, self.target.to(source.device))
        return share * mass.index_select(-1, self.target.to(source.device))


def align(backbone: AbstractBackbone, source: str, target: str) -> Alignment:
    """Tokens that both prompts have in the same order belong together; what stands between them does, too.

    Differs from Prompt-to-Prompt (Hertz et al. 2022, arXiv 2208.01626), where new words keep their own attention: here
    they take part in that of the word they stand before, so that rows keep their sums. Padding belongs to padding.
    """
    rows = tokenize(backbone.tokenizers[0], [read_text(backbone, source), read_text(backbone, target)])
    ends = [_end(ids, backbone.tokenizers[0].eos_token_id) for ids in rows.tolist()]
    cut = [ids[: end + 1] for ids, end in zip(rows.tolist(), ends, strict=True)]
    groups = torch.zeros_like(rows)
    number = 0
    for tag, a, b, c, d in difflib.SequenceMatcher(None, cut[0], cut[1], autojunk=False).get_opcodes():
        if tag == "equal":
            groups[0, a:b] = groups[1, c:d] = torch.arange(number, number + b - a)
            number += b - a
        else:
            groups[0, a:b], groups[1, c:d] = number, number
            # Words that the other prompt lacks share the place of the word that follows them: "dog" in "sks dog".
            number += tag == "replace"
    for row, end in enumerate(ends):
        groups[row, end + 1 :] = number
    return Alignment(number + 1, groups[0], groups[1])


def _end(ids: Sequence[int], eos: int) -> int:
    return ids.index(eos) if eos in ids else len(ids) - 1
