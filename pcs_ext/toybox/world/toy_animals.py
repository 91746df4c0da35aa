"""The four animals among the toys."""

from pcs_ext.toybox.world.parts import DARK, Anchors, Builder, rotation_x, rotation_y

PINK = (0.98, 0.50, 0.60)


def dog(b: Builder) -> Anchors:
    """Four legs, a long muzzle with a dark nose, hanging ears and a raised tail."""
    length, r, hr = 0.60 * b.vary(), 0.33 * b.vary(), 0.34 * b.vary()
    leg, hz = 0.28 * b.vary(0.2), 1.18 * b.vary(0.06)
    y = -length * 0.92
    b.sphere("body", (r, length, r), (0, 0.1, 2 * leg + r * 0.5), b.main, patterned=True)
    b.sphere("head", (hr, hr * 0.95, hr * 0.95), (0, y, hz), b.main, patterned=True)
    muzzle = 0.25 * b.vary(0.2)
    b.sphere("muzzle", (0.18, muzzle, 0.15), (0, y - hr, hz - 0.08), b.second)
    b.sphere("nose", 0.085, (0, y - hr - muzzle * 0.92, hz - 0.02), DARK)
    ear = 0.27 * b.vary(0.25)
    for side in (-1, 1):
        b.sphere("ears", (0.1, 0.14, ear), (side * hr * 0.98, y + 0.05, hz - 0.04), b.second)
        b.sphere("eyes", 0.065, (side * 0.15, y - hr * 0.86, hz + 0.12), DARK)
        _leg_pair(b, side * r * 0.62, length, leg)
    b.rod("tail", (0, 0.1 + length * 0.9, 2 * leg + r * 0.6), (0, length + 0.42, 2 * leg + r + 0.38), 0.07, b.second)
    return Anchors((0, y, hz + hr * 0.85, hr), (0, y * 0.78, hz - hr * 0.8, r * 0.95, r * 0.95))


def cat(b: Builder) -> Anchors:
    """Four thin legs, pointed ears, a pink nose and a tall curved tail."""
    length, r, hr = 0.52 * b.vary(), 0.29 * b.vary(), 0.36 * b.vary()
    leg, hz = 0.27 * b.vary(0.2), 1.16 * b.vary(0.06)
    y = -length * 0.95
    b.sphere("body", (r, length, r), (0, 0.1, 2 * leg + r * 0.5), b.main, patterned=True)
    b.sphere("head", (hr, hr * 0.85, hr * 0.85), (0, y, hz), b.main, patterned=True)
    ear = 0.19 * b.vary(0.2)
    for side in (-1, 1):
        b.cone("ears", (0.16, 0.1, ear), (side * hr * 0.6, y + 0.02, hz + hr * 0.72 + ear * 0.6), b.second)
        b.sphere("eyes", (0.075, 0.05, 0.095), (side * 0.16, y - hr * 0.77, hz + 0.08), (0.55, 0.95, 0.25))
        b.sphere("pupils", (0.035, 0.04, 0.08), (side * 0.16, y - hr * 0.82, hz + 0.08), DARK)
        b.sphere("cheeks", (0.13, 0.09, 0.1), (side * 0.1, y - hr * 0.75, hz - 0.12), b.second)
        _leg_pair(b, side * r * 0.6, length, leg, 0.085)
    b.sphere("nose", 0.06, (0, y - hr * 0.88, hz - 0.04), PINK)
    back, z, tail = 0.1 + length * 0.9, 2 * leg + r * 0.6, 0.3 * b.vary(0.25)
    points = [
        (0, back, z),
        (0, back + 0.2, z + 0.12),
        (0, back + 0.27, z + 0.2 + tail),
        (0, back + 0.12, z + 0.4 + tail),
    ]
    b.chain("tail", points, 0.065, b.second)
    return Anchors((0, y, hz + hr * 0.76, hr * 0.85), (0, y * 0.72, hz - hr * 0.75, r * 0.98, r * 0.98))


def duck(b: Builder) -> Anchors:
    """A floating body, a round head, a flat beak, wings, an upturned tail and two feet."""
    w, length, h = 0.48 * b.vary(), 0.66 * b.vary(), 0.42 * b.vary()
    hr = 0.33 * b.vary()
    y, z, hz = -length * 0.62, 0.14 + h, 0.14 + 2 * h + hr * 0.55
    b.sphere("body", (w, length, h), (0, 0.1, z), b.main, patterned=True)
    b.sphere("head", hr, (0, y, hz), b.main, patterned=True)
    beak = 0.21 * b.vary(0.25)
    b.cone("beak", (0.18, 0.08, beak), (0, y - hr - beak * 0.55, hz - 0.05), b.second, rotation=rotation_x(90))
    b.cone("tail", (0.24, 0.12, 0.24), (0, 0.1 + length * 0.98, z + h * 0.45), b.main, rotation=rotation_x(-55))
    wing = 0.38 * b.vary(0.2)
    for side in (-1, 1):
        b.sphere("eyes", 0.07, (side * 0.17, y - hr * 0.8, hz + 0.12), DARK)
        b.sphere("wings", (0.11, wing, 0.23), (side * w * 0.97, 0.15, z + 0.05), b.second)
        b.sphere("feet", (0.14, 0.2, 0.06), (side * w * 0.5, -0.05, 0.06), (0.98, 0.55, 0.1))
    return Anchors((0, y, hz + hr * 0.88, hr), (0, y * 0.95, hz - hr * 0.85, hr * 0.98, hr * 0.98))


def bear(b: Builder) -> Anchors:
    """A sitting bear with round ears, a belly patch, arms and feet."""
    w, h, hr = 0.48 * b.vary(), 0.52 * b.vary(), 0.37 * b.vary()
    z, hz = 0.06 + h, 0.06 + 2 * h + hr * 0.62
    b.sphere("body", (w, 0.42, h), (0, 0, z), b.main, patterned=True)
    b.sphere("belly", (w * 0.6, 0.13, h * 0.6), (0, -0.33, z - 0.02), b.second)
    b.sphere("head", hr, (0, -0.05, hz), b.main, patterned=True)
    muzzle = 0.17 * b.vary(0.2)
    b.sphere("muzzle", (muzzle * 1.15, 0.15, muzzle * 0.85), (0, -0.05 - hr * 0.88, hz - 0.1), b.second)
    b.sphere("nose", 0.07, (0, -0.05 - hr * 0.88 - 0.13, hz - 0.04), DARK)
    ear, arm = 0.15 * b.vary(0.25), 0.34 * b.vary(0.2)
    for side in (-1, 1):
        b.sphere("ears", (ear, 0.08, ear), (side * hr * 0.8, -0.02, hz + hr * 0.78), b.second)
        b.sphere("eyes", 0.06, (side * 0.15, -0.05 - hr * 0.86, hz + 0.11), DARK)
        at = (side * (w + 0.06), -0.12, z + h * 0.3)
        b.sphere("arms", (0.15, 0.16, arm), at, b.main, rotation=rotation_y(side * -35), patterned=True)
        b.sphere("feet", (0.19, 0.3, 0.19), (side * w * 0.6, -0.32, 0.19), b.main, patterned=True)
        b.sphere("soles", (0.12, 0.05, 0.12), (side * w * 0.6, -0.6, 0.2), b.second)
    b.sphere("tail", 0.13, (0, 0.42, 0.3), b.second)
    return Anchors((0, -0.05, hz + hr * 0.86, hr), (0, -0.02, hz - hr * 0.85, hr * 0.98, hr * 0.95))


def _leg_pair(b: Builder, x: float, length: float, leg: float, thick: float = 0.1) -> None:
    b.cylinder("front legs", thick, leg, (x, 0.1 - length * 0.62, leg), b.second)
    b.cylinder("back legs", thick, leg, (x, 0.1 + length * 0.62, leg), b.main)
