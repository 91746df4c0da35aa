"""Pictures whose captions are most like a text (BM25, Robertson and Zaragoza 2009, as Re-Imagen retrieves them).

score = sum over the text's words of idf(word) f (k + 1) / (f + k (1 - b + b length / mean length)), f being how often a
caption has the word, and idf(word) = log(1 + (n - m + 1/2) / (m + 1/2)) of n captions m of which have it.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.errors import PhotoError, UsageError
from pcs_ext.image.data.photos import SUFFIXES

SATURATION, LENGTH_WEIGHT = 1.2, 0.75
"""k and b, as usual."""


class CaptionIndex:
    """Captions, ready to be searched.

    Args:
        captions: one of each picture.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        self.counts = [Counter(words_of(caption)) for caption in captions]
        self.lengths = [sum(count.values()) for count in self.counts]
        self.mean = sum(self.lengths) / max(1, len(self.lengths))
        self.having = Counter(word for count in self.counts for word in count)

    def scores(self, text: str) -> list[float]:
        """How much each caption is like a text, 0 where they share no word."""
        return [self._score(set(words_of(text)), number) for number in range(len(self.counts))]

    def nearest(self, text: str, count: int, *, without: int | None = None) -> list[int]:
        """Numbers of the captions that are most like a text, the most like first; of equals the earlier.

        Args:
            text: what is looked for.
            count: how many at most.
            without: number of a caption that is passed over.
        """
        scores = self.scores(text)
        order = sorted((number for number in range(len(scores)) if number != without), key=lambda n: -scores[n])
        return order[:count]

    def _score(self, words: set[str], number: int) -> float:
        own, total = self.counts[number], len(self.counts)
        damping = SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * self.lengths[number] / (self.mean or 1))
        score = 0.0
        for word in sorted(words & own.keys()):
            rarity = math.log(1 + (total - self.having[word] + 0.5) / (self.having[word] + 0.5))
            score += rarity * own[word] * (SATURATION + 1) / (own[word] + damping)
        return score


def words_of(text: str) -> list[str]:
    """Its words, in lower case."""
    return re.findall(r"\w+", text.lower())


def retrieved_groups(captions: Sequence[str], count: int) -> list[Tensor]:
    """For each picture its row and those of the pictures whose captions are most like its own.

    Args:
        captions: of all.
        count: how many beside it.
    """
    index = CaptionIndex(captions)
    return [
        torch.tensor([row, *index.nearest(caption, count, without=row)]) for row, caption in enumerate(captions)
    ]  # fmt: skip


def retrieve(folder: Path, prompt: str, *, count: int = 2) -> list[Path]:
    """The photos of a folder and its subfolders whose captions, `NAME.txt` beside them, are most like a prompt.

    Args:
        folder: of the photos.
        prompt: what is looked for.
        count: how many.

    Raises:
        UsageError: fewer than one is asked for.
        PhotoError: no photo there has a caption, or none shares a word with the prompt.
    """
    if count < 1:
        raise UsageError(f"--count must be at least 1, got {count}.")
    if not folder.is_dir():
        raise PhotoError(f"{folder} is no folder; expected one of photos with captions NAME.txt beside them.")
    pictures = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    texts = {path: path.with_suffix(".txt") for path in pictures}
    told = {
        path: text.read_text(encoding="utf-8-sig", errors="replace").strip()
        for path, text in texts.items()
        if text.is_file()
    }
    if not told:
        raise PhotoError(
            f"{folder} holds no photo with a caption; put NAME.txt beside NAME.jpg, which says what it shows."
        )
    index = CaptionIndex(list(told.values()))
    paths, scores = list(told), index.scores(prompt)
    found = [number for number in index.nearest(prompt, count) if scores[number] > 0]
    if not found:
        raise PhotoError(f"no caption in {folder} has a word of {prompt!r}; say it in other words.")
    return [paths[number] for number in found]
