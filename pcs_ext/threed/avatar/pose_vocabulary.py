"""The words a pose model knows: runs of one to three words of its captions, each with an entry of its own."""

import re
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

_LONGEST = 3
"""Words in a row."""


class PoseVocabulary:
    """Runs of words and their entries; what is no run of it says nothing.

    Args:
        runs: in the order of their entries, which begin at 1; 0 fills up, and no run has it.
    """

    def __init__(self, runs: Sequence[str]) -> None:
        self.runs = tuple(runs)
        self._entries = {run: entry for entry, run in enumerate(self.runs, 1)}

    @staticmethod
    def of(texts: Iterable[str]) -> "PoseVocabulary":
        """All runs of some texts, sorted."""
        return PoseVocabulary(sorted({run for text in texts for run in _runs(_words(text))}))

    @property
    def size(self) -> int:
        """Of a table with all entries, the one that fills up among them."""
        return len(self.runs) + 1

    def read(self, texts: Sequence[str]) -> Tensor:
        """Entries `b n` of the runs in texts. Unknown words are passed over as if they were not there."""
        known = [[word for word in _words(text) if word in self._entries] for text in texts]
        rows = [[self._entries[run] for run in _runs(words) if run in self._entries] for words in known]
        longest = max([1, *(len(row) for row in rows)])
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows]).view(len(rows), longest)

    def unknown(self, text: str) -> list[str]:
        """Words of a text that are in no run, each once, in their order."""
        return [word for word in dict.fromkeys(_words(text)) if word not in self._entries]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def _runs(words: Sequence[str]) -> Iterator[str]:
    for size in range(1, _LONGEST + 1):
        for start in range(len(words) - size + 1):
            yield " ".join(words[start : start + size])
