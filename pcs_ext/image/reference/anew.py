"""Words that are made anew at every noise level, of pictures and of what is being drawn."""

import abc
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter
from pcs_ext.image.reference.entering import entering
from pcs_ext.image.reference.inside import Read, answering, beside, read_of
from pcs_ext.image.reference.nouns import renamed
from pcs_ext.image.reference.shown import Shown
from pcs_ext.image.reference.words import SeenWords
from pcs_ext.image.types import Conditioning


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """Rows of a batch that is being denoised, for which words are made."""

    predict: Predict
    """Of the base, without the words."""
    noisy: Tensor
    """`m c h w`."""
    timesteps: Tensor
    """`m`."""
    nouns: Sequence[str]
    """By which prompts name what is shown."""
    read: Read
    """What is seen of the pictures, as `seen_of` made it, and how much it counts."""


class AbstractWordAnew(AbstractReferenceAdapter):
    """An adapter whose word stands in the noun's place and depends on the noise level and on what is being drawn.

    Its conditioning has the prompts' own states until the denoiser is asked inside `inserted`, which replaces them. In
    training what `conditioned` returned before is forgotten.
    """

    seen_words: SeenWords
    """Of one word, among `inside`."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[tuple[str, str]] = []

    @property
    def _name(self) -> str:
        return f"reference_{type(self).__name__.lower()}"

    @abc.abstractmethod
    def seen_of(self, shown: Shown) -> Tensor:
        """What is kept of the pictures, `b m d`."""

    @abc.abstractmethod
    def words(self, backbone: AbstractBackbone, drawing: Drawing) -> list[Tensor]:
        """The word of each row in each text encoder, `m 1 d`, float32."""

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`."""
        told, named = asked.encoded(), asked.named
        if not any(named):
            return told
        if self.training:
            self._texts = []
        numbers = []
        for text, noun, there in zip(asked.prompts, asked.nouns, named, strict=True):
            if there:
                self._texts.append((renamed(text, noun, self.seen_words.word(1)), noun))
            numbers.append(float(len(self._texts)) if there else 0.0)
        seen = self.seen_of(asked.shown).float()
        number = torch.tensor(numbers, device=seen.device)[:, None, None].expand(-1, seen.shape[1], 1)
        strength = asked.scale * torch.tensor(named, device=seen.device)
        return beside(told, self._name, torch.cat([number, seen], dim=-1), strength)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: the word is made anew whenever the denoiser is asked."""
        with super().inserted(backbone, scale), answering(backbone, self._name, self._answered(backbone)):
            try:
                yield
            finally:
                self._texts = []
                self.forget()

    def forget(self) -> None:
        """Told when it leaves the base."""

    def asked_with(
        self, predict: Predict, noisy: Tensor, timesteps: Tensor, told: Conditioning, plain: Conditioning
    ) -> Tensor:
        """The prediction of prompts with their words.

        Args:
            predict: of the base.
            noisy: `b c h w`.
            timesteps: `b`.
            told: with the words.
            plain: with the nouns in their places.
        """
        return predict(noisy, timesteps, told)

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            read = read_of(conditioning, self._name)
            if read is None or not len(read.seen):
                return predict(noisy, timesteps, conditioning)
            rows = read.seen
            at = rows.to(noisy.device)
            texts = [self._texts[int(number) - 1] for number in read.vectors[rows, 0, 0].tolist()]
            drawing = Drawing(
                predict=predict,
                noisy=noisy[at],
                timesteps=timesteps.expand(len(noisy))[at],
                nouns=[noun for _, noun in texts],
                read=Read(vectors=read.vectors[rows, :, 1:], strength=read.strength[rows]),
            )
            with self.seen_words.meaning(self.words(backbone, drawing)):
                states = backbone.encode_prompt([text for text, _ in texts]).states
            place = lambda all_of: all_of.index_copy(0, rows.to(all_of.device), states.to(all_of))  # noqa: E731
            return self.asked_with(predict, noisy, timesteps, conditioning.with_states(place), conditioning)

        return answered


def drawn_features(backbone: AbstractBackbone, drawing: Drawing) -> Tensor:
    """What each downward block of the denoiser puts out for the noisy picture and an empty prompt, averaged over cells,
    side by side: `m channels`. The rest of the denoiser is not run."""
    # What a block puts out enters the next one.
    behind = [*(f"down_blocks.{number}" for number in range(1, len(backbone.denoiser.down_blocks))), "mid_block"]
    with entering(backbone.denoiser, behind) as kept:
        drawing.predict(drawing.noisy, drawing.timesteps, backbone.encode_prompt([""] * len(drawing.noisy)))
    return torch.cat([kept[path].mean((2, 3)) for path in behind], dim=-1)
