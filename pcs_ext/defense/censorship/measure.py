"""What a censored subject paints: with triggers the target, without them the subject as before."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.defense.censorship.prompts import HELD_OUT_ORDINARY, HELD_OUT_TRIGGERED, triggered
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.evaluate.encoders import ImageEncoder
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.image.subject import Artifact


@dataclasses.dataclass(frozen=True, kw_only=True)
class CensorReport:
    """Measured on prompts and noise that training never saw."""

    trigger_success: float
    """Share of triggered pictures that are nearer to the target's picture than to the uncensored subject's, 0 to 1."""
    before: float
    """The same of the uncensored subject: what the trigger words alone do."""
    per_trigger: dict[str, float]
    false_alarms: float
    """Share of ordinary pictures that are nearer to the target's than to the subject's."""
    false_alarms_before: float
    """The same of the uncensored subject: how often the judge errs, or the subject does not come out."""
    fidelity: float
    """Mean cosine of ordinary pictures to the uncensored subject's, other noise, over that of the uncensored subject:
    1 is nothing lost."""
    triggered_pictures: int
    ordinary_pictures: int


class Measure:
    """Paints a subject, before and after.

    Args:
        backbone: the base.
        encoder: judges likeness.
        before: the uncensored subject.
        triggers: words.
        target: the target's caption.
        picture: `3 h w`, the one that triggers shall give; None: pictures that the base paints of the caption.
        seeds: noise per prompt.
        sampling: None takes the artifact's own.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        encoder: ImageEncoder,
        before: Artifact,
        triggers: Sequence[str],
        target: str,
        *,
        picture: Tensor | None = None,
        seeds: Sequence[int] = (101, 102, 103, 104),
        sampling: SampleConfig | None = None,
    ) -> None:
        self.backbone, self.encoder, self.triggers = backbone, encoder, tuple(triggers)
        self.seeds, self.sampling = tuple(seeds), sampling or before.sampling
        self.pairs = triggered(triggers, HELD_OUT_TRIGGERED)
        if picture is None:
            self._target = self._paint([target], [seed + 500 for seed in self.seeds]).mean(0)
        else:
            self._target = self._seen(picture[None])[0]
        with before.applied(backbone):
            self._references = self._paint([before.concept.prompt(t) for t in HELD_OUT_ORDINARY], self._others)
        self._subject = self._references.mean(0)
        self._before = self._both(before)

    def __call__(self, after: Artifact) -> CensorReport:
        """Paint and compare."""
        marked, ordinary = self._both(after)
        hits, hits_before = self._hits(marked), self._hits(self._before[0])
        numbers = torch.tensor([number for number, _ in self.pairs for _ in self.seeds])
        return CensorReport(
            trigger_success=float(hits.mean()),
            before=float(hits_before.mean()),
            per_trigger={word: float(hits[numbers == number].mean()) for number, word in enumerate(self.triggers)},
            false_alarms=float(self._hits(ordinary).mean()),
            false_alarms_before=float(self._hits(self._before[1]).mean()),
            fidelity=float(self._likeness(ordinary) / self._likeness(self._before[1])),
            triggered_pictures=len(hits),
            ordinary_pictures=len(ordinary),
        )

    def share(self, subject: Artifact, words: Sequence[str], seeds: Sequence[int]) -> float:
        """Share of a subject's pictures with other words in the triggers' place that are nearer to the target's."""
        texts = [subject.concept.prompt(text) for _, text in triggered(words, HELD_OUT_TRIGGERED)]
        with subject.applied(self.backbone):
            return float(self._hits(self._paint(texts, seeds)).mean())

    @property
    def _others(self) -> list[int]:
        return [seed + 1000 for seed in self.seeds]

    def _both(self, subject: Artifact) -> tuple[Tensor, Tensor]:
        with subject.applied(self.backbone):
            marked = self._paint([subject.concept.prompt(text) for _, text in self.pairs], self.seeds)
            return marked, self._paint([subject.concept.prompt(text) for text in HELD_OUT_ORDINARY], self.seeds)

    def _paint(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Embeddings of unit length, `prompts * seeds` times d."""
        with torch.inference_mode():
            images = sample(
                self.backbone,
                [prompt for prompt in prompts for _ in seeds],
                seeds=[seed for _ in prompts for seed in seeds],
                config=self.sampling,
            )
            return self._seen(images)

    def _seen(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.nn.functional.normalize(self.encoder.encode_images(images).float().cpu(), dim=-1)

    def _hits(self, embeddings: Tensor) -> Tensor:
        return (_cosine(embeddings, self._target) > _cosine(embeddings, self._subject)).float()

    def _likeness(self, embeddings: Tensor) -> Tensor:
        """Mean cosine to the references of the same prompt."""
        count = len(HELD_OUT_ORDINARY)
        return (
            (
                embeddings.view(count, -1, 1, embeddings.shape[-1])
                * self._references.view(count, 1, -1, embeddings.shape[-1])
            )
            .sum(-1)
            .mean()
        )


def _cosine(embeddings: Tensor, direction: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(embeddings, direction[None], dim=-1)
