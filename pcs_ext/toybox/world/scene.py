"""A scene as a value: what stands where, seen how. Lengths in toy units (a toy is about 2 tall), angles in degrees.

z is up, toys stand on z = 0 and face -y at heading 0; azimuth 0 looks at their front.
"""

import dataclasses
import re
from typing import Any, Literal

from pcs_ext.config_io import config, from_jsonable, to_jsonable
from pcs_ext.errors import ConfigError
from pcs_ext.toybox.world.vocabulary import COLORS

Vector = tuple[float, float, float]
Color = str | Vector
"""A word of `COLORS`, `#rrggbb`, or RGB in [0, 1]."""


def color_rgb(color: Color) -> Vector:
    """RGB in [0, 1] of a colour.

    Raises:
        ConfigError: a word that is no colour of the world.
    """
    if not isinstance(color, str):
        return color
    if color in COLORS:
        return COLORS[color]
    if re.fullmatch("#[0-9a-fA-F]{6}", color):
        red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return red, green, blue
    raise ConfigError(f"{color!r} is no colour; expected one of {', '.join(COLORS)}, or #rrggbb, or three numbers.")


@config
class SceneObject:
    """One toy."""

    class_name: str
    """One of `CLASSES`."""
    color: Color
    """Main colour."""
    second_color: Color
    """Colour of heads, roofs, handles and the like."""
    pattern: str = ""
    """One of `PATTERNS`, on the main part."""
    accessory: str = ""
    """One of `ACCESSORIES`."""
    proportions: tuple[float, ...] = (0.0,) * 16
    """Sixteen numbers, usually in [-1, 1], that set the toy's proportions; 0 is the class average."""
    part_colors: tuple[tuple[str, Color], ...] = ()
    """Overrides: (name of a part of the class, colour)."""
    position: Vector = (0.0, 0.0, 0.0)
    """Of the toy's foot."""
    heading: float = 0.0
    """Turn about the vertical axis."""
    roll: float = 0.0
    """Turn about the toy's long horizontal axis through its middle."""


@config
class Camera:
    """Where the scene is seen from."""

    azimuth: float = 0.0
    """0 in front of the toy, 90 at its left, in (-180, 180]."""
    elevation: float = 15.0
    """Above the horizon, in (-90, 90)."""
    distance: float = 5.2
    """From the target."""
    fov: float = 32.0
    """Full vertical angle of the picture; ignored by the equirectangular projection."""
    target: Vector = (0.0, 0.0, 0.75)
    """Point in the middle of the picture."""
    projection: Literal["perspective", "equirectangular"] = "perspective"
    """Equirectangular pictures are twice as wide as high and look all around the camera's place."""


@config
class Scene:
    """Everything a picture depends on."""

    objects: tuple[SceneObject, ...]
    """One or two toys."""
    context: str = "on a plain background"
    """One of `CONTEXTS`."""
    style: str = "a photo of"
    """One of `STYLES`."""
    camera: Camera = dataclasses.field(default_factory=Camera)
    """The view."""
    light: tuple[float, float] = (-40.0, 50.0)
    """Azimuth and elevation of the light, degrees."""
    background_seed: float = 0.0
    """Phase of the procedural backgrounds, any number."""
    motion: str = ""
    """One of `MOTIONS`, or empty for a still."""
    time: float = 0.0
    """Where in the motion, in [0, 1]."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return to_jsonable(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "Scene":
        """Inverse of `to_dict`; unknown keys raise ConfigError."""
        return from_jsonable(Scene, data, where="scene")

    def at(self, time: float) -> "Scene":
        """The same scene at another moment of its motion."""
        return dataclasses.replace(self, time=time)
