"""Captions from a small grammar; a caption never says what the scene does not show."""

import torch

from pcs_ext.toybox.world.scene import Scene, SceneObject
from pcs_ext.toybox.world.vocabulary import COLORS

_ALIKE_BEHIND = ("teapot",)
"""Classes whose back is the mirror image of their front: no picture tells which of the two it shows."""


def view_name(azimuth: float, elevation: float, class_name: str = "") -> str:
    """The word for a camera direction (degrees); of some classes every back view is called a front view."""
    if elevation > 50:
        return "overhead view"
    turn = abs((azimuth + 180) % 360 - 180)
    if turn > 140:
        return "front view" if class_name in _ALIKE_BEHIND else "back view"
    return "front view" if turn < 40 else "side view"


def relative_view(scene: Scene) -> str:
    """The view word for the first toy, its heading taken off the camera's azimuth."""
    toy = scene.objects[0]
    return view_name(scene.camera.azimuth - toy.heading, scene.camera.elevation, toy.class_name)


def caption(scene: Scene, generator: torch.Generator | None = None, *, view: bool = True) -> str:
    """What the scene shows, in the grammar that the models are trained on.

    `STYLE a COLOR PATTERN CLASS with COLOR parts ACCESSORY MOTION CONTEXT, VIEW`

    Args:
        scene: colours that are not words of the vocabulary are left out.
        generator: drops parts of the caption at random, as in training; None names everything.
        view: whether the view may be named; where cameras say it, words need not.
    """

    def say(probability: float) -> bool:
        return generator is None or bool(torch.rand((), generator=generator) < probability)

    toys = " and ".join(f"a {_toy(toy, say, short=len(scene.objects) > 1)}" for toy in scene.objects)
    words = [scene.style, toys, scene.motion]
    if say(0.92):
        words.append(scene.context)
    text = " ".join(word for word in words if word)
    # Views mean something for one toy only (two toys face their own ways), and in a clip they may change.
    if view and len(scene.objects) == 1 and not scene.motion and say(0.6):
        text += f", {relative_view(scene)}"
    return text


def _toy(toy: SceneObject, say, *, short: bool) -> str:
    words = []
    if toy.color in COLORS and say(0.9):
        words.append(str(toy.color))
    if toy.pattern and say(0.9):
        words.append(toy.pattern)
    words.append(toy.class_name)
    if not short and toy.second_color in COLORS and say(0.3):
        words.append(f"with {toy.second_color} parts")
    if toy.accessory:
        words.append(toy.accessory)
    return " ".join(words)
