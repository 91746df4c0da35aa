"""Twelve held-out toys, the subjects to be learned: proportions beyond the training range, colours off the palette.

No caption of the training set names what tells them apart, so a model can only know them from their photos.
"""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.runtime import generator_for
from pcs_ext.toybox.world.render import render
from pcs_ext.toybox.world.sampling import frame, sample_scene
from pcs_ext.toybox.world.scene import Color, Scene, SceneObject
from pcs_ext.toybox.world.vocabulary import CONTEXTS, STYLES


def _subject(
    class_name: str, color: str, second: str, pattern: str, proportions: tuple[float, ...], **parts: Color
) -> SceneObject:
    return SceneObject(
        class_name=class_name,
        color=color,
        second_color=second,
        pattern=pattern,
        proportions=proportions + (0.0,) * (16 - len(proportions)),
        part_colors=tuple((name.replace("_", " "), value) for name, value in parts.items()),
    )


SUBJECTS: dict[str, SceneObject] = {
    "rex": _subject(
        "dog", "#c8873c", "#7a3b24", "spotted", (-1.6, 1.4, 1.5, -1.9, 0.5, 1.6, 1.9), head="#e6c79a", tail="#3fb8a0"
    ),
    "pip": _subject(
        "robot", "#6fc2a8", "#d8576b", "checkered", (1.6, -1.4, 1.3, -1.4, 1.7), legs="#3d4a80", pack="#f2c14e"
    ),
    "momo": _subject(
        "cat", "#8a8fb5", "#f0d9b8", "striped", (-1.5, 1.5, 1.6, -1.6, 0.6, 1.9, 1.8), head="#b9bede", tail="#d9683f"
    ),
    "zippy": _subject(
        "car", "#b7d645", "#5a3a7e", "zigzag", (-1.8, 1.4, 1.6, 1.9, 1.6), hubs="#f28d35", bumper="#3c7f8c"
    ),
    "brewster": _subject(
        "teapot", "#d99fb8", "#3e7f8f", "spotted", (1.3, -1.8, 1.6, 1.5, 1.6, 1.5), knob="#f0b429", foot="#5c3b2e"
    ),
    "nook": _subject(
        "house", "#e2b48c", "#4c8577", "striped", (-1.7, 1.2, 1.7, 1.6), door="#b8336a", chimney="#5a6fb0"
    ),
    "toby": _subject(
        "mug", "#7fb7d9", "#a8583c", "zigzag", (1.6, -1.7, 1.7, -1.4, 1.8), badge="#f3e37c", rim="#47617e"
    ),
    "skipper": _subject(
        "boat", "#cf6a4f", "#5fae9a", "checkered", (-1.6, 1.7, 1.3, 1.6), sail="#f2d98c", cabin="#6a5493"
    ),
    "comet": _subject(
        "rocket", "#c9b3e6", "#e0784a", "spotted", (1.5, -1.8, 1.9, 1.8), fins="#2f8f83", frame="#6b2f52"
    ),
    "quill": _subject(
        "duck", "#9fcf8a", "#b5542f", "striped", (1.5, -1.7, 0.8, 1.6, 1.9, -1.6), head="#4f6fa8", tail="#e6b93f"
    ),
    "bruno": _subject(
        "bear", "#b98ab0", "#f0cf9a", "zigzag", (1.5, -1.3, 1.3, 1.6, 1.9, -1.5), ears="#3f8fb0", soles="#d9574a"
    ),
    "willow": _subject(
        "tree", "#5fb39c", "#8d6a9f", "checkered", (1.7, 1.5, -1.2, 1.6, 1.4), fruit="#f0a63c", nose="#d9466f"
    ),
}
"""Name to toy; the class noun a user would give is `class_noun(name)`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Photos:
    """Pictures of one subject with their truth."""

    images: Tensor
    """`n 3 h w` in [-1, 1]."""
    masks: Tensor
    """`n 1 h w` in [0, 1]: where the subject is."""
    scenes: tuple[Scene, ...]
    """What each picture shows."""


def subject(name: str) -> SceneObject:
    """The toy of that name.

    Raises:
        UsageError: no subject has it.
    """
    if name not in SUBJECTS:
        raise UsageError(f"{name!r} is no subject; expected one of {', '.join(SUBJECTS)}.")
    return SUBJECTS[name]


def class_noun(name: str) -> str:
    """What kind of toy a subject is: "dog" for "rex"."""
    return subject(name).class_name


def reference_scenes(name: str, n: int = 5) -> tuple[Scene, ...]:
    """The scenes of a subject's reference photos: each in another context, from another side, in another light.

    Args:
        name: one of SUBJECTS.
        n: how many; the first five are the ones in `examples/`.
    """
    toy = subject(name)
    draws = torch.rand(4 * n + len(CONTEXTS), generator=generator_for("toybox", "reference", name, n)).tolist()
    order = sorted(range(len(CONTEXTS)), key=lambda i: draws[4 * n + i])
    # Front left, front right, side, back and front again: five photos show all of the subject.
    sides = (-28.0, 35.0, 80.0, 155.0, -65.0)
    scenes = []
    for i in range(n):
        turn, rise, fill, lamp = draws[4 * i : 4 * i + 4]
        azimuth = sides[i % 5] + 20 * (turn - 0.5) + 60 * (i // 5)
        scenes.append(
            Scene(
                objects=(toy,),
                context=CONTEXTS[order[i % len(CONTEXTS)]],
                style=STYLES[0],
                camera=frame((toy,), azimuth, 8 + 18 * rise, fill=0.72 + 0.12 * fill),
                light=(azimuth + 120 * (lamp - 0.5), 40 + 20 * turn),
                background_seed=10 * rise,
            )
        )
    return tuple(scenes)


def reference_photos(name: str, resolution: int = 64, n: int = 5, *, device: str = "cpu") -> Photos:
    """The reference photos of a subject, `resolution` pixels square, and the masks of the subject in them."""
    return photos(reference_scenes(name, n), resolution, device=device)


def novel_views(
    name: str, n: int, generator: torch.Generator, *, resolution: int = 64, device: str = "cpu", style: str = STYLES[0]
) -> Photos:
    """New pictures of a subject as truth: any context, side and light, framed like the training scenes."""
    toy = subject(name)
    scenes = tuple(sample_scene(generator, two_objects=0.0, style=style, toy=toy) for _ in range(n))
    return photos(scenes, resolution, device=device)


def photos(scenes: tuple[Scene, ...], resolution: int, *, device: str = "cpu") -> Photos:
    """Render scenes of one toy with their masks."""
    shown = render(scenes, resolution=resolution, device=device)
    return Photos(images=shown.rgb, masks=shown.coverage[:, None], scenes=scenes)
