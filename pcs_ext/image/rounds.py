"""Rounds of learning on disk: each one's subject, the pictures of it that the next one learns from, and resumption."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import config_hash, read_json, to_jsonable, write_json
from pcs_ext.errors import CheckpointError
from pcs_ext.image.active import ActiveConfig, Taken, take
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import SUBJECT, Concept
from pcs_ext.image.data import Photo, read_photo
from pcs_ext.image.photo_reader import load_photo_encoder
from pcs_ext.image.recipes.base import Recipe
from pcs_ext.image.subject import Artifact, GeneratedImage, as_tensor
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import seed_for

LearnOnce = Callable[[Sequence[Photo], Path], Artifact]
"""`(photos, folder) -> subject` learned from them on the base, saved in the folder; goes on where it was stopped."""


class Rounds:
    """Learns, generates, takes, and learns anew from the base.

    Args:
        settings: how often and how much.
        concept: names the subject, with its word.
        backbone: the base, without adapters.
        folder: of what is needed only until the end.
        taken: folder of the pictures that are learned from; it stays.
        seed: of the pictures.
        made_by: hash of all that decides what rounds learn: those of another one are refused.
        reporter: hears the progress.
    """

    def __init__(
        self,
        settings: ActiveConfig,
        concept: Concept,
        backbone: AbstractBackbone,
        *,
        folder: Path,
        taken: Path,
        seed: int,
        made_by: str,
        reporter: Reporter,
    ) -> None:
        self.settings, self.concept, self.backbone = settings, concept, backbone
        self.folder, self.taken, self.seed, self.reporter = folder, taken, seed, reporter
        self.made_by = made_by

    def run(self, photos: Sequence[Photo], learn_once: LearnOnce) -> Artifact:
        """The subject of the last round, or of the one after which too few directions were unsure.

        Raises:
            CheckpointError: the folder holds rounds that were made by something else.
        """
        claim(self.folder, self.made_by)
        added: list[Photo] = []
        directions = list(self.settings.directions)
        number = 1
        while True:
            subject = self._learned(number, [*photos, *added], learn_once)
            if number == self.settings.rounds:
                return subject
            found = self._taken(number, subject, directions, photos)
            names = ", ".join(one.direction for one in found) or "nothing, all is decided"
            self.reporter.event("round", f"round {number} of {self.settings.rounds}: took {names}", round=number)
            if not found:
                return subject
            added += [self._photo(number, index, one) for index, one in enumerate(found)]
            directions = [one for one in directions if one not in {took.direction for took in found}]
            number += 1

    def _learned(self, number: int, photos: Sequence[Photo], learn_once: LearnOnce) -> Artifact:
        place = self.folder / f"round-{number}"
        return Artifact.load(place) if place.exists() else learn_once(photos, place)

    def _taken(self, number: int, subject: Artifact, directions: Sequence[str], photos: Sequence[Photo]) -> list[Taken]:
        notes = self.folder / f"round-{number}.json"
        if notes.exists():
            return [Taken(**one) for one in read_json(notes)]
        if not directions:
            return []
        made = [self._generated(number, subject, direction) for direction in directions]
        found = self._chosen(directions, made, photos)
        for index, one in enumerate(found):
            self.taken.mkdir(parents=True, exist_ok=True)
            made[directions.index(one.direction)][one.image].image.save(self._path(number, index))
        write_json(notes, [dataclasses.asdict(one) for one in found])
        return found

    def _generated(self, number: int, subject: Artifact, direction: str) -> list[GeneratedImage]:
        seeds = [seed_for("active", self.seed, number, direction, index) for index in range(self.settings.images)]
        return subject.generate(direction, seeds=seeds, base=self.backbone, reporter=self.reporter)

    @torch.no_grad()
    def _chosen(
        self, directions: Sequence[str], made: Sequence[Sequence[GeneratedImage]], photos: Sequence[Photo]
    ) -> list[Taken]:
        clip = load_photo_encoder(self.settings.encoder, self.backbone.device)
        pictures = torch.stack([clip.encode_images(torch.stack([as_tensor(one) for one in row])) for row in made])
        captions = {photo.caption or self.concept.templates[0] for photo in photos}
        plain = sorted(self.concept.class_prompt(c) if SUBJECT in c else c for c in captions)
        asked = clip.encode_texts([self.concept.class_prompt(direction) for direction in directions])
        return take(directions, pictures, asked, clip.encode_texts(plain), self.settings)

    def _path(self, number: int, index: int) -> Path:
        return self.taken / f"round-{number}-{index + 1}.png"

    def _photo(self, number: int, index: int, one: Taken) -> Photo:
        return dataclasses.replace(read_photo(self._path(number, index)), caption=one.direction, weight=one.weight)


def claim(folder: Path, made_by: str) -> None:
    """Mark a folder of rounds as this job's.

    Raises:
        CheckpointError: the folder holds rounds that were made by something else.
    """
    mark = folder / "rounds.json"
    if not mark.exists():
        write_json(mark, {"made_by": made_by})
    elif read_json(mark)["made_by"] != made_by:
        raise CheckpointError(
            f"{folder} holds rounds of other settings, photos or another base. Run with the same ones to go on, or "
            "move the folder away to start over."
        )


def learn_in_rounds(
    recipe: Recipe, photos: Sequence[Photo], output: Path, learn: Callable[..., Artifact], request: dict[str, Any]
) -> Artifact:
    """`learn` by itself for every round, with what all of them share; the last one's subject is saved as this one's.

    Args:
        recipe: with `active`.
        photos: of the subject.
        output: folder of the artifact.
        learn: `pcs_ext.image.learn.learn`.
        request: its other arguments: `base` (loaded), `seed`, `after`, `rivals` and `reporter`.
    """
    assert recipe.active is not None
    single, noun = dataclasses.replace(recipe, active=None), recipe.concept.class_noun
    folder, base, rivals = Path(f"{output}.training"), request["base"], request["rivals"]
    known = [to_jsonable(recipe), request["seed"], base.fingerprint, *(photo.digest for photo in photos)]
    known += [*(one.data.content_hash for one in request["after"]), None if rivals is None else rivals.digest]
    rounds = Rounds(
        recipe.active, recipe.concept, base, folder=folder, taken=Path(f"{output}.taken"), seed=request["seed"],
        made_by=config_hash(known), reporter=request["reporter"],
    )  # fmt: skip
    last = rounds.run(photos, lambda some, place: learn(some, noun=noun, output=place, recipe=single, **request))
    own, found = {photo.path.name for photo in photos}, last.data.training["photos"]
    training = {
        **last.data.training,
        "photos": {name: digest for name, digest in found.items() if name in own},
        "taken": {name: digest for name, digest in found.items() if name not in own},
    }
    dataclasses.replace(last.data, recipe=to_jsonable(recipe), training=training).save(output)
    shutil.rmtree(folder, ignore_errors=True)
    request["reporter"].event("learned", f"saved {output}", output=str(output))
    return Artifact(ArtifactData.load(output))
