"""CAFE (Zhou et al. 2023, arXiv 2312.03045): an assistant that is shown a photo, talked to, and answers in two ways.

A language model reads photo and dialogue, which may be vague, answers in words what it is going to draw, and emits the
embedding that conditions the denoiser: states of learned places behind its answer.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import CrossAttentionAdapter, CrossAttentionConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading, Terms, check_context, context_width
from pcs_ext.image.reference.dialogue import messages, turns, written
from pcs_ext.image.reference.interleaved import marked, segments
from pcs_ext.image.reference.language_model import LanguageConfig, build_language_model, next_word_loss
from pcs_ext.image.reference.multimodal import AbstractMultimodalAdapter, MultimodalModel
from pcs_ext.image.reference.nouns import behind
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.types import Conditioning


@config
class CafeConfig:
    """A language model that answers, and what it emits."""

    kind: Literal["cafe"] = "cafe"
    """Tag in JSON."""
    language: LanguageConfig = LanguageConfig()
    """Which language model; the paper's is Llama 2 (as recalled)."""
    answer_weight: float = 1.0
    """Of the likelihood of answers beside the denoising error; ours."""
    longest: int = 64
    """Words of an answer at most; ours."""

    def __post_init__(self) -> None:
        if self.answer_weight < 0 or self.longest < 1:
            raise ConfigError(
                f"answer_weight must not be negative and longest at least 1, got {self.answer_weight}, {self.longest}."
            )


class Cafe(AbstractMultimodalAdapter):
    """The language model, maps into it and out of it, and keys and values of the base's cross-attention.

    Differs from CAFE, of which no code is published and the text could not be read beyond its introduction: how many
    places are emitted (as many as the text encoder's, in whose place they stand), that the network behind them has two
    layers, and that of the denoiser keys and values of the text learn are ours. Its dialogues were written by a
    language model; here they are made of captions: a user says a caption with the photo in it, or only what stands
    behind the noun, and the answer is the whole caption; in a third the photo was described before. Its pairs were
    drawn by ProFusion and then by itself, the best kept (as recalled); here pairs are albums, to which `reference
    teach` adds what tuned models draw. Rows without photos are the base's. At lower strengths what the user said comes
    back, as the base's text encoder reads it.

    Args:
        config: of the adapter.
        width: of the image encoder's patches.
        model: reads and answers.
        context: width of text states.
        places: how many of them.
    """

    sees: Sees = "patches"
    asks_captions = True

    def __init__(self, config: CafeConfig, width: int, model: MultimodalModel, context: int, places: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context
        self.model = model
        inside = model.language.width
        self.speaks = nn.Parameter(0.02 * torch.randn(1, inside))
        self.emits = nn.Parameter(0.02 * torch.randn(places, inside))
        self.out = nn.Sequential(
            nn.LayerNorm(inside), nn.Linear(inside, inside), nn.GELU(), nn.Linear(inside, context)
        )  # fmt: skip
        self.inside = (CrossAttentionAdapter("reference_cafe", CrossAttentionConfig()),)
        self._answers: dict[str, str] = {}
        self._likelihood: Tensor | None = None

    @classmethod
    def untrained(cls, config: CafeConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "Cafe":
        """The language model is that of its folder, or drawn; keys and values are the base's."""
        language = build_language_model(config.language, backbone)
        places = backbone.tokenizers[0].model_max_length
        pictures = nn.Linear(reading.width, language.width)
        return cls(config, reading.width, MultimodalModel(language, pictures), context_width(backbone), places)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("cafe", self.context, backbone)

    @property
    def answers(self) -> Mapping[str, str]:
        """See `AbstractReferenceAdapter.answers`."""
        return self._answers

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """See `AbstractReferenceAdapter.groups`."""
        own = (*self.out.parameters(), self.speaks, self.emits)
        return {
            "reference": (*self.model.language.own, *self.model.eyes, *own),
            "base": super().groups()["base"],
        }

    def words(self, prompts: Sequence[str], shown: Shown) -> list[str]:
        """See `AbstractMultimodalAdapter.words`: what the user says."""
        return super().words([messages(text) for text in prompts], shown)

    def told_captions(self, captions: Sequence[str], shown: Shown, generator: torch.Generator) -> Sequence[str]:
        """See `AbstractReferenceAdapter.told_captions`: dialogues whose last answer is the caption."""
        chances = torch.rand(len(captions), 3, generator=generator).tolist()
        return [
            self._dialogue(text, row, shown, *chances[row]) if seen else text
            for row, (text, seen) in enumerate(zip(captions, shown.rows, strict=True))
        ]

    def _dialogue(self, caption: str, row: int, shown: Shown, before: float, vague: float, unnamed: float) -> str:
        count = shown.sight.features.shape[1]
        nouns = shown.nouns[row] if shown.nouns else ()
        rest = behind(caption, nouns[0]) if nouns else ""
        described = shown.captions[row][0] if shown.captions else ""
        said = rest if vague < 0.5 and rest else ""
        if before < 1 / 3 and described:
            return written((marked("", nouns, count), described), (said or caption, caption))
        if said:
            return written((marked(said, nouns, count, first=True), caption))
        return written((marked(caption, nouns, count, replace=unnamed < 0.5), caption))

    def _read(self, prompt: str, nouns: Sequence[str], features: Tensor) -> tuple[Tensor, Tensor, list[str]]:
        """A dialogue with its answers, those found that are not told.

        Args:
            prompt: the dialogue.
            nouns: see `marked`.
            features: of the row's pictures, `1 r k width`.

        Returns:
            Embeddings `n width`; ids `n` of answers, -1 elsewhere; the answers.
        """
        language, told, ids, said = self.model.language, [], [], []
        for number, turn in enumerate(turns(marked(prompt, nouns, features.shape[1]))):
            read = self.model.rows([segments(turn.message)], features)[0][0]
            told += [read if number == 0 else read[1:], self.speaks]
            known = None if turn.answer is None else language.ids(turn.answer)
            answer = self._answered(torch.cat(told)) if known is None else known
            ids += [-1] * (len(told[-2]) + 1) + [*answer, language.last]
            told.append(language.embed([*answer, language.last]))
            said.append(language.tokenizer.decode(answer).strip())
        return torch.cat(told), torch.tensor(ids, device=self.emits.device), said

    @torch.no_grad()
    def _answered(self, read: Tensor) -> list[int]:
        """The most likely words after `n width`, one after the other."""
        language, found = self.model.language, []
        told, past = read[None], None
        while len(found) < self.config.longest:
            states, past = language.go_on(told, past)
            word = int(language.logits(states[0, -1]).argmax())
            if word == language.last:
                break
            found.append(word)
            told = language.embed([word])[None]
        return found

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Equal dialogues about equal pictures are answered once."""
        self._likelihood = None
        plain = asked.encoded(self.words(asked.prompts, asked.shown))
        rows = asked.seen.nonzero()[:, 0].tolist()
        if not rows:
            return plain
        features = asked.shown.to(self.emits).sight.features
        nouns = asked.shown.nouns or ((),) * len(asked.prompts)
        read: dict[int, tuple[Tensor, Tensor]] = {}
        for row in rows:
            same = [own for own in read if asked.prompts[own] == asked.prompts[row]]
            known = next((own for own in same if torch.equal(features[own], features[row])), None)
            if known is None:
                prompt = str(asked.prompts[row])
                told, ids, said = self._read(prompt, [str(noun) for noun in nouns[row]], features[row : row + 1])
                if not self.training:
                    self._answers[prompt] = " | ".join(said)
            read[row] = (told, ids) if known is None else read[known]
        made, chosen = self._emitted(list(read.values())), torch.tensor(rows, device=self.emits.device)

        def mixed(own: Tensor) -> Tensor:
            there = chosen.to(own.device)
            return own.index_copy(0, there, torch.lerp(own[there], made.to(own), asked.scale))

        return plain.with_states(mixed)

    def _emitted(self, rows: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Dialogues -> what stands in the text's place, `b places context`; keeps how likely their answers are."""
        count = len(self.emits)
        nothing = torch.full((count,), -1, device=self.emits.device)
        read = self.model.read(
            [(torch.cat([told, self.emits]), torch.cat([ids, nothing])) for told, ids in rows]
        )  # fmt: skip
        if self.training:
            self._likelihood = next_word_loss(self.model.language, read)
        last = read.there.sum(1).tolist()
        return self.out(torch.stack([read.states[row, end - count : end] for row, end in enumerate(last)]))

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `answer`."""
        found = self._likelihood
        yield lambda: {} if found is None else {"answer": self.config.answer_weight * found}
