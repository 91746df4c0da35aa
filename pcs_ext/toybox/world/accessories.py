"""What toys wear."""

import math

from pcs_ext.toybox.world.parts import BOX, CYLINDER, Anchors, Builder
from pcs_ext.toybox.world.scene import Vector

HAT_RED: Vector = (0.85, 0.06, 0.10)
GOLD: Vector = (1.0, 0.80, 0.15)
SCARF_BLUE: Vector = (0.10, 0.30, 0.92)


def wear(accessory: str, anchors: Anchors, b: Builder) -> None:
    """Add the parts of an accessory to a finished toy."""
    x, y, z, r = anchors.head
    if accessory == "wearing a red hat":
        b.cylinder("hat", r * 1.35, 0.05, (x, y, z - 0.02), HAT_RED)
        b.cylinder("hat", r * 0.85, 0.24, (x, y, z + 0.24), HAT_RED)
        b.cylinder("hat band", r * 0.88, 0.06, (x, y, z + 0.1), (0.97, 0.97, 0.97))
    elif accessory == "wearing a party cone":
        b.cone("cone", (r * 0.85, r * 0.85, 0.42), (x, y, z + 0.36), (0.20, 0.85, 0.55))
        b.cone("cone", (r * 0.52, r * 0.52, 0.255), (x, y, z + 0.535), (0.98, 0.85, 0.15))
        b.sphere("cone tip", 0.11, (x, y, z + 0.8), (0.98, 0.25, 0.65))
    elif accessory == "wearing a crown":
        b.cylinder("crown", r * 0.85, 0.11, (x, y, z + 0.06), GOLD)
        for k in range(6):
            a = math.radians(60 * k + 30)
            at = (x + r * 0.7 * math.cos(a), y + r * 0.7 * math.sin(a), z + 0.28)
            b.cone("crown", (r * 0.3, r * 0.3, 0.15), at, GOLD)
            b.sphere("crown jewel", 0.055, (at[0], at[1], at[2] + 0.17), (0.9, 0.1, 0.3))
    elif accessory == "wearing a blue scarf":
        _scarf(anchors, b)


def _scarf(anchors: Anchors, b: Builder) -> None:
    x, y, z, rx, ry = anchors.neck
    if anchors.neck_kind == BOX:
        b.add("scarf", BOX, (rx, ry, 0.1), (x, y, z), SCARF_BLUE)
    else:
        b.add("scarf", CYLINDER, (rx, ry, 0.1), (x, y, z), SCARF_BLUE)
    b.box("scarf", (0.1, 0.05, 0.24), (x + rx * 0.45, y - ry, z - 0.26), SCARF_BLUE)
    b.box("scarf fringe", (0.1, 0.055, 0.04), (x + rx * 0.45, y - ry, z - 0.46), (0.85, 0.9, 1.0))
