"""`evaluate_subject`: generate what a prompt set asks for and measure it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.evaluate import metrics
from pcs_ext.image.evaluate.copying import CopyReport, check_copying
from pcs_ext.image.evaluate.encoders import ImageEncoder, ImageTextEncoder
from pcs_ext.image.evaluate.figure import Figure, figure_over
from pcs_ext.image.evaluate.prompts import Prompt
from pcs_ext.image.evaluate.report import Report
from pcs_ext.image.levels import levels_of, pixels_of

Generate = Callable[[Sequence[str], Sequence[int]], Tensor]
"""`(prompts with {subject}, seeds), both of length b -> images b 3 h w in [-1, 1]`."""


class AttributeReader(Protocol):
    """Says what an image shows."""

    @property
    def id(self) -> str:
        """What a figure names."""
        ...

    def __call__(self, images: Tensor) -> list[dict[str, str]]:
        """Images `b 3 h w` in [-1, 1] -> per image, attribute kind -> value."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judges:
    """Who judges. What is None is not measured."""

    clip: ImageTextEncoder | None = None
    """For clip-i and clip-t."""
    dino: ImageEncoder | None = None
    """For dino-i, diversity, drift and copying."""
    attributes: AttributeReader | None = None
    """For attribute accuracy."""
    batch_size: int = 64
    """Images per forward of an encoder or reader."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
    """What is known about the subject beyond its photos, where a world knows it."""

    views: Tensor
    """New views of the subject, `t 3 h w` in [-1, 1]."""
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The subject's own attributes, in the reader's words."""


def evaluate_subject(
    generate: Generate,
    references: Tensor,
    *,
    noun: str,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    judges: Judges,
    recipe: str,
    subject: str,
    truth: Truth | None = None,
    drift: tuple[Tensor, Tensor] | None = None,
    batch_size: int = 16,
) -> Report:
    """Generate each prompt with each seed and measure the images.

    Args:
        generate: makes images; called with at most `batch_size` prompts at a time.
        references: the photos the subject was learned from, `r 3 h w` in [-1, 1].
        noun: the class word for clip-t.
        prompts: what to ask for.
        seeds: one image of each prompt per seed; the spread of the figures is over them.
        judges: encoders and readers.
        recipe: its id, or a baseline's name.
        subject: name of the subject.
        truth: novel views and attributes.
        drift: images of unrelated prompts by the base and by the adapted model, same prompts and seeds in order.
        batch_size: images per call of `generate`.

    Raises:
        UsageError: no prompt, no seed or no reference.
    """
    pairs = [(prompt.text, seed) for prompt in prompts for seed in seeds]
    _check(pairs, references)
    chunks = [pairs[i : i + batch_size] for i in range(0, len(pairs), batch_size)]
    with torch.no_grad():
        pieces = [generate([text for text, _ in chunk], [seed for _, seed in chunk]) for chunk in chunks]
    return evaluate_images(
        torch.cat(pieces),
        references,
        noun=noun,
        prompts=prompts,
        seeds=seeds,
        judges=judges,
        recipe=recipe,
        subject=subject,
        truth=truth,
        drift=drift,
    )


@torch.no_grad()
def evaluate_images(
    images: Tensor,
    references: Tensor,
    *,
    noun: str,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    judges: Judges,
    recipe: str,
    subject: str,
    truth: Truth | None = None,
    drift: tuple[Tensor, Tensor] | None = None,
) -> Report:
    """Measure images that exist already: `evaluate_subject` without the generation.

    Args:
        images: `b 3 h w` in [-1, 1], prompts outermost, seeds within: prompt 0 seed 0, prompt 0 seed 1, ...
        references: see `evaluate_subject`, as all the others.
    """
    _check(images, references)
    assert len(images) == len(prompts) * len(seeds), f"{len(images)} images, {len(prompts)} prompts, {len(seeds)} seeds"
    # Judged at the 8 bits in which images are kept, so that a saved file and the tensor score the same.
    run = _Run(as_stored(images), as_stored(references), tuple(prompts), tuple(seeds), judges, truth)
    figures: dict[str, Figure] = {}
    copying: CopyReport | None = None
    if judges.clip is not None:
        figures |= run.similarity("clip-i", judges.clip)
        figures["clip-t"] = run.prompt_agreement(judges.clip, noun)
    if judges.dino is not None:
        figures |= run.similarity("dino-i", judges.dino)
        figures |= run.diversity(judges.dino)
        copying = run.copying(judges.dino)
        if drift is not None:
            figures["drift"] = run.drift(judges.dino, *map(as_stored, drift))
    if judges.attributes is not None:
        figures |= run.attribute_accuracy(judges.attributes)
    if copying is not None:
        figures["copies"] = run.copies(copying)
    return Report(
        recipe=recipe,
        subject=subject,
        seeds=tuple(seeds),
        prompts=tuple(prompt.text for prompt in prompts),
        figures=figures,
        copying=copying,
    )


def as_stored(images: Tensor) -> Tensor:
    """Images `b 3 h w` in [-1, 1] after rounding to 8 bits, float32."""
    return pixels_of(levels_of(images.float()))


def _check(images: Sequence | Tensor, references: Tensor) -> None:
    if len(images) == 0 or len(references) == 0:
        raise UsageError("evaluation needs at least one prompt, one seed and one reference photo, got none.")


@dataclasses.dataclass(frozen=True)
class _Run:
    """The measures over one set of images; values are grouped by seed, which is what the spread is over."""

    images: Tensor
    references: Tensor
    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    judges: Judges
    truth: Truth | None

    def _embed(self, encoder: ImageEncoder, images: Tensor) -> Tensor:
        return torch.cat([encoder.encode_images(chunk).cpu() for chunk in images.split(self.judges.batch_size)])

    def _by_seed(self, values: Tensor) -> list[list[float]]:
        return values.reshape(len(self.prompts), len(self.seeds)).T.tolist()

    def _figure(self, groups: Sequence[Sequence[float]], encoder: str, better: bool | None = True, **changes) -> Figure:
        settings = {"unit": "seed", "prompts": len(self.prompts), **changes}
        return figure_over(groups, encoder=encoder, higher_is_better=better, **settings)

    def similarity(self, name: str, encoder: ImageEncoder) -> dict[str, Figure]:
        """Similarity to the references and, where there are any, to true novel views, with what those reach."""
        generated, references = self._embed(encoder, self.images), self._embed(encoder, self.references)
        to_references = metrics.reference_similarity(generated, references)
        figures = {name: self._figure(self._by_seed(to_references), encoder.id)}
        if self.truth is not None:
            views = self._embed(encoder, as_stored(self.truth.views))
            to_views = metrics.reference_similarity(generated, views)
            figures[f"{name}-truth"] = self._figure(self._by_seed(to_views), encoder.id)
            figures[f"{name}-ceiling"] = self._ceiling(metrics.reference_similarity(views, references), encoder.id)
            if len(views) > 1:
                others = metrics.similarity_to_others(views)
                figures[f"{name}-truth-ceiling"] = self._ceiling(others, encoder.id)
        return figures

    def _ceiling(self, values: Tensor, encoder: str) -> Figure:
        return self._figure([[value] for value in values.tolist()], encoder, None, unit="view", prompts=0)

    def prompt_agreement(self, clip: ImageTextEncoder, noun: str) -> Figure:
        """CLIP-T with clean class words."""
        texts = clip.encode_texts([prompt.with_class_word(noun) for prompt in self.prompts]).cpu()
        generated = self._embed(clip, self.images)
        agreement = metrics.paired_similarity(generated, texts.repeat_interleave(len(self.seeds), dim=0))
        return self._figure(self._by_seed(agreement), clip.id)

    def diversity(self, encoder: ImageEncoder) -> dict[str, Figure]:
        """Vendi score and mean distance among the seeds of each prompt; nothing for a single seed."""
        if len(self.seeds) < 2:
            return {}
        sets = self._embed(encoder, self.images).reshape(len(self.prompts), len(self.seeds), -1)
        # A set spans all seeds, so the prompts are what is drawn independently here.
        values = {
            "vendi": [[metrics.vendi_score(s)] for s in sets],
            "distance": [[metrics.pairwise_distance(s)] for s in sets],
        }
        return {name: self._figure(groups, encoder.id, None, unit="prompt") for name, groups in values.items()}

    def drift(self, encoder: ImageEncoder, base: Tensor, adapted: Tensor) -> Figure:
        """Distance of adapted outputs from the base's on unrelated prompts."""
        values = metrics.drift(self._embed(encoder, base), self._embed(encoder, adapted))
        return self._figure(
            [[value] for value in values.tolist()], encoder.id, False, unit="image", prompts=len(values)
        )

    def attribute_accuracy(self, reader: AttributeReader) -> dict[str, Figure]:
        """Share of expected attributes found: overall, by kind, and of the subject's own attributes."""
        read = [facts for chunk in self.images.split(self.judges.batch_size) for facts in reader(chunk)]
        expected = [dict(prompt.expected) for prompt in self.prompts for _ in self.seeds]
        hits = metrics.attribute_hits(read, expected)
        kinds = sorted({kind for _, kind, _ in hits})
        figures = {"attributes": self._share(hits, reader.id)} if hits else {}
        figures |= {f"attributes/{kind}": self._share([h for h in hits if h[1] == kind], reader.id) for kind in kinds}
        if self.truth is not None and self.truth.attributes:
            own = metrics.attribute_hits(read, [self.truth.attributes] * len(read))
            figures["subject"] = self._share(own, reader.id)
        return figures

    def _share(self, hits: list[tuple[int, str, bool]], reader_id: str) -> Figure:
        groups: list[list[float]] = [[] for _ in self.seeds]
        for index, _, right in hits:
            groups[index % len(self.seeds)].append(float(right))
        prompts = len({index // len(self.seeds) for index, _, _ in hits})
        return self._figure(groups, reader_id, prompts=prompts)

    def copying(self, encoder: ImageEncoder) -> CopyReport | None:
        """The copying check, where there is something honest to compare with."""
        views = None if self.truth is None else as_stored(self.truth.views)
        if views is None and len(self.references) < 2:
            return None
        return check_copying(self.images, self.references, encoder, truth=views)

    def copies(self, report: CopyReport) -> Figure:
        """Share of flagged images."""
        flags = torch.zeros(report.n)
        flags[list(report.copied)] = 1
        return self._figure(self._by_seed(flags), report.encoder, False)
