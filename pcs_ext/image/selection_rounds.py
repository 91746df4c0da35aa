"""Rounds of selection on disk: what each chose, learned and scored, and resumption."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import config_hash, read_json, to_jsonable, write_json
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Photo, SubjectDataset
from pcs_ext.image.photo_reader import load_photo_encoder
from pcs_ext.image.recipes.base import Phase, Recipe
from pcs_ext.image.rounds import claim
from pcs_ext.image.selection import SelectConfig, balance, chosen, loss_weights, scores, sharpness, standing
from pcs_ext.image.subject import Artifact, as_tensor
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import seed_for

LearnRound = Callable[[Sequence[Photo], Path, float, Artifact | None], Artifact]
"""`(photos, folder, factor of the rates, subject to go on from) -> subject`, saved in the folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """What a round chose and came to."""

    rows: tuple[int, ...]
    """Of the pool."""
    rate: float
    """Times the recipe's learning rates."""
    quality: float
    """Standing of what was generated among the pool, in [0, 1]."""
    concept: float
    """Likewise."""

    @property
    def total(self) -> float:
        """What rounds are compared by."""
        return self.quality + self.concept


class Eye:
    """Both scorers, over pictures in [-1, 1].

    Args:
        settings: which.
        concept: says the class noun.
        device: of the CLIP.

    Raises:
        ModelError: there is no such CLIP.
    """

    def __init__(self, settings: SelectConfig, concept: Concept, device: torch.device) -> None:
        self.settings, self.clip = settings, load_photo_encoder(settings.encoder, device)
        with torch.no_grad():
            texts = [concept.class_prompt(settings.probe[0]), "a good photo", "a bad photo"]
            self.noun, self.good, self.bad = self.clip.encode_texts(texts)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Unit vectors `b d`."""
        return torch.cat([self.clip.encode_images(part) for part in images.split(16)])

    def quality(self, images: Tensor, features: Tensor) -> Tensor:
        """`b`, the higher the better."""
        if self.settings.quality == "sharpness":
            return sharpness(images)
        return (100 * features @ (self.good - self.bad)).sigmoid().cpu()

    def concept(self, features: Tensor, known: Tensor | None) -> Tensor:
        """`b`: cosine to the class noun, and to the mean of what was chosen where something was."""
        likeness = features @ self.noun
        if known is not None:
            likeness = (likeness + features @ torch.nn.functional.normalize(known.mean(0), dim=0)) / 2
        return likeness.cpu()


class Selection:
    """Chooses, learns, generates, scores, and chooses more.

    Args:
        recipe: with `select`.
        pool: of photos.
        backbone: the base, without adapters.
        folder: of what is needed only until the end.
        seed: of what is generated.
        reporter: hears the progress.
    """

    def __init__(
        self, recipe: Recipe, pool: Sequence[Photo], backbone: AbstractBackbone, *, folder: Path, seed: int,
        reporter: Reporter,
    ) -> None:  # fmt: skip
        assert recipe.select is not None
        self.settings, self.concept, self.pool = recipe.select, recipe.concept, list(pool)
        self.backbone, self.folder, self.seed, self.reporter = backbone, folder, seed, reporter
        self.eye = Eye(self.settings, recipe.concept, backbone.device)
        data = SubjectDataset(pool, recipe.concept, resolution=backbone.resolution, augmentation=recipe.augmentation)
        self.pictures = torch.stack(data.squares())
        self.features = self.eye.features(self.pictures)

    def run(self, learn_round: LearnRound) -> tuple[Artifact, list[Scored]]:
        """The subject of the best round, and all rounds."""
        history: list[Scored] = []
        while not self._ended(history):
            number = len(history) + 1
            rows, weights, rate = self._next(history)
            best = self._best(history)
            subject = self._learned(number, rows, weights, rate, best, learn_round)
            history.append(self._scored(number, subject, rows, rate))
            now = history[-1]
            self.reporter.event(
                "round", f"round {number}: {len(rows)} of {len(self.pool)} photos, quality {now.quality:.2f}, concept "
                f"{now.concept:.2f}", round=number,
            )  # fmt: skip
        best = self._best(history)
        assert best is not None, "there is a first round"
        return Artifact.load(self._place(best)), history

    def _best(self, history: Sequence[Scored]) -> int | None:
        """Number of the best round so far, the first of equal ones."""
        return max(range(1, len(history) + 1), key=lambda n: (history[n - 1].total, -n), default=None)

    def _ended(self, history: Sequence[Scored]) -> bool:
        """All rounds are done, no photo is left, or the last ones brought nothing."""
        best = self._best(history)
        if best is None:
            return False
        spent = len(history) == self.settings.rounds or len(history[-1].rows) == len(self.pool)
        return spent or len(history) - best >= self.settings.patience

    def _next(self, history: Sequence[Scored]) -> tuple[list[int], list[float], float]:
        """Rows of the pool, what each counts, and the factor of the rates of the next round."""
        before = list(history[-1].rows) if history else self._vetted()
        weight = balance(history[-1].quality, history[-1].concept) if history else 0.5
        points = self._points(before, weight)
        count = self.settings.add if history else (0 if before else self.settings.first)
        rows = chosen(points, before, count)
        rate = history[-1].rate if history else 1.0
        if history and self._best(history) != len(history):
            rate *= self.settings.decay
        return rows, loss_weights(points[rows]), rate

    def _vetted(self) -> list[int]:
        return [row for row, photo in enumerate(self.pool) if photo.caption is not None]

    def _points(self, known: Sequence[int], weight: float) -> Tensor:
        quality = self.eye.quality(self.pictures, self.features)
        return scores(quality, self.eye.concept(self.features, self._known(known)), weight)

    def _known(self, rows: Sequence[int]) -> Tensor | None:
        return self.features[list(rows)] if rows else None

    def _learned(
        self, number: int, rows: Sequence[int], weights: Sequence[float], rate: float, best: int | None,
        learn_round: LearnRound,
    ) -> Artifact:  # fmt: skip
        place = self._place(number)
        if place.exists():
            return Artifact.load(place)
        photos = [self.pool[row].but(weight=w) for row, w in zip(rows, weights, strict=True)]
        return learn_round(photos, place, rate, None if best is None else Artifact.load(self._place(best)))

    def _scored(self, number: int, subject: Artifact, rows: Sequence[int], rate: float) -> Scored:
        notes = self.folder / f"round-{number}.json"
        if notes.exists():
            found = read_json(notes)
            return Scored(**{**found, "rows": tuple(found["rows"])})
        seeds = [seed_for("selection", self.seed, number, index) for index in range(self.settings.images)]
        made = subject.generate(list(self.settings.probe), seeds=seeds, base=self.backbone, reporter=self.reporter)
        pictures = torch.stack([as_tensor(one) for one in made])
        features, known = self.eye.features(pictures), self._known(rows)
        scored = Scored(
            rows=tuple(rows),
            rate=rate,
            quality=standing(self.eye.quality(pictures, features), self.eye.quality(self.pictures, self.features)),
            concept=standing(self.eye.concept(features, known), self.eye.concept(self.features, known)),
        )
        write_json(notes, dataclasses.asdict(scored))
        return scored

    def _place(self, number: int) -> Path:
        return self.folder / f"round-{number}"


def learn_selected(
    recipe: Recipe, photos: Sequence[Photo], output: Path, learn: Callable[..., Artifact], request: dict[str, Any]
) -> Artifact:
    """`learn` by itself for every round, on what it chose of the photos; the best one's subject is saved as this one's.

    Args:
        recipe: with `select`.
        photos: the pool.
        output: folder of the artifact.
        learn: `pcs_ext.image.learn.learn`.
        request: its other arguments: `base` (loaded), `seed`, `after`, `rivals` and `reporter`.
    """
    folder, base, rivals = Path(f"{output}.training"), request["base"], request["rivals"]
    known = [to_jsonable(recipe), request["seed"], base.fingerprint, *(photo.digest for photo in photos)]
    known += [*(one.data.content_hash for one in request["after"]), None if rivals is None else rivals.digest]
    claim(folder, config_hash(known))
    single, noun = dataclasses.replace(recipe, select=None), recipe.concept.class_noun

    def learn_round(some: Sequence[Photo], place: Path, rate: float, start: Artifact | None) -> Artifact:
        slower = dataclasses.replace(single, phases=tuple(_at_rate(phase, rate) for phase in single.phases))
        return learn(some, noun=noun, output=place, recipe=slower, start=start, **request)

    selection = Selection(recipe, photos, base, folder=folder, seed=request["seed"], reporter=request["reporter"])
    best, history = selection.run(learn_round)
    rounds = [{**dataclasses.asdict(one), "photos": [photos[row].path.name for row in one.rows]} for one in history]
    training = {**best.data.training, "rounds": rounds}
    dataclasses.replace(best.data, recipe=to_jsonable(recipe), training=training).save(output)
    shutil.rmtree(folder, ignore_errors=True)
    request["reporter"].event("learned", f"saved {output}", output=str(output))
    return Artifact(ArtifactData.load(output))


def _at_rate(phase: Phase, factor: float) -> Phase:
    rates = {name: factor * rate for name, rate in phase.learning_rates.items()}
    return dataclasses.replace(phase, learning_rates=rates)
