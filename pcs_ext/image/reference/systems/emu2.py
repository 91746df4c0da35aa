"""Emu2 (Sun et al. 2023, arXiv 2312.13286): a language model that goes on in words and in pictures.

An image encoder's patches, averaged to a grid, are words of a text that a language model continues: words by their
likelihood, those of pictures by regression, one after the other. What it tells of the picture that is asked for, a
decoder draws: the base's denoiser, trained to draw pictures again of what the encoder sees in them, without words.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading, Terms, TrainingStage, check_context, context_width
from pcs_ext.image.reference.inside import beside, reading
from pcs_ext.image.reference.instead import reading_instead
from pcs_ext.image.reference.interleaved import Segment, marked, segments
from pcs_ext.image.reference.language_model import PICTURE, LanguageConfig, Read, build_language_model, next_word_loss
from pcs_ext.image.reference.multimodal import AbstractMultimodalAdapter, MultimodalModel
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.types import Conditioning

_TOKENS = "emu2_picture"


@config
class Emu2Config:
    """A language model of words and pictures, and a decoder."""

    kind: Literal["emu2"] = "emu2"
    """Tag in JSON."""
    language: LanguageConfig = LanguageConfig()
    """Which language model; the paper's is LLaMA of 33 billion weights."""
    side: int = 8
    """Rows and columns of the grid to which patches are averaged (the paper's); fewer where the encoder has fewer."""
    regression_weight: float = 1.0
    """Of the squared error of pictures' words beside the likelihood of words; ours."""
    unnamed: float = 0.5
    """Share of training prompts in which pictures stand in place of nouns; else behind them. Ours."""
    shares: tuple[float, float, float] = (0.4, 0.4, 0.2)
    """Of the steps, in which the decoder, the language model, and the latter of what shall be drawn learn; ours."""

    def __post_init__(self) -> None:
        if self.side < 1 or self.regression_weight <= 0 or not 0 <= self.unnamed <= 1:
            raise ConfigError("side must be at least 1, regression_weight above 0, and unnamed a share.")
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ConfigError(f"shares must be three that sum to 1, got {self.shares}.")


class AveragedPatches(nn.Module):
    """Patches, averaged to a grid, as words of a language model.

    Args:
        picture: width of a patch's vector.
        width: of the language model's words.
        side: rows and columns of the grid at most.
    """

    def __init__(self, picture: int, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.up = nn.Linear(picture, width)

    def averaged(self, patches: Tensor) -> Tensor:
        """`n k picture` -> `n m picture`. A class token, which makes k no square, comes first and is left out."""
        side = math.isqrt(patches.shape[1])
        grid = patches[:, patches.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))
        return F.adaptive_avg_pool2d(grid, min(self.side, side)).flatten(2).transpose(1, 2)

    def forward(self, patches: Tensor) -> Tensor:
        """`n k picture` -> `n m width`."""
        return self.up(self.averaged(patches))


class Emu2(AbstractMultimodalAdapter):
    """The language model, maps into it and out of it, and the denoiser.

    Differs from Emu2 in the language model, where none is named in the settings: a small one, which learns the captions
    and pictures of the pairs alone; in that it does not learn itself to say that a picture begins: one is asked for; in
    that the width of the text's states stays, and a linear map stands in front of the denoiser's own keys and values,
    where there these are as wide as the encoder's vectors; in that boxes of things in a picture (its "grounding") and
    videos are left out; and in that another picture of a subject is shown than the one that is drawn. At lower
    strengths what is found in the words comes back, and the base's weights.

    Args:
        config: of the adapter.
        width: of the image encoder's patches.
        model: reads and goes on.
        context: of text states.
        pooled: width of a pooled text; 0: there is none.
    """

    sees: Sees = "patches"
    asks_target = True

    def __init__(self, config: Emu2Config, width: int, model: MultimodalModel, context: int, pooled: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context
        self.model = model
        self.down = nn.Linear(model.language.width, width)
        self.project = nn.Linear(width, context)
        self.pool = nn.Linear(width, pooled) if pooled else None
        self.inside = (FullAdapter("reference", FullConfig(components=("denoiser",))),)
        self._stage = "decoder"

    @classmethod
    def untrained(cls, config: Emu2Config, backbone: AbstractBackbone, reading: Reading, seed: int) -> "Emu2":
        """The language model is that of its folder, or drawn; the decoder is the base's denoiser."""
        language = build_language_model(config.language, backbone)
        words = AveragedPatches(reading.width, language.width, config.side)
        with torch.no_grad():
            pooled = backbone.encode_prompt([""]).pooled
        wide = 0 if pooled is None else pooled.shape[1]
        return cls(config, reading.width, MultimodalModel(language, words), context_width(backbone), wide)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("emu2", self.context, backbone)

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """See `AbstractReferenceAdapter.stages`: the decoder by itself, going on in all, and drawing what is asked."""
        decoder, language, instruct = self.config.shares
        reads = ("language", "pictures", "told")
        return (
            TrainingStage(name="decoder", share=decoder, trains=("decoder", "base")),
            TrainingStage(name="language", share=language, trains=reads),
            TrainingStage(name="instruct", share=instruct, trains=reads),
        )

    @property
    def tuning_stages(self) -> tuple[TrainingStage, ...]:
        """See `AbstractReferenceAdapter.tuning_stages`: the decoder and what is asked of it."""
        decoder, _, instruct = self.stages
        return tuple(TrainingStage(name=own.name, share=0.5, trains=own.trains) for own in (decoder, instruct))

    @property
    def denoises(self) -> bool:
        """See `AbstractReferenceAdapter.denoises`: the language model learns without the denoiser."""
        return self._stage == "decoder"

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """See `AbstractReferenceAdapter.groups`."""
        pool = () if self.pool is None else tuple(self.pool.parameters())
        return {
            "language": self.model.language.own,
            "pictures": self.model.eyes,
            "told": tuple(self.down.parameters()),
            "decoder": (*self.project.parameters(), *pool),
            "base": super().groups()["base"],
        }

    @property
    def _words(self) -> AveragedPatches:
        assert isinstance(self.model.pictures, AveragedPatches)
        return self.model.pictures

    def told_captions(self, captions: Sequence[str], shown: Shown, generator: torch.Generator) -> Sequence[str]:
        """See `AbstractReferenceAdapter.told_captions`: the picture that is drawn has the mark behind those shown.

        In a third each of what the language model goes on with it stands before its caption, behind it, and behind a
        caption with other pictures among its words.
        """
        if self._stage == "decoder":
            return captions
        count = shown.sight.features.shape[1]
        target = f"<{count + 1}>"
        chances = torch.rand(len(captions), 2, generator=generator).tolist()
        rows = zip(captions, shown.nouns or ((),) * len(captions), shown.rows, chances, strict=True)
        made = []
        for text, nouns, seen, (order, unnamed) in rows:
            alone = not seen or (self._stage == "language" and order < 2 / 3)
            told = text if alone else marked(text, nouns, count, replace=unnamed < self.config.unnamed)
            before = self._stage == "language" and order < 1 / 3
            made.append((f"{target} {told}" if before else f"{told} {target}").strip())
        return made

    def imagined(self, prompts: Sequence[Sequence[Segment]], features: Tensor) -> Tensor:
        """What the language model tells of the picture behind each prompt, one word of it after the other.

        Args:
            prompts: `b` of words and numbers of pictures.
            features: of the image encoder, `b r k width`.

        Returns:
            `b m width`, as `AveragedPatches.averaged` gives them of a picture.
        """
        rows = [told for told, _ in self.model.rows(prompts, features)]
        count = self._words.averaged(features[:1, 0]).shape[1]
        made: dict[int, Tensor] = {}
        for length in {len(row) for row in rows}:
            # Rows of one length go on together, without anything between their words and what follows.
            chosen = [index for index, row in enumerate(rows) if len(row) == length]
            read = torch.stack([torch.cat([rows[index], self.model.opens]) for index in chosen])
            made |= dict(zip(chosen, self._continued(read, count), strict=True))
        return torch.stack([made[index] for index in range(len(rows))])

    def _continued(self, read: Tensor, count: int) -> Tensor:
        """`n l` embeddings of texts that end where a picture begins -> `n count width`."""
        told: list[Tensor] = []
        past: Any = None
        for _ in range(count):
            states, past = self.model.language.go_on(read, past)
            told.append(self.down(states[:, -1]))
            read = self._words.up(told[-1])[:, None]
        return torch.stack(told, dim=1)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Rows without pictures are gone on with, too."""
        shown = asked.shown.to(self.project.weight)
        if self.training and self._stage == "decoder" and shown.target is not None:
            # Rows that see nothing draw what the encoder sees of no picture, away from which guidance may go.
            seen = asked.seen[:, None, None]
            target = torch.where(seen, shown.target[:, 0].to(self.project.weight), shown.sight.features[:, 0])
            told = self._words.averaged(target)
        else:
            told = self.imagined(self.interleaved(asked.prompts, asked.shown), shown.sight.features)
        conditioning = asked.encoded(self.words(asked.prompts, asked.shown))
        return self._pooled(
            beside(conditioning, _TOKENS, self.project(told), asked.scale * torch.ones_like(told[:, 0, 0])),
            told, asked.scale,
        )  # fmt: skip

    def _pooled(self, conditioning: Conditioning, told: Tensor, scale: float) -> Conditioning:
        """The same with a pooled text of the picture's mean, where the base reads one (the released code's)."""
        if self.pool is None or conditioning.pooled is None:
            return conditioning
        own = conditioning.pooled
        return dataclasses.replace(conditioning, pooled=torch.lerp(own, self.pool(told.mean(1)).to(own), scale))

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: the picture is read in the text's place."""
        instead = lambda read: reading_instead(backbone, read)  # noqa: E731
        with super().inserted(backbone, scale), reading(backbone, _TOKENS, instead):
            yield

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `regression` and, of all that is gone on with, `language`."""
        yield dict if self._stage == "decoder" else lambda: self._terms(pairs)

    def _terms(self, pairs: Pairs) -> dict[str, Tensor]:
        shown = pairs.shown
        assert shown.target is not None
        features = torch.cat([shown.sight.features, shown.target], dim=1).to(self.down.weight)
        prompts = [segments(text) for text in pairs.captions]
        everything = self._stage == "language"
        read = self.model(prompts, features, whole=everything)
        averaged = self._words.averaged(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        error = regression(self.down(read.states), read, prompts, averaged, last=not everything)
        terms = {"regression": self.config.regression_weight * error}
        return {"language": next_word_loss(self.model.language, read), **terms} if everything else terms


def regression(
    told: Tensor, read: Read, prompts: Sequence[Sequence[Segment]], pictures: Tensor, *, last: bool
) -> Tensor:
    """Mean squared error of what is told of each word of a picture by the place before it, 0-d.

    Args:
        told: `b n width`.
        read: the same places.
        prompts: `b`, what was read.
        pictures: words of each, `b r m width`.
        last: only the last picture of each row counts.
    """
    errors = []
    for row, prompt in enumerate(prompts):
        asked = pictures[row, [part for part in prompt if isinstance(part, int)]].flatten(0, 1)
        places = (read.ids[row, 1:] == PICTURE).nonzero()[:, 0]
        first = len(places) - pictures.shape[2] if last else 0
        errors.append((told[row, places[first:]].float() - asked[first:].float()).square())
    return torch.cat(errors).mean()
