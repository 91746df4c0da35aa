"""A language model that reads pictures among words, and what systems that are conditioned by one share."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.prompt_programs import Encode
from pcs_ext.image.reference.base import AbstractReferenceAdapter
from pcs_ext.image.reference.interleaved import Segment, marked, segments, unmarked
from pcs_ext.image.reference.language_model import PICTURE, LanguageModel, Read, located
from pcs_ext.image.reference.shown import Shown
from pcs_ext.image.types import Conditioning


class MultimodalModel(nn.Module):
    """Words and pictures in the order of a prompt, each picture between a vector that opens it and one that ends it.

    Args:
        language: reads.
        pictures: `n ...` of an image encoder to `n m width`, the words that a picture becomes.
    """

    def __init__(self, language: LanguageModel, pictures: nn.Module) -> None:
        super().__init__()
        self.language, self.pictures = language, pictures
        self.opens, self.ends = (nn.Parameter(0.02 * torch.randn(1, language.width)) for _ in range(2))

    @property
    def eyes(self) -> tuple[nn.Parameter, ...]:
        """What learns beside the language model."""
        return (*self.pictures.parameters(), self.opens, self.ends)

    def forward(self, prompts: Sequence[Sequence[Segment]], features: Tensor, *, whole: bool = False) -> Read:
        """Read prompts.

        Args:
            prompts: `b` rows of words and numbers of pictures.
            features: of the image encoder, `b r ...`, the pictures of each row.
            whole: also the mark of the end, as the language model learns it.
        """
        return self.read(self.rows(prompts, features, whole=whole))

    def read(self, rows: Sequence[tuple[Tensor, Tensor]]) -> Read:
        """Texts of embeddings `n width` and ids `n`, of different lengths."""
        embeddings = pad_sequence([told for told, _ in rows], batch_first=True)
        ids = pad_sequence([own for _, own in rows], batch_first=True, padding_value=-1)
        lengths = torch.tensor([len(own) for _, own in rows], device=ids.device)
        there = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return Read(self.language(embeddings, there), there, ids)

    def rows(
        self, prompts: Sequence[Sequence[Segment]], features: Tensor, *, whole: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        """Of each prompt, as `forward` reads it, embeddings `n width` and ids `n`, see `Read.ids`."""
        seen = self.pictures(features.flatten(0, 1).to(self.opens)).unflatten(0, features.shape[:2])
        return [self._row(own, seen[row], whole) for row, own in enumerate(prompts)]

    def _row(self, prompt: Sequence[Segment], seen: Tensor, whole: bool) -> tuple[Tensor, Tensor]:
        device, model = self.opens.device, self.language
        parts: list[Tensor] = []
        ids: list[int] = []
        words = [[model.first], *(model.ids(part) if isinstance(part, str) else part for part in prompt)]
        for part in [*words, [model.last]] if whole else words:
            picture = torch.cat([self.opens, seen[part], self.ends]) if isinstance(part, int) else None
            parts.append(model.embed(cast(list[int], part)) if picture is None else picture)
            ids += cast(list[int], part) if picture is None else [-1, *[PICTURE] * (len(picture) - 2), -1]
        return torch.cat(parts), torch.tensor(ids, device=device)


class AbstractMultimodalAdapter(AbstractReferenceAdapter):
    """A reference adapter in which a multimodal language model reads prompts with pictures among their words."""

    reads_marks = True
    asks_noun = True
    several = True
    model: MultimodalModel

    def conditioned(
        self,
        backbone: AbstractBackbone,
        encode: Encode,
        prompts: Sequence[str],
        shown: Shown,
        *,
        scale: float = 1.0,
        size: tuple[int, int] | None = None,
    ) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. At strength 0 pictures among words are their nouns."""
        if scale == 0:
            prompts = self.words(prompts, shown)
        return super().conditioned(backbone, encode, prompts, shown, scale=scale, size=size)

    @classmethod
    def located(cls, config: Any) -> Any:
        """See `AbstractReferenceAdapter.located`: the language model's folder."""
        return dataclasses.replace(config, language=located(config.language))

    @property
    def elsewhere(self) -> str:
        """See `AbstractReferenceAdapter.elsewhere`: the language model, if it stays as it is in its folder."""
        return self.model.language.digest

    def words(self, prompts: Sequence[str], shown: Shown) -> list[str]:
        """The prompts, for who reads no pictures."""
        return [unmarked(text, own) for text, own in self._named(prompts, shown)]

    def interleaved(self, prompts: Sequence[str], shown: Shown) -> list[list[Segment]]:
        """Words and pictures of every prompt; of rows that see none, the words alone."""
        count = shown.sight.features.shape[1]
        rows = zip(self._named(prompts, shown), shown.rows, strict=True)
        return [
            segments(marked(text, own, count) if seen else unmarked(text, own)) for (text, own), seen in rows
        ]  # fmt: skip

    @staticmethod
    def _named(prompts: Sequence[str], shown: Shown) -> list[tuple[str, tuple[str, ...]]]:
        nouns = shown.nouns or ((),) * len(prompts)
        return list(zip(prompts, nouns, strict=True))

    def stored(self) -> dict[str, Tensor]:
        """See `AbstractReferenceAdapter.stored`: without a language model that stays in its folder."""
        return self.model.language.without_weights(super().stored(), _LANGUAGE)

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """See `AbstractReferenceAdapter.load_published`.

        Raises:
            ArtifactError: it was trained with another language model.
        """
        language = self.model.language
        known = state.get(f"{_LANGUAGE}known")
        if known is not None and language.digest:
            language.check_known(known)
        super().load_published(state)


_LANGUAGE = "model.language."
