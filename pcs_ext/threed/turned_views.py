"""One photo turned a little to all sides, and the word that learns its shape from that (Consist3D's second token)."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.config_io import atomic_folder, config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.concept import SUBJECT, Concept, fill
from pcs_ext.image.data import Photo
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.levels import to_pil
from pcs_ext.image.objectives import MaskNormalisation, ObjectiveConfig
from pcs_ext.image.recipes import Phase, Recipe
from pcs_ext.image.sample import SampleConfig
from pcs_ext.threed.cameras import Vector, orbit
from pcs_ext.threed.warp import inflated, read_nearness, warped

SHAPE_WORD = "<shape>"


@config
class TurnConfig:
    """How far the photo is turned."""

    azimuths: tuple[float, ...] = (-30.0, -20.0, -10.0, 10.0, 20.0, 30.0)
    """Degrees to the side of the photo's own camera."""
    elevations: tuple[float, ...] = (0.0, 10.0, 0.0, -5.0)
    """Degrees above it; the views take them in turn."""
    elevation: float = 15.0
    """Of the photo's camera, degrees; where it stood is not known, and only the axis of the turn depends on it."""
    distance: float = 5.2
    """Of the photo's camera, world units."""
    fov: float = 32.0
    """Its full vertical angle, degrees."""
    relief: float = 1.0
    """From the nearest to the farthest pixel, world units; the thing is about two units tall."""

    def __post_init__(self) -> None:
        if not self.azimuths or not self.elevations or self.relief <= 0 or self.distance <= self.relief:
            raise ConfigError(
                f"expected turns, a relief above 0 and a camera farther away than that, got {self.azimuths}, "
                f"{self.relief} and {self.distance}."
            )


@config
class ShapeWordConfig:
    """How the second token is learned."""

    fit: FitConfig
    """Steps and optimiser."""
    learning_rate: float
    """Of its vector."""
    batch_size: int = 4
    """Pictures per step."""


def make_turned_views(
    folder: Path, photo: Photo, depth: Path | None, side: int, caption: str, settings: TurnConfig, target: Vector
) -> None:
    """Write the photo and its turned views as `NN.png`, `NN_mask.png` (what they show) and `NN.txt`, all at once.

    The names are those that `learn` reads photos, masks and captions by. `00` is the photo itself, all of it.

    Args:
        folder: appears whole or not at all.
        photo: with a mask, unless there is a depth picture.
        depth: a depth picture of the photo, brighter is nearer; None: the mask's outline, inflated.
        side: of the views, pixels.
        caption: of all of them.
        settings: which turns.
        target: the point that the turns are about.

    Raises:
        InputError: a mask that covers nothing, or a depth picture that cannot be read.
    """
    image, cover = _square(photo.image, side), None if photo.mask is None else _square(photo.mask, side)[0] > 0.5
    if depth is None:
        assert cover is not None, "checked with the request"
        nearness = inflated(cover)
    else:
        size = photo.image.shape[1:]
        nearness = _square(read_nearness(depth, (size[0], size[1]))[None], side)[0]
        cover = nearness > 0.02 if cover is None else cover
    source = orbit([0.0], [settings.elevation], [settings.distance], [settings.fov], target)
    count = len(settings.azimuths)
    raised = [settings.elevation + settings.elevations[index % len(settings.elevations)] for index in range(count)]
    others = orbit(settings.azimuths, raised, [settings.distance] * count, [settings.fov] * count, target)
    turned, seen = warped(image, settings.distance + settings.relief * (0.5 - nearness), cover, source, others)
    # Outside of what is seen the loss does not look; the encoder does, so let it see what the photo is made of.
    around = image.mean((1, 2))[:, None, None]
    pictures = torch.cat([image[None], torch.where(seen, turned, around)])
    masks = torch.cat([torch.ones(1, 1, side, side), seen.float()])
    with atomic_folder(folder) as files:
        for index, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
            to_pil(picture).save(files / f"{index:02d}.png")
            to_pil(mask.expand(3, -1, -1) * 2 - 1).convert("L").save(files / f"{index:02d}_mask.png")
            (files / f"{index:02d}.txt").write_text(caption, encoding="utf-8")


def _square(image: Tensor, side: int) -> Tensor:
    """The middle of a picture `c h w`, `side` pixels square, as `learn` crops it."""
    edge = min(image.shape[1:])
    top, left = ((size - edge) // 2 for size in image.shape[1:])
    middle = image[None, :, top : top + edge, left : left + edge]
    return functional.interpolate(middle, (side, side), mode="bilinear", antialias=True)[0]


def shape_caption(concept: Concept) -> str:
    """What turned views are called: the subject's words, and after them the place of the second token."""
    return fill("a photo of {subject}", f"{concept.name} {SUBJECT}", article=concept.article)


def both_words(concept: Concept, shape: Concept, prompt: str) -> str:
    """A prompt with both tokens in place of `{subject}`."""
    return fill(prompt, f"{concept.name} {shape.name}", article=concept.article)


def shape_word(noun: str, settings: ShapeWordConfig, sampling: SampleConfig) -> Recipe:
    """The core's recipe of the second token: one vector, the loss where the views show something."""
    start = noun.split()[-1]
    concept = Concept(
        class_noun=noun, mode="learned", token=SHAPE_WORD, with_noun=False, initializer=start, article=False
    )
    phase = Phase(
        name="shape",
        learning_rates={"shape/embedding": settings.learning_rate},
        batch_size=settings.batch_size,
        objective=ObjectiveConfig(mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN),
        fit=settings.fit,
    )
    return Recipe(
        id="consist3d-shape",
        concept=concept,
        adapters={"shape": EmbeddingConfig(placeholder=SHAPE_WORD, initializer=start)},
        phases=(phase,),
        sampling=sampling,
    )
