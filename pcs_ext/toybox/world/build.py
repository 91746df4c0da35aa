"""A toy's parts, from its class, colours, proportions and accessory."""

import functools

from pcs_ext.errors import ConfigError
from pcs_ext.toybox.world.accessories import wear
from pcs_ext.toybox.world.parts import Anchors, Builder, Part
from pcs_ext.toybox.world.scene import SceneObject
from pcs_ext.toybox.world.toys import TOYS


@functools.lru_cache(maxsize=4096)
def build(toy: SceneObject) -> tuple[Part, ...]:
    """The parts of a toy with its accessory, in the object's own frame. Position, heading and roll play no role."""
    builder = Builder(toy)
    anchors = TOYS[toy.class_name](builder)
    _reject_unknown_parts(toy, builder)
    wear(toy.accessory, anchors, builder)
    return tuple(builder.parts)


def anchors_of(toy: SceneObject) -> Anchors:
    """Where a toy's head and neck are, in the object's own frame."""
    return TOYS[toy.class_name](Builder(toy))


def part_names(toy: SceneObject) -> tuple[str, ...]:
    """Name of every part; `Rendered.part_ids` indexes this."""
    return tuple(part.name for part in build(toy))


def _reject_unknown_parts(toy: SceneObject, builder: Builder) -> None:
    names = {part.name for part in builder.parts}
    unknown = [name for name, _ in toy.part_colors if name not in names]
    if unknown:
        raise ConfigError(
            f"part_colors of a {toy.class_name} names {', '.join(unknown)}; its parts are {', '.join(sorted(names))}."
        )
