"""An attacker: someone who trains a model on the photos that are there, and what the model then knows of the subject.

Attackers are recipes of the core and know nothing of how photos were protected: other random word, other noise, other
class pictures than the surrogates that the protection was computed with.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.config_io import config, config_hash, file_sha256, from_jsonable, read_json, to_jsonable, write_json
from pcs_ext.defense.faces import FaceScore, load_detector, score_faces
from pcs_ext.defense.naturalness import NaturalModel
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import fill
from pcs_ext.image.evaluate.encoders import ImageEncoder
from pcs_ext.image.evaluate.generation import ImageSet, make_images, paint_artifact, paint_base
from pcs_ext.image.evaluate.metrics import reference_similarity
from pcs_ext.image.evaluate.pictures import square_images
from pcs_ext.image.evaluate.stopwatch import Stopwatch, seconds_in
from pcs_ext.image.learn import learn, preset_of, resolve_recipe
from pcs_ext.image.objectives import denoising_errors
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for, seed_for

_LEVELS_OF_NOISE = 8
_OUTCOME = "outcome.json"
NOBODY = "nobody"
"""The base as it is, asked for the class noun: what is to be had without any photo."""


@config
class Attacker:
    """How an attacker learns."""

    recipe: str
    """Name in the core's `RECIPES`; hyperparameters are those of the base's preset."""
    share: float = 1.0
    """Of the recipe's optimiser steps."""
    base: str = ""
    """Model that is trained: a hub id, folder or file; empty: the first one that was protected against."""

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise ConfigError(
                f"recipe {self.recipe!r} of an attacker is unknown; expected one of {', '.join(RECIPES)}."
            )
        if self.share <= 0:
            raise ConfigError(f"share of an attacker's steps must be positive, got {self.share}.")

    @property
    def label(self) -> str:
        """How tables call it."""
        return f"{self.recipe} on {self.base}" if self.base else self.recipe

    def steps(self, noun: str, backbone: AbstractBackbone) -> int:
        """Optimiser steps on a base."""
        return max(1, round(self.share * resolve_recipe(self.recipe, noun, preset_of(backbone)).steps))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """What all attackers of an evaluation share."""

    backbone: AbstractBackbone
    noun: str
    references: Tensor
    """Clean photos of the subject, `r 3 s s` in [-1, 1] at the base's training size."""
    reference_hashes: tuple[str, ...]
    """sha256 of their files."""
    encoder: ImageEncoder
    """Judges likeness."""
    natural: NaturalModel
    """Of pictures by the base itself."""
    prompts: tuple[str, ...]
    """With `{subject}`."""
    seeds: tuple[int, ...]
    """One picture per prompt and seed, the same for every attacker: differences are paired."""
    folder: Path
    """Holds a folder per attacker and set of photos."""
    faces: str = ""
    """Who finds faces, see `faces.load_detector`; empty: faces are not looked for."""

    @property
    def facts(self) -> dict[str, object]:
        """Everything here that an outcome depends on, JSON-able. Names what was put in, not what was computed from it:
        the last bits of that depend on the number of threads."""
        return {
            "base": self.backbone.fingerprint,
            "precision": str(self.backbone.dtype),
            "noun": self.noun,
            "references": list(self.reference_hashes),
            "encoder": self.encoder.id,
            "natural_patches": self.natural.patches,
            "sampling": to_jsonable(SAMPLING[preset_of(self.backbone)]),
            "prompts": list(self.prompts),
            "seeds": list(self.seeds),
            **({"faces": self.faces} if self.faces else {}),
        }


@config
class Outcome:
    """What an attacker got out of some photos."""

    likeness: tuple[float, ...]
    """Of each picture: mean cosine to the clean photos, in [-1, 1]; higher is worse for who is protected."""
    artefacts: float
    """Distance of the pictures' fine structure from that of the base's own pictures, 0 or more (`NaturalModel`)."""
    loss: float
    """Mean denoising loss of the attacker's model on the clean photos, at noise of its own: low when it knows them."""
    pictures: tuple[str, ...]
    """File names, relative to the scene's folder; prompts outermost."""
    steps: int
    """Optimiser steps."""
    seconds: float
    """Wall time of training, painting and measuring, over all attempts."""
    faces: FaceScore | None = None
    """FDFR and ISM of the pictures, where a detector was named."""


def attack(
    attacker: Attacker, photos: Sequence[Path], scene: Scene, *, seed: int, reporter: Reporter, name: str
) -> Outcome:
    """Train on the photos, paint, measure. What an earlier call finished is read, what it began goes on.

    The learned subject itself is deleted once it is measured: full fine-tunings are as large as their base.

    Args:
        attacker: how.
        photos: files as the attacker has them.
        scene: the rest.
        seed: of the training.
        reporter: hears progress.
        name: for progress.

    Raises:
        PhotoError, UsageError: the photos cannot be learned from.
        DivergedError: the training's loss stopped being finite.
        Interrupted: Ctrl-C; the same call goes on.
    """
    digests = [file_sha256(path) for path in photos]
    facts = {"attacker": to_jsonable(attacker), "seed": seed, "photos": digests, **scene.facts}
    folder = scene.folder / f"{attacker.recipe}-{config_hash(facts)}"
    if (folder / _OUTCOME).is_file():
        return from_jsonable(Outcome, read_json(folder / _OUTCOME), where=str(folder / _OUTCOME))
    watch, subject = Stopwatch(folder / "time.json", reporter), folder / "subject"
    steps = attacker.steps(scene.noun, scene.backbone)
    reporter.event("attack", name)
    if not subject.exists():
        learn(
            photos,
            noun=scene.noun,
            output=subject,
            recipe=attacker.recipe,
            base=scene.backbone,
            steps=steps,
            seed=seed_for("attacker", seed),
            reporter=watch,
        )
    artifact = Artifact.load(subject)
    painted = make_images(
        folder / "pictures",
        scene.prompts,
        scene.seeds,
        paint_artifact(artifact, scene.backbone),
        facts=facts,
        task="paint",
        reporter=watch,
    )
    with artifact.applied(scene.backbone):
        loss = denoising_loss(scene.backbone, scene.references, artifact.concept.prompt("a photo of {subject}"))
    watch.save()
    outcome = _outcome(painted, scene, loss, steps, seconds_in(folder / "time.json"))
    write_json(folder / _OUTCOME, outcome)
    shutil.rmtree(subject)
    return outcome


def nobody(scene: Scene, reporter: Reporter) -> Outcome:
    """The base as it is, with the class noun in the prompts: the floor of every measure."""
    folder = scene.folder / f"{NOBODY}-{config_hash(scene.facts)}"
    if (folder / _OUTCOME).is_file():
        return from_jsonable(Outcome, read_json(folder / _OUTCOME), where=str(folder / _OUTCOME))
    paint = paint_base(scene.backbone, SAMPLING[preset_of(scene.backbone)], scene.noun)
    painted = make_images(
        folder / "pictures", scene.prompts, scene.seeds, paint, facts=scene.facts, task="paint", reporter=reporter
    )
    loss = denoising_loss(scene.backbone, scene.references, fill("a photo of {subject}", scene.noun))
    outcome = _outcome(painted, scene, loss, 0, painted.seconds)
    write_json(folder / _OUTCOME, outcome)
    return outcome


@torch.no_grad()
def _outcome(painted: ImageSet, scene: Scene, loss: float, steps: int, seconds: float) -> Outcome:
    pictures = square_images(painted.paths, scene.backbone.resolution)
    references = scene.encoder.encode_images(scene.references).cpu()
    likeness = reference_similarity(scene.encoder.encode_images(pictures).cpu(), references)
    faces = None
    if scene.faces:
        detector = load_detector(scene.faces)
        faces = score_faces(pictures, scene.references, detector, scene.encoder.encode_images)
    return Outcome(
        likeness=tuple(likeness.tolist()),
        artefacts=scene.natural.distance(NaturalModel.of(pictures)),
        loss=loss,
        pictures=tuple(path.relative_to(scene.folder).as_posix() for path in painted.paths),
        steps=steps,
        seconds=seconds,
        faces=faces,
    )


@torch.no_grad()
def denoising_loss(backbone: AbstractBackbone, images: Tensor, prompt: str) -> float:
    """Mean squared error of the prediction for images `n 3 s s` in [-1, 1], averaged over eight evenly spaced noise
    levels; the noise depends on image and level alone, so that models can be compared."""
    schedule, device = backbone.schedule, backbone.device
    conditioning = backbone.encode_prompt([prompt])
    losses = []
    for index, image in enumerate(images):
        latents = backbone.encode_images(image[None].to(device, backbone.dtype)).float()
        for level in range(_LEVELS_OF_NOISE):
            timestep = int(schedule.num_train_timesteps * (level + 0.5) / _LEVELS_OF_NOISE)
            generator = generator_for("denoising loss", index, level)
            noise = torch.randn(latents.shape, generator=generator).to(device)
            timesteps = torch.tensor([timestep], device=device)
            prediction = backbone.predict(schedule.add_noise(latents, noise, timesteps), timesteps, conditioning)
            losses.append(float(denoising_errors(prediction, schedule.target(latents, noise, timesteps)).mean()))
    return sum(losses) / len(losses)
