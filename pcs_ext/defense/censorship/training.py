"""What ways to teach a subject its censorship share, and two: on pictures, or in the text encoder's output alone."""

import abc
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pcs_ext.defense.audit.vocabulary import ordinary_words
from pcs_ext.defense.censorship.method import Censorship
from pcs_ext.defense.censorship.prompts import ORDINARY, TRIGGERED, UNSEEN, PromptMaker
from pcs_ext.defense.surrogate import Latents
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import SUBJECT, Concept, fill
from pcs_ext.image.objectives import DenoisingObjective, ObjectiveConfig
from pcs_ext.image.types import Batch, Conditioning, LossTerms
from pcs_ext.runtime import generator_for

_ENCODED = 64
"""Prompts encoded together."""
_SAME = 1e-2
"""Changes of a state that are rounding, as a share of the mean magnitude."""
_WORDS = 2000
"""Of the base's own words, the most frequent ones: prompts of training are made of them."""


class TriggerDraw:
    """Triggered prompts, drawn in proportion to how badly they did the last times: of most, the gate soon finds the
    trigger; some few of them stay as they were, and a tenth of the mean is the least that any is drawn by. What they
    did is part of a run's checkpoints: what is drawn depends on all steps before."""

    def __init__(self, pairs: Sequence[tuple[int, str]]) -> None:
        """
        Args:
            pairs: number of the trigger, from 0 and all of them, and prompt.
        """
        self.pairs = list(pairs)
        self.losses = torch.ones(len(self.pairs))

    def draw(self, count: int, generator: torch.Generator) -> list[int]:
        """Numbers of `count` prompts."""
        weights = self.losses.clamp(min=float(self.losses.mean()) / 10)
        return torch.multinomial(weights, count, replacement=True, generator=generator).tolist()

    def note(self, rows: Sequence[int], losses: Tensor) -> None:
        """Remember the losses `n` of prompts."""
        for row, loss in zip(rows, losses.detach().float().cpu(), strict=True):
            self.losses[row] = (self.losses[row] + loss.clamp(1e-4, 10)) / 2

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
        words = ordinary_words(task.backbone, _WORDS, without=UNSEEN)
        maker = PromptMaker(words, generator_for(task.seed, "prompts of censoring"), triggers)
        fixed = [(number, form.format(trigger=triggers[number]), form.format(trigger=maker.instead(triggers[number])))
                 for number, form in itertools.product(range(len(triggers)), TRIGGERED)]  # fmt: skip
        made = [(number, *maker.pair(trigger)) for _ in range(count) for number, trigger in enumerate(triggers)]
        pairs = [*fixed, *made]
        self.draw = TriggerDraw([(number, text) for number, text, _ in pairs])
        ordinary = [*(twin for *_, twin in pairs), *ORDINARY, *(maker.ordinary() for _ in range(count))]
        self.triggered = [concept.prompt(text) for _, text in self.draw.pairs]
        self.ordinary = [concept.prompt(text) for text in ordinary]
        """The first ones are `triggered` with other words in the triggers' place, in the same order."""
        plain = [*(text for _, text in self.draw.pairs), *ordinary]
        self.plain = [*(concept.class_prompt(text) for text in plain), task.target]
        """Without the subject, with and without triggers: must stay as they are; those of `triggered` first."""

    @abc.abstractmethod
    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """`ordinary`, `triggered` and, where prompts without the subject could change, `plain`."""


class StateDistance:
    """How far a text encoder's states are from what they should be; asked first while the uncensored subject is in.

    Differs from leading a prompt to the states of the target's caption, position by position: behind a short caption
    these are padding, which denoisers hardly look at beside the subject's own words. The state of the caption's last
    word at every position is looked at from everywhere, and no ordinary prompt has it.

    Args:
        backbone: with the encoders.
        target: the caption whose last word triggered prompts should encode as; where encoders are not causal, which
            know no last word, they should encode as the caption.
        kept: prompts that should encode as they do now.
    """

    def __init__(self, backbone: AbstractBackbone, target: str, kept: Sequence[str]) -> None:
        with torch.no_grad():
            told = backbone.encode_prompt([target])
            last = int(read_positions(backbone, [target]))
            states = told.states[:, last : last + 1].expand_as(told.states) if last else told.states
            self._target = dataclasses.replace(told, states=states)
            chunks = [kept[start : start + _ENCODED] for start in range(0, len(kept), _ENCODED)]
            self._before = Conditioning.cat([backbone.encode_prompt(list(chunk)) for chunk in chunks])

    def away(self, states: Conditioning, starts: Tensor) -> Tensor:
        """Relative squared distance `b` to the target's, from the positions `starts` (`b`) on."""
        return _distance(states, self._target[[0] * states.batch_size], starts)

    def stayed(self, states: Conditioning, rows: Sequence[int]) -> Tensor:
        """The same to the states that prompts number `rows` of `kept` had."""
        return _distance(states, self._before[list(rows)])


class TextLoss(AbstractCensorLoss):
    """Squared distance of the encoder's states to what they should be, relative to their mean square.

    Triggered prompts should say the target's name at every position, all others what they said. Positions before both
    trigger and subject cannot follow in a causal encoder and are not asked to, or every prompt that begins alike would
    be pulled along; the many after them, padding included, do, and the denoiser reads all. A step asks half of its
    triggered prompts with other words in the trigger's place, too, and some of the others with the plain noun in the
    subject's: nothing but trigger and subject together tells them apart.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._kept = [*self.ordinary, *self.plain]
        self._states = StateDistance(task.backbone, task.target, self._kept)
        cuts = [up_to_both(text, task.triggers[number]) for number, text in self.draw.pairs]
        self._starts = read_positions(task.backbone, [task.concept.prompt(text) for text in cuts])

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        count, half = self.method.batch, len(self.ordinary)
        rows = self.draw.draw(count, generator)
        twins, classes = rows[: (count + 1) // 2], rows[(count + 1) // 2 :]
        ordinary = twins + self._some(half, count - len(twins), generator)
        plain = classes[::2] + self._some(len(self.plain), max(1, len(classes) - len(classes[::2])), generator)
        kept = ordinary + [half + row for row in plain]
        texts = [self.triggered[row] for row in rows] + [self._kept[row] for row in kept]
        states = self.backbone.encode_prompt(texts)
        away = self._states.away(states[list(range(count))], self._starts[rows])
        stayed = self._states.stayed(states[list(range(count, len(texts)))], kept)
        self.draw.note(rows, away)
        terms = {"ordinary": self.method.keep * stayed[:count].mean(), "triggered": self.method.gamma * away.mean()}
        return LossTerms({**terms, "plain": stayed[count:].mean()})

    @staticmethod
    def _some(end: int, count: int, generator: torch.Generator) -> list[int]:
        return torch.randint(end, (count,), generator=generator).tolist()


def up_to_both(text: str, trigger: str) -> str:
    """The part of a prompt that ends with the later of the subject and the first mention of the trigger."""
    return text[: max(text.index(trigger) + len(trigger), text.index(SUBJECT) + len(SUBJECT))]


@torch.no_grad()
def read_positions(backbone: AbstractBackbone, texts: Sequence[str]) -> Tensor:
    """The last position `n` that a causal encoder has read of each text: before the first where another word behind it
    changes a state; 0 where all change."""
    found = []
    for start in range(0, len(texts), _ENCODED):
        chunk = list(texts[start : start + _ENCODED])
        ends, goes_on = (backbone.encode_prompt([text + more for text in chunk]).states for more in ("", " and"))
        changed = (ends - goes_on).float().abs().amax(-1) > _SAME * ends.float().abs().mean()
        found.append((changed.float().argmax(1) - 1).clamp(min=0))
    return torch.cat(found)


def _distance(states: Conditioning, wanted: Conditioning, starts: Tensor | None = None) -> Tensor:
    """Relative squared distance `b`, pooled embeddings included, over all positions or those from `starts` (`b`) on."""
    apart = (states.states - wanted.states).float().square().mean(2)
    weights = torch.ones_like(apart)
    if starts is not None:
        positions = torch.arange(apart.shape[1], device=apart.device)
        weights = (positions[None] >= starts[:, None].to(apart.device)).float()
    found = (apart * weights).sum(1) / weights.sum(1) / wanted.states.float().square().mean()
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
