"""What phrases say of joints: the vocabulary of the synthetic pose set; ours, none of it measured on people.

Angles are degrees about x, y and z (see `rotations.from_angles`); those of the left side are written down, the right
side mirrors them.
"""

import dataclasses

Angles = tuple[float, float, float]
Turns = dict[str, tuple[Angles, Angles]]
"""Joint -> middle and half width of its angles."""


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A way to say something about a body, and the poses it may mean."""

    texts: tuple[str, ...]
    """Synonyms."""
    poses: tuple[Turns, ...]
    """Equally likely; a phrase such as "raising one arm" has two."""


def mirrored(turns: Turns) -> Turns:
    """The same on the other side."""

    other = {"left": "right", "right": "left"}
    return {
        " ".join(other.get(word, word) for word in name.split()): ((x, -y, -z), spread)
        for name, ((x, y, z), spread) in turns.items()
    }


def _both(turns: Turns) -> Turns:
    return {**turns, **mirrored(turns)}


def _sided(texts: tuple[str, ...], turns: Turns) -> list[Phrase]:
    """A phrase for the left side, with `{s}` in its texts, and its mirror image."""
    return [
        Phrase(tuple(text.format(s=side) for text in texts), (pose,))
        for side, pose in (("left", turns), ("right", mirrored(turns)))
    ]


def _limb(upper: Angles, lower: Angles, *, spread: float = 12.0, limb: str = "arm") -> Turns:
    """Angles of the two halves of a left arm or leg."""
    names = ("left arm", "left forearm") if limb == "arm" else ("left thigh", "left shin")
    wide = (spread, spread, spread / 2)
    return {names[0]: (upper, wide), names[1]: (lower, wide)}


_UP = _limb((0, -140, 0), (0, -8, 0))
_OUT = _limb((0, -60, 0), (0, 0, 0), spread=8)
_FORWARD = _limb((-90, 30, 0), (0, 0, 0))
_WAVE = _limb((0, -60, 0), (0, -85, 0))
_HIP = _limb((0, -12, 0), (0, 92, 0), spread=8)
_BACK = _limb((40, 25, 0), (0, 0, 0))

ARMS: tuple[Phrase, ...] = (
    *_sided(("raising the {s} arm", "with the {s} arm up", "lifting the {s} arm"), _UP),
    Phrase(("raising one arm", "lifting one arm"), (_UP, mirrored(_UP))),
    Phrase(("raising both arms", "with both arms up", "cheering"), (_both(_UP),)),
    *_sided(("stretching the {s} arm out to the side", "with the {s} arm out to the side"), _OUT),
    Phrase(("stretching both arms out to the sides", "with arms spread wide"), (_both(_OUT),)),
    *_sided(("reaching forward with the {s} arm", "with the {s} arm stretched forward"), _FORWARD),
    Phrase(("reaching forward with both arms", "with both arms stretched forward"), (_both(_FORWARD),)),
    *_sided(("waving with the {s} hand", "waving the {s} hand"), _WAVE),
    Phrase(("waving",), (_WAVE, mirrored(_WAVE))),
    *_sided(("with the {s} hand on the hip",), _HIP),
    Phrase(("with both hands on the hips", "with hands on hips"), (_both(_HIP),)),
    *_sided(("stretching the {s} arm backward", "with the {s} arm behind the back"), _BACK),
)

_FOLDED: Turns = {"left thigh": ((-90, -8, 0), (8, 8, 4)), "left shin": ((90, 8, 0), (12, 4, 4))}
_SQUAT: Turns = {"left thigh": ((-112, -12, 0), (8, 8, 4)), "left shin": ((125, 0, 0), (8, 4, 4))}
_KNEEL: Turns = {"left thigh": ((0, -4, 0), (8, 4, 4)), "left shin": ((98, 0, 0), (8, 4, 4)),
                 "left foot": ((40, 0, 0), (8, 4, 4))}  # fmt: skip
_STRAIGHT: Turns = {"left thigh": ((0, 0, 0), (5, 4, 3)), "left shin": ((4, 0, 0), (5, 2, 2))}
_STEP: Turns = {**_limb((-28, 0, 0), (12, 0, 0), spread=8, limb="leg"),
                "right thigh": ((22, 0, 0), (8, 4, 4)), "right shin": ((22, 0, 0), (10, 4, 4)),
                "left arm": ((22, 15, 0), (8, 8, 4)), "right arm": ((-22, -15, 0), (8, 8, 4))}  # fmt: skip
_RUN: Turns = {**_limb((-62, 0, 0), (70, 0, 0), spread=10, limb="leg"),
               "right thigh": ((28, 0, 0), (8, 4, 4)), "right shin": ((62, 0, 0), (12, 4, 4)),
               "left arm": ((42, 22, 0), (10, 8, 4)), "left forearm": ((-85, 0, 0), (10, 8, 4)),
               "right arm": ((-38, -22, 0), (10, 8, 4)), "right forearm": ((-85, 0, 0), (10, 8, 4)),
               "belly": ((12, 0, 0), (5, 3, 4))}  # fmt: skip
_LUNGE: Turns = {**_limb((-75, 0, 0), (72, 0, 0), spread=8, limb="leg"),
                 "right thigh": ((32, 0, 0), (6, 4, 4)), "right shin": ((18, 0, 0), (8, 4, 4))}  # fmt: skip
_KICK: Turns = {**_limb((-72, 0, 0), (8, 0, 0), limb="leg"), **mirrored(_STRAIGHT)}
_KNEE_UP: Turns = {**_limb((-95, 0, 0), (95, 0, 0), spread=10, limb="leg"), **mirrored(_STRAIGHT)}
_ONE_KNEE: Turns = {**_KNEEL, "right thigh": ((-85, 8, 0), (8, 6, 4)), "right shin": ((86, 0, 0), (8, 4, 4))}
_APART: Turns = {"left thigh": ((0, -24, 0), (5, 6, 4)), "left shin": ((3, 0, 0), (4, 2, 2))}

LEGS: tuple[Phrase, ...] = (
    Phrase(("standing", "standing up", "standing still"), (_both(_STRAIGHT),)),
    Phrase(("sitting", "sitting down", "seated"), (_both(_FOLDED),)),
    Phrase(("squatting", "crouching"), ({**_both(_SQUAT), "belly": ((25, 0, 0), (6, 4, 4))},)),
    Phrase(("kneeling", "on both knees"), (_both(_KNEEL),)),
    *_sided(("kneeling on the {s} knee",), _ONE_KNEE),
    Phrase(("kneeling on one knee",), (_ONE_KNEE, mirrored(_ONE_KNEE))),
    Phrase(("walking", "strolling"), (_STEP, mirrored(_STEP))),
    Phrase(("running", "sprinting"), (_RUN, mirrored(_RUN))),
    *_sided(("lunging with the {s} leg", "in a lunge with the {s} leg in front"), _LUNGE),
    *_sided(("kicking with the {s} leg",), _KICK),
    Phrase(("kicking",), (_KICK, mirrored(_KICK))),
    *_sided(("lifting the {s} knee", "with the {s} knee up"), _KNEE_UP),
    Phrase(("standing with legs apart", "with legs apart"), (_both(_APART),)),
    Phrase(("lying on the back", "lying face up"), ({**_both(_STRAIGHT), "hips": ((-90, 0, 0), (3, 3, 3))},)),
    Phrase(("lying on the belly", "lying face down"), ({**_both(_STRAIGHT), "hips": ((90, 0, 0), (3, 3, 3))},)),
)

TRUNK: tuple[Phrase, ...] = (
    Phrase(("bowing", "bending forward"), ({"belly": ((38, 0, 0), (6, 4, 4)), "chest": ((26, 0, 0), (5, 4, 4))},)),
    Phrase(("leaning back",), ({"belly": ((-16, 0, 0), (4, 3, 3)), "chest": ((-10, 0, 0), (4, 3, 3))},)),
    *_sided(
        ("leaning to the {s}", "bending to the {s}"),
        {"belly": ((0, 20, 0), (4, 4, 4)), "chest": ((0, 14, 0), (4, 4, 4))},
    ),
    *_sided(
        ("turning to the {s}", "twisting to the {s}"),
        {"belly": ((0, 0, 22), (4, 4, 6)), "chest": ((0, 0, 24), (4, 4, 6))},
    ),
)

HEAD: tuple[Phrase, ...] = (
    Phrase(("looking up",), ({"neck": ((-14, 0, 0), (4, 3, 3)), "head": ((-24, 0, 0), (5, 3, 3))},)),
    Phrase(("looking down",), ({"neck": ((14, 0, 0), (4, 3, 3)), "head": ((24, 0, 0), (5, 3, 3))},)),
    *_sided(("looking to the {s}",), {"neck": ((0, 0, 18), (3, 3, 5)), "head": ((0, 0, 32), (3, 3, 6))}),
)

RELAXED: Turns = {
    "belly": ((0, 0, 0), (3, 3, 3)),
    "chest": ((0, 0, 0), (3, 3, 3)),
    "head": ((0, 0, 0), (4, 3, 4)),
    **_both({**_limb((0, 14, 0), (-8, 0, 0), spread=8), **_STRAIGHT}),
}
"""What is not spoken of."""
WHO = ("a person", "a man", "a woman", "someone", "a child", "a robot", "a dancer", "a bear")
WHERE = ("on the beach", "in the snow", "in a room", "on the grass", "at night", "in the city", "under water",
         "in the desert", "on a table", "in the mountains")  # fmt: skip
"""Said of pictures, not of poses: a pose model learns to pass over it."""
