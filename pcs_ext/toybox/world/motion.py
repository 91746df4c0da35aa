"""Motions as functions of time in [0, 1], and the flow they cause."""

import dataclasses
import math

from pcs_ext.errors import ConfigError
from pcs_ext.toybox.world.scene import Camera, Scene, SceneObject
from pcs_ext.toybox.world.vocabulary import MOTIONS


def posed(scene: Scene) -> Scene:
    """The still that shows the scene's moment: its motion applied to toys and camera, then removed.

    Raises:
        ConfigError: the motion is not one of `MOTIONS`.
    """
    if not scene.motion:
        return scene
    if scene.motion not in MOTIONS:
        raise ConfigError(f"motion {scene.motion!r} is unknown; expected one of {', '.join(MOTIONS)}.")
    objects = tuple(_move(toy, scene.motion, scene.time, scene.camera) for toy in scene.objects)
    camera = _move_camera(scene.camera, scene.motion, scene.time)
    return dataclasses.replace(scene, objects=objects, camera=camera, motion="", time=0.0)


def frames_of(scene: Scene, frames: int, *, start: float = 0.0) -> list[Scene]:
    """The scene at so many moments, a sixteenth of its motion apart.

    Raises:
        ConfigError: the motion is over before the last frame.
    """
    if not 0 <= start <= 1 - (frames - 1) / 16:
        raise ConfigError(
            f"{frames} frames from {start:g} on end at {start + (frames - 1) / 16:g}; a motion ends at 1."
        )
    return [scene.at(start + index / 16) for index in range(frames)]


def _move(toy: SceneObject, motion: str, time: float, camera: Camera) -> SceneObject:
    x, y, z = toy.position
    if motion == "spinning":
        return dataclasses.replace(toy, heading=toy.heading + 360 * time)
    if motion == "jumping":
        return dataclasses.replace(toy, position=(x, y, z + 0.9 * abs(math.sin(2 * math.pi * time))))
    if motion.startswith("sliding"):
        # Along the picture's horizontal axis, through the middle.
        shift = (2 * time - 1) * 0.8 * (-1 if motion.endswith("left") else 1)
        azimuth = math.radians(camera.azimuth)
        return dataclasses.replace(toy, position=(x + shift * math.cos(azimuth), y + shift * math.sin(azimuth), z))
    if motion == "rolling over":
        return dataclasses.replace(toy, roll=toy.roll + 360 * time)
    if motion == "swaying":
        return dataclasses.replace(toy, roll=toy.roll + 25 * math.sin(2 * math.pi * time))
    return toy


def _move_camera(camera: Camera, motion: str, time: float) -> Camera:
    if motion == "while the camera zooms in":
        return dataclasses.replace(camera, distance=camera.distance * (1.6 - 0.8 * time))
    if motion == "while the camera orbits":
        return dataclasses.replace(camera, azimuth=(camera.azimuth + 120 * time + 180) % 360 - 180)
    return camera
