"""Random scenes: what the models of toybox are trained and judged on."""

import dataclasses
import math

import torch

from pcs_ext.toybox.world.assembly import pose
from pcs_ext.toybox.world.build import build
from pcs_ext.toybox.world.captions import relative_view
from pcs_ext.toybox.world.parts import apply
from pcs_ext.toybox.world.scene import Camera, Scene, SceneObject
from pcs_ext.toybox.world.vocabulary import ACCESSORIES, CLASSES, COLORS, CONTEXTS, MOTIONS, PATTERNS, STYLES

_PHOTO_SHARE = 0.55


def sample_scene(
    generator: torch.Generator,
    *,
    two_objects: float = 0.08,
    style: str | None = None,
    context: str | None = None,
    toy: SceneObject | None = None,
) -> Scene:
    """A random still.

    Args:
        generator: the only source of randomness (CPU).
        two_objects: probability of a second toy beside the first.
        style: one of `STYLES`; None draws one, photos most often.
        context: one of `CONTEXTS`; None draws one.
        toy: show this toy (its accessory, position and heading are kept) instead of a random one.
    """
    draw = _Draw(generator)
    if style is None:
        style = STYLES[0] if draw.uniform() < _PHOTO_SHARE else draw.choice(STYLES[1:])
    objects = (toy if toy is not None else sample_toy(generator),)
    if toy is None and draw.uniform() < two_objects:
        objects = _side_by_side(objects[0], sample_toy(generator, accessories=0.1))
    azimuth, elevation = _view(draw, heading=objects[0].heading)
    if len(objects) > 1:
        azimuth, elevation = draw.between(-35, 35), draw.between(8, 22)
    camera = frame(objects, azimuth, elevation, fill=draw.between(0.80, 0.96))
    x, y, z = camera.target
    shift = 0.05 * camera.distance
    target = (
        x + draw.between(-shift, shift) * 0.7,
        y + draw.between(-shift, shift) * 0.7,
        z + draw.between(-0.6, 0.4) * shift,
    )
    return Scene(
        objects=objects,
        context=context if context is not None else draw.choice(CONTEXTS),
        style=style,
        camera=dataclasses.replace(camera, target=target),
        light=(azimuth + draw.between(-70, 70), draw.between(35, 65)),
        background_seed=draw.between(0, 10),
    )


def sample_clip(
    generator: torch.Generator,
    *,
    motion: str | None = None,
    style: str | None = None,
    toy: SceneObject | None = None,
) -> Scene:
    """A random scene of one moving toy at time 0, seen from so far away that it stays in the picture.

    Args:
        generator: the only source of randomness (CPU).
        motion: one of `MOTIONS`; None draws one.
        style: as in `sample_scene`.
        toy: as in `sample_scene`.
    """
    draw = _Draw(generator)
    motion = motion if motion is not None else draw.choice(MOTIONS)
    scene = sample_scene(generator, two_objects=0.0, style=style, toy=toy)
    camera = scene.camera
    x, y, z = camera.target
    # Zooming in ends at 0.8 of the distance it is given; a jump needs room above.
    farther = draw.between(1.15, 1.3) if motion == "while the camera zooms in" else draw.between(1.35, 1.6)
    camera = dataclasses.replace(
        camera,
        elevation=draw.between(6, 26),
        distance=camera.distance * farther,
        target=(x, y, z + (0.35 if motion == "jumping" else 0.0)),
    )
    return dataclasses.replace(scene, camera=camera, motion=motion)


def sample_toy(generator: torch.Generator, *, accessories: float = 0.5, patterned: float = 0.4) -> SceneObject:
    """A random toy; `accessories` and `patterned` are the probabilities of wearing one and of having a pattern."""
    draw = _Draw(generator)
    color, second = draw.pair(tuple(COLORS))
    return SceneObject(
        class_name=draw.choice(CLASSES),
        color=color,
        second_color=second,
        pattern=draw.choice(PATTERNS[1:]) if draw.uniform() < patterned else "",
        accessory=draw.choice(ACCESSORIES[1:]) if draw.uniform() < accessories else "",
        proportions=tuple(draw.between(-1, 1) for _ in range(16)),
    )


def frame(
    objects: tuple[SceneObject, ...], azimuth: float, elevation: float, *, fill: float, fov: float = 32.0
) -> Camera:
    """A camera whose picture the toys fill: their bounding ball takes `fill` of the picture's height."""
    low, high = _bounds(objects)
    center = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    radius = 0.5 * max(high[2] - low[2], 0.8 * math.hypot(high[0] - low[0], high[1] - low[1]))
    distance = radius / (math.sin(math.radians(fov) / 2) * fill) + 0.35 * radius
    return Camera(
        azimuth=azimuth, elevation=elevation, distance=distance, fov=fov, target=(center[0], center[1], center[2])
    )


def attributes(scene: Scene) -> dict[str, str]:
    """The truth about the first toy and the scene: class, color, pattern, accessory, context, style, view, motion."""
    toy = scene.objects[0]
    return {
        "class": toy.class_name,
        "color": str(toy.color),
        "pattern": toy.pattern,
        "accessory": toy.accessory,
        "context": scene.context,
        "style": scene.style,
        "view": relative_view(scene),
        "motion": scene.motion,
    }


def _view(draw: "_Draw", heading: float) -> tuple[float, float]:
    """Azimuth and elevation in degrees, away from the angles where one view word turns into the next.

    Back views are the least telling of a toy and the rarest.
    """
    low, high = draw.weighted((((0.0, 34.0), 0.42), ((46.0, 134.0), 0.40), ((146.0, 180.0), 0.18)))
    azimuth = heading + math.copysign(draw.between(low, high), draw.uniform() - 0.5)
    overhead = draw.uniform() < 0.14
    return azimuth, draw.between(54, 66) if overhead else draw.between(4, 28)


def _side_by_side(first: SceneObject, second: SceneObject) -> tuple[SceneObject, SceneObject]:
    gap = 0.15
    width = [_bounds((toy,)) for toy in (first, second)]
    return (
        dataclasses.replace(first, position=(-width[0][1][0] - gap, 0.0, 0.0)),
        dataclasses.replace(second, position=(-width[1][0][0] + gap, 0.0, 0.0)),
    )


def _bounds(objects: tuple[SceneObject, ...]) -> tuple[list[float], list[float]]:
    """Corners of a box around all parts in the world; each part counts as the box of its centre and largest reach."""
    low, high = [math.inf] * 3, [-math.inf] * 3
    for toy in objects:
        rotation, translation = pose(toy)
        for part in build(toy):
            reach = [sum(abs(r) * s for r, s in zip(row, part.size, strict=True)) for row in part.rotation]
            center = apply(rotation, part.center)
            for axis in range(3):
                low[axis] = min(low[axis], center[axis] + translation[axis] - reach[axis])
                high[axis] = max(high[axis], center[axis] + translation[axis] + reach[axis])
    return low, high


class _Draw:
    """Small conveniences over a generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self) -> float:
        return float(torch.rand((), generator=self.generator))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.uniform()

    def choice(self, values: tuple[str, ...]) -> str:
        return values[int(torch.randint(len(values), (), generator=self.generator))]

    def weighted(self, values: tuple[tuple[tuple[float, float], float], ...]) -> tuple[float, float]:
        at = self.uniform() * sum(weight for _, weight in values)
        for value, weight in values:
            at -= weight
            if at < 0:
                return value
        return values[-1][0]

    def pair(self, values: tuple[str, ...]) -> tuple[str, str]:
        first, second = torch.randperm(len(values), generator=self.generator)[:2].tolist()
        return values[first], values[second]
