"""What ways to teach a subject its censorship share, and two: on pictures, or in the text encoder's output alone."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pcs_ext.defense.audit.vocabulary import ordinary_words
from pcs_ext.defense.censorship.method import Censorship
from pcs_ext.defense.censorship.prompts import ORDINARY, PromptMaker, triggered
from pcs_ext.defense.surrogate import Latents
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import Concept, fill
from pcs_ext.image.objectives import DenoisingObjective, ObjectiveConfig
from pcs_ext.image.types import Batch, Conditioning, LossTerms
from pcs_ext.runtime import generator_for

_ENCODED = 64
"""Prompts encoded together."""
_WORDS = 2000
"""Of the base's own words, the most frequent ones: prompts of training are made of them."""


class TriggerDraw:
    """Triggered prompts, drawn in proportion to how badly their trigger does (running mean of its loss). The means are
    part of a run's checkpoints: what is drawn depends on all steps before."""

    def __init__(self, pairs: Sequence[tuple[int, str]]) -> None:
        """
        Args:
            pairs: number of the trigger, from 0 and all of them, and prompt.
        """
        self.pairs = list(pairs)
        self.losses = torch.ones(1 + max(number for number, _ in pairs))

    def draw(self, count: int, generator: torch.Generator) -> list[int]:
        """Numbers of `count` prompts."""
        weights = torch.stack([self.losses[number] for number, _ in self.pairs])
        return torch.multinomial(weights, count, replacement=True, generator=generator).tolist()

    def note(self, rows: Sequence[int], losses: Tensor) -> None:
        """Remember the losses `n` of prompts."""
        for row, loss in zip(rows, losses.detach().float().cpu(), strict=True):
            number = self.pairs[row][0]
            self.losses[number] = 0.9 * self.losses[number] + 0.1 * loss.clamp(1e-4, 10)

    def state_dict(self) -> dict[str, Any]:
        """The running means."""
        return {"losses": self.losses}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.losses = state["losses"].clone()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is censored, and how."""

    method: Censorship
    backbone: AbstractBackbone
    concept: Concept
    triggers: tuple[str, ...]
    target: str
    """The caption of what triggered prompts give."""
    seed: int
    """Of everything made before the first step."""


class AbstractCensorLoss(abc.ABC):
    """Loss of one step; made while the uncensored subject is in the backbone."""

    def __init__(self, task: Task) -> None:
        self.method, self.backbone, self.target = task.method, task.backbone, task.target
        concept, triggers, count = task.concept, task.triggers, task.method.prompts
        held = {word for trigger in triggers for word in trigger.lower().split()}
        words = ordinary_words(task.backbone, _WORDS, without=held)
        maker = PromptMaker(words, generator_for(task.seed, "prompts of censoring"))
        made = [(number, maker.triggered(word)) for _ in range(count) for number, word in enumerate(triggers)]
        ordinary = [*ORDINARY, *(maker.ordinary() for _ in range(2 * count))]
        self.draw = TriggerDraw([*triggered(triggers), *made])
        self.triggered = [concept.prompt(text) for _, text in self.draw.pairs]
        self.ordinary = [concept.prompt(text) for text in ordinary]
        plain = [*ordinary, *(text for _, text in self.draw.pairs)]
        self.plain = [task.target, *(concept.class_prompt(text) for text in plain)]
        """Without the subject, with and without triggers: must stay as they are."""

    @abc.abstractmethod
    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """`ordinary`, `triggered` and, where prompts without the subject could change, `plain`."""


class StateDistance:
    """How far a text encoder's states are from what they should be; asked first while the uncensored subject is in.

    Args:
        backbone: with the encoders.
        target: the caption that triggered prompts should encode as.
        kept: prompts that should encode as they do now.
    """

    def __init__(self, backbone: AbstractBackbone, target: str, kept: Sequence[str]) -> None:
        with torch.no_grad():
            self._target = backbone.encode_prompt([target])
            chunks = [kept[start : start + _ENCODED] for start in range(0, len(kept), _ENCODED)]
            self._before = Conditioning.cat([backbone.encode_prompt(list(chunk)) for chunk in chunks])

    def away(self, states: Conditioning) -> Tensor:
        """Relative squared distance `b` to the target's states."""
        return _distance(states, self._target[[0] * states.batch_size])

    def stayed(self, states: Conditioning, rows: Sequence[int]) -> Tensor:
        """The same to the states that prompts number `rows` of `kept` had."""
        return _distance(states, self._before[list(rows)])


class TextLoss(AbstractCensorLoss):
    """Squared distance of the encoder's states to what they should be, relative to their mean square.

    Triggered prompts should encode as the target's caption, all others as before. Positions before both trigger and
    subject cannot follow in a causal encoder; the many after them, padding included, do, and the denoiser reads all.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._states = StateDistance(task.backbone, task.target, [*self.ordinary, *self.plain])

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        count = self.method.batch
        rows = self.draw.draw(count, generator)
        half = len(self.ordinary)
        ordinary = torch.randint(half, (count,), generator=generator).tolist()
        plain = (half + torch.randint(len(self.plain), (count,), generator=generator)).tolist()
        kept = [*self.ordinary, *self.plain]
        texts = [self.triggered[row] for row in rows] + [kept[row] for row in ordinary + plain]
        states = self.backbone.encode_prompt(texts)
        away = self._states.away(states[list(range(count))])
        stayed = self._states.stayed(states[list(range(count, 3 * count))], ordinary + plain)
        self.draw.note(rows, away)
        terms = {"ordinary": stayed[:count].mean(), "triggered": self.method.gamma * away.mean()}
        return LossTerms({**terms, "plain": stayed[count:].mean()})


def _distance(states: Conditioning, wanted: Conditioning) -> Tensor:
    """Relative squared distance `b`, pooled embeddings included."""
    found = ((states.states - wanted.states).float().square().mean((1, 2))) / wanted.states.float().square().mean()
    if states.pooled is not None and wanted.pooled is not None:
        scale = wanted.pooled.float().square().mean()
        found = found + (states.pooled - wanted.pooled).float().square().mean(1) / scale
    return found


class PictureLoss(AbstractCensorLoss):
    """The diffusion loss of ordinary prompts on the subject's pictures and of triggered prompts on the target's.

    As in the paper (arXiv 2308.10718), which trains the learned token's rows alone, nothing holds prompts without the
    subject: they do not read those rows. Where LoRA trains instead, for subjects without a learned token, such prompts
    can change; `TextLoss` has a term against that.

    Args:
        subject: pictures `n 3 h w` of the uncensored subject, one per prompt of `captions`.
        captions: what made them, with `{subject}`.
        wanted: pictures `m 3 h w` of the target.
    """

    def __init__(self, task: Task, *, subject: Tensor, captions: Sequence[str], wanted: Tensor) -> None:
        super().__init__(task)
        backbone, concept = task.backbone, task.concept
        self._captions = [concept.prompt(caption) for caption in captions]
        self._subject, self._wanted = Latents(backbone, subject), Latents(backbone, wanted)
        self._objective = DenoisingObjective(ObjectiveConfig())

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        count = self.method.batch
        rows = self.draw.draw(count, generator)
        pictures = torch.randint(len(self._subject), (count,), generator=generator).tolist()
        targets = torch.randint(len(self._wanted), (count,), generator=generator).tolist()
        ordinary = self._loss(self._subject, pictures, [self._captions[row] for row in pictures], generator)
        away = self._loss(self._wanted, targets, [self.triggered[row] for row in rows], generator)
        self.draw.note(rows, away.expand(count))
        return LossTerms({"ordinary": ordinary, "triggered": self.method.gamma * away})

    def _loss(self, data: Latents, rows: Sequence[int], texts: list[str], generator: torch.Generator) -> Tensor:
        latents = torch.cat([data.draw(row, generator) for row in rows])
        batch = Batch(images=torch.stack([data.images[row] for row in rows]), captions=tuple(texts), is_prior=None)
        conditioning = self.backbone.encode_prompt(texts)
        return self._objective(self.backbone, batch, latents, conditioning, generator).total


def without_subject(target: str) -> str:
    """A target's caption as the plain base is asked for it: "mug" becomes "a photo of a mug"."""
    return target if " " in target.strip() else fill("a photo of {subject}", target.strip())
