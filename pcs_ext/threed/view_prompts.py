"""Prompts that say where the camera stands."""

from collections.abc import Sequence

from pcs_ext.config_io import config
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.types import Conditioning
from pcs_ext.threed.cameras import Cameras


@config
class ViewWords:
    """What is appended to a prompt for each direction, and where one direction ends (DreamFusion, sec. 3.2)."""

    front: str = ", front view"
    """Within `front_angle` of azimuth 0."""
    side: str = ", side view"
    """In between."""
    back: str = ", back view"
    """Within `front_angle` of azimuth 180."""
    overhead: str = ", overhead view"
    """Above `overhead_elevation`, from any azimuth."""
    front_angle: float = 45.0
    """Degrees; 30 in the VSD and MVDream recipes."""
    overhead_elevation: float = 60.0
    """Degrees."""


DIRECTIONS = ("front", "side", "back", "overhead")


def directions(cameras: Cameras, words: ViewWords | None = None) -> list[str]:
    """The name in `DIRECTIONS` of each camera."""
    limits = words or ViewWords()
    return [
        _direction(azimuth, elevation, limits)
        for azimuth, elevation in zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True)
    ]


def _direction(azimuth: float, elevation: float, limits: ViewWords) -> str:
    if elevation > limits.overhead_elevation:
        return "overhead"
    turn = abs((azimuth + 180) % 360 - 180)
    if turn < limits.front_angle:
        return "front"
    return "back" if turn > 180 - limits.front_angle else "side"


class ViewPrompts:
    """A prompt in all directions, encoded once by a backbone as it is now.

    Encode after an artifact is applied: its words and text encoder must be in place. Wrap in `no_grad` when the text
    encoder is frozen. Nothing is cached on disk.
    """

    def __init__(
        self, backbone: AbstractBackbone, prompt: str, *, negative_prompt: str = "", words: ViewWords | None = None
    ) -> None:
        self.words = words or ViewWords()
        texts: Sequence[str] = [prompt + getattr(self.words, name) for name in DIRECTIONS]
        self.positive = backbone.encode_prompt(texts)
        self.negative = backbone.encode_prompt([negative_prompt])

    def __call__(self, cameras: Cameras) -> tuple[Conditioning, Conditioning]:
        """Negative and positive conditioning, of as many rows as there are cameras."""
        rows = [DIRECTIONS.index(name) for name in directions(cameras, self.words)]
        return self.negative[[0] * len(rows)], self.positive[rows]
