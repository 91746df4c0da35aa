"""The twelve classes. Each function adds the parts of one toy, facing -y, about two units tall, feet on z = 0."""

import math

from pcs_ext.toybox.world.parts import (
    BOX,
    DARK,
    WHITE,
    Anchors,
    Builder,
    ToyFunction,
    rotation_x,
    rotation_y,
    rotation_z,
)
from pcs_ext.toybox.world.toy_animals import bear, cat, dog, duck

GLASS = (0.62, 0.86, 0.98)
WOOD = (0.42, 0.26, 0.12)


def robot(b: Builder) -> Anchors:
    """A box body, a box head with glowing eyes and an antenna, a pack on its back."""
    w, h, hs = 0.50 * b.vary(), 0.42 * b.vary(), 0.32 * b.vary()
    leg, arm = 0.22 * b.vary(0.25), 0.32 * b.vary(0.2)
    z = 2 * leg + 2 * h
    b.box("body", (w, 0.33, h), (0, 0, 2 * leg + h), b.main, patterned=True)
    b.box("panel", (0.2, 0.03, 0.13), (0, -0.34, 2 * leg + h * 1.15), WHITE)
    b.box("pack", (w * 0.6, 0.13, h * 0.6), (0, 0.44, 2 * leg + h * 1.1), b.second)
    b.cylinder("neck", 0.13, 0.08, (0, 0, z + 0.03), DARK)
    b.box("head", (hs * 1.2, hs, hs), (0, 0, z + hs + 0.08), b.second, patterned=True)
    b.box("mouth", (hs * 0.55, 0.03, 0.045), (0, -hs, z + hs * 0.55 + 0.08), DARK)
    for side in (-1, 1):
        b.sphere("eyes", (0.11, 0.06, 0.11), (side * hs * 0.55, -hs, z + hs * 1.3 + 0.08), (0.25, 1.0, 0.95))
        b.cylinder("legs", 0.14, leg, (side * w * 0.5, 0, leg), b.second)
        b.cylinder("arms", 0.11, arm, (side * (w + 0.13), 0, z - arm - 0.02), b.second)
        b.sphere("hands", 0.14, (side * (w + 0.13), 0, z - 2 * arm - 0.04), b.main)
    b.cylinder("antenna", 0.03, 0.12, (0, 0, z + 2 * hs + 0.18), DARK)
    b.sphere("bulb", 0.08, (0, 0, z + 2 * hs + 0.33), (0.95, 0.15, 0.2))
    return Anchors((0, 0, z + 2 * hs + 0.08, hs), (0, 0, z + 0.02, hs * 0.95, hs * 0.8))


def car(b: Builder) -> Anchors:
    """A long body, a cabin with windows, four wheels, yellow lights in front and red ones behind."""
    length, w, h = 0.95 * b.vary(0.12), 0.48 * b.vary(), 0.21 * b.vary(0.2)
    wheel, cabin = 0.25 * b.vary(0.2), 0.21 * b.vary(0.2)
    top = wheel + 2 * h
    b.box("body", (w, length, h), (0, 0, wheel + h), b.main, patterned=True)
    b.box("cabin", (w * 0.88, length * 0.5, cabin), (0, 0.12, top + cabin), b.second, patterned=True)
    b.box("windows", (w * 0.7, length * 0.52, cabin * 0.6), (0, 0.12, top + cabin), GLASS)
    b.box("windows", (w * 0.9, length * 0.36, cabin * 0.6), (0, 0.12, top + cabin), GLASS)
    b.box("bumper", (w * 1.02, 0.06, 0.06), (0, -length, wheel + 0.02), (0.75, 0.77, 0.8))
    b.box("bumper", (w * 1.02, 0.06, 0.06), (0, length, wheel + 0.02), (0.75, 0.77, 0.8))
    for x in (-1, 1):
        for y in (-1, 1):
            at = (x * w, y * length * 0.6, wheel)
            b.cylinder("wheels", wheel, 0.1, at, DARK, rotation=rotation_y(90))
            b.cylinder("hubs", wheel * 0.45, 0.115, at, (0.8, 0.8, 0.82), rotation=rotation_y(90))
        b.sphere("headlights", (0.13, 0.06, 0.11), (x * w * 0.62, -length, wheel + h * 1.25), (1.0, 0.95, 0.55))
        b.box("taillights", (0.11, 0.03, 0.08), (x * w * 0.65, length, wheel + h * 1.25), (0.95, 0.08, 0.08))
    roof = top + 2 * cabin
    return Anchors((0, 0.12, roof, 0.32), (0, 0.12, top + 0.08, w * 0.93, length * 0.55), BOX)


def teapot(b: Builder) -> Anchors:
    """A round pot with a lid, a spout on its left and a handle on its right."""
    r, h = 0.62 * b.vary(), 0.52 * b.vary(0.12)
    b.sphere("pot", (r, r, h), (0, 0, h + 0.06), b.main, patterned=True)
    b.cylinder("foot", r * 0.6, 0.06, (0, 0, 0.06), b.second)
    top = 2 * h + 0.02
    b.sphere("lid", (r * 0.58, r * 0.58, 0.13), (0, 0, top), b.second, patterned=True)
    b.sphere("knob", 0.11 * b.vary(0.2), (0, 0, top + 0.2), b.second)
    s = 0.12 * b.vary(0.2)
    b.chain("spout", [(r * 0.75, 0, h * 0.7), (r + 0.25, 0, h * 1.05), (r + 0.42, 0, h * 1.75)], s, b.second)
    b.cylinder("hole", s * 0.75, 0.02, (r + 0.44, 0, h * 1.75 + s * 0.95), DARK)
    reach, height = 0.36 * b.vary(0.2), 0.36 * b.vary(0.2)
    angles = [math.radians(a) for a in (95, 130, 165, 200, 235, 265)]
    arc = [(-r * 0.85 + reach * math.cos(a), 0.0, h + 0.1 + height * math.sin(a)) for a in angles]
    b.chain("handle", arc, 0.075, b.second)
    return Anchors((0, 0, top + 0.2, 0.34), (0, 0, top - 0.1, r * 0.82, r * 0.82))


def house(b: Builder) -> Anchors:
    """Walls with a door and two windows in front, one window per side, a pointed roof and a chimney."""
    w, d, h, roof = 0.68 * b.vary(), 0.58 * b.vary(), 0.45 * b.vary(), 0.42 * b.vary(0.2)
    b.box("walls", (w, d, h), (0, 0, h), b.main, patterned=True)
    b.cone("roof", (w * 1.52, d * 1.55, roof), (0, 0, 2 * h + roof), b.second, patterned=True)
    b.box("door", (0.18, 0.04, 0.29), (0, -d, 0.29), WOOD)
    b.sphere("doorknob", 0.04, (0.1, -d - 0.05, 0.3), (0.98, 0.8, 0.2))
    for side in (-1, 1):
        b.box("frames", (0.16, 0.03, 0.16), (side * w * 0.63, -d, h * 1.25), WHITE)
        b.box("windows", (0.12, 0.045, 0.12), (side * w * 0.63, -d, h * 1.25), GLASS)
        b.cylinder("frames", 0.19, 0.03, (side * w, 0, h * 1.2), WHITE, rotation=rotation_y(90))
        b.cylinder("windows", 0.14, 0.045, (side * w, 0, h * 1.2), GLASS, rotation=rotation_y(90))
    b.box("chimney", (0.12, 0.12, 0.3), (w * 0.6, 0.15, 2 * h + roof), (0.62, 0.26, 0.2))
    neck = 2 * h + 0.75 * roof
    return Anchors((0, 0, 2 * h + 1.5 * roof, 0.32), (0, 0, neck, w * 1.05, d * 1.08))


def mug(b: Builder) -> Anchors:
    """A cylinder with coffee in it, a round handle and a badge in front."""
    r, h = 0.52 * b.vary(), 0.60 * b.vary()
    b.cylinder("cup", r, h, (0, 0, h), b.main, patterned=True)
    b.cylinder("rim", r * 1.05, 0.06, (0, 0, 2 * h - 0.03), b.second)
    b.cylinder("base", r * 1.05, 0.07, (0, 0, 0.07), b.second)
    b.cylinder("coffee", r * 0.85, 0.02, (0, 0, 2 * h + 0.03), (0.28, 0.15, 0.08))
    b.sphere("badge", (0.2, 0.06, 0.2), (0, -r, h), b.second)
    reach, height, thick = 0.34 * b.vary(0.2), 0.36 * b.vary(0.2), 0.08 * b.vary(0.2)
    angles = [math.radians(a) for a in (-85, -50, -15, 20, 55, 85)]
    b.chain("handle", [(r + reach * math.cos(a), 0.0, h + height * math.sin(a)) for a in angles], thick, b.second)
    return Anchors((0, 0, 2 * h + 0.04, 0.38), (0, 0, 2 * h * 0.78, r * 1.08, r * 1.08))


def boat(b: Builder) -> Anchors:
    """A hull with a pointed bow, a cabin at the stern, a mast with a white sail and a flag."""
    length, w, mast = 0.95 * b.vary(0.12), 0.44 * b.vary(), 0.62 * b.vary(0.12)
    b.box("hull", (w, length * 0.68, 0.21), (0, 0.15, 0.26), b.main, patterned=True)
    at = (0, 0.15 - length * 0.68 - 0.35, 0.26)
    b.cone("bow", (w, 0.21, 0.35), at, b.main, rotation=rotation_x(90), patterned=True)
    b.box("deck", (w * 1.06, length * 0.7, 0.04), (0, 0.15, 0.49), b.second)
    cabin = 0.2 * b.vary(0.2)
    b.box("cabin", (w * 0.65, 0.27, cabin), (0, 0.48, 0.5 + cabin), b.second, patterned=True)
    for side in (-1, 1):
        b.cylinder("portholes", 0.09, 0.03, (side * w * 0.65, 0.48, 0.52 + cabin), GLASS, rotation=rotation_y(90))
    top = 0.5 + 2 * mast
    b.cylinder("mast", 0.05, mast, (0, -0.12, 0.5 + mast), WOOD)
    b.cone("sail", (0.05, 0.42, mast * 0.8), (0, -0.08, 0.62 + mast * 0.85), WHITE, patterned=True)
    b.box("flag", (0.02, 0.16, 0.09), (0, 0.04, top - 0.05), (0.9, 0.12, 0.15))
    return Anchors((0, -0.12, top, 0.3), (0, 0.15, 0.56, w * 1.1, length * 0.72), BOX)


def rocket(b: Builder) -> Anchors:
    """A standing tube with a nose cone, a window in front, a hatch behind, three fins and a flame."""
    r, h, nose = 0.36 * b.vary(), 0.58 * b.vary(), 0.34 * b.vary(0.2)
    top = 0.36 + 2 * h
    b.cylinder("tube", r, h, (0, 0, 0.36 + h), b.main, patterned=True)
    b.cylinder("collar", r * 1.06, 0.05, (0, 0, top - 0.02), b.second)
    b.cone("nose", (r, r, nose), (0, 0, top + nose), b.second, patterned=True)
    b.sphere("frame", (0.22, 0.06, 0.22), (0, -r, 0.36 + 1.35 * h), WHITE)
    b.sphere("window", (0.16, 0.08, 0.16), (0, -r - 0.01, 0.36 + 1.35 * h), (0.3, 0.65, 0.95))
    b.box("hatch", (0.15, 0.05, 0.24), (0, r, 0.36 + h), b.second)
    fin = 0.26 * b.vary(0.25)
    for k in range(3):
        a = 120 * k + 90
        x, y = math.cos(math.radians(a)), math.sin(math.radians(a))
        b.box("fins", (0.2, 0.05, fin), (x * (r + 0.12), y * (r + 0.12), 0.34), b.second, rotation=rotation_z(a))
    b.cone("nozzle", (r * 0.75, r * 0.75, 0.16), (0, 0, 0.3), (0.3, 0.3, 0.32))
    b.cone("flame", (r * 0.5, r * 0.5, 0.11), (0, 0, 0.11), (1.0, 0.6, 0.1), rotation=rotation_x(180))
    return Anchors((0, 0, top + nose * 1.1, 0.27), (0, 0, top - 0.28, r * 1.12, r * 1.12))


def tree(b: Builder) -> Anchors:
    """A trunk with roots, three round tiers of leaves, and a little face in front."""
    trunk, r, tier = 0.32 * b.vary(0.25), 0.66 * b.vary(), 0.33 * b.vary(0.12)
    b.cylinder("trunk", 0.17 * b.vary(0.25), trunk, (0, 0, trunk), b.second)
    b.cone("roots", (0.3, 0.3, 0.14), (0, 0, 0.14), b.second)
    z = 2 * trunk
    shrink = 0.74 * b.vary(0.1)
    b.cone("leaves", (r, r, tier * 1.25), (0, 0, z + tier), b.main, patterned=True)
    b.cone("leaves", (r * shrink, r * shrink, tier * 1.15), (0, 0, z + 2.05 * tier), b.main, patterned=True)
    b.cone("leaves", (r * shrink**2, r * shrink**2, tier), (0, 0, z + 3.05 * tier), b.main, patterned=True)
    face = z + 0.62 * tier
    depth = r * 0.8
    for side in (-1, 1):
        b.sphere("eyes", 0.11, (side * 0.19, -depth + 0.05, face + 0.06), WHITE)
        b.sphere("pupils", 0.065, (side * 0.19, -depth - 0.04, face + 0.05), DARK)
    b.sphere("nose", 0.1, (0, -depth - 0.02, face - 0.12), b.second)
    for k in range(5):
        a = math.radians(72 * k + 36)
        b.sphere("fruit", 0.09, (r * 0.82 * math.cos(a), r * 0.82 * math.sin(a), z + 0.12 * tier), (0.9, 0.1, 0.12))
    return Anchors((0, 0, z + 3.3 * tier, 0.3), (0, 0, z + 0.05, r * 0.6, r * 0.6))


TOYS: dict[str, ToyFunction] = {
    "robot": robot,
    "dog": dog,
    "cat": cat,
    "car": car,
    "teapot": teapot,
    "house": house,
    "mug": mug,
    "boat": boat,
    "rocket": rocket,
    "duck": duck,
    "bear": bear,
    "tree": tree,
}
"""Class noun to the function that builds it."""
