"""True clips to learn motions from, and what clips of learned motions and subjects should show."""

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from pcs_ext.runtime import generator_for
from pcs_ext.toybox.train.clips import FRAMES
from pcs_ext.toybox.true_motion import true_flow
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.motion import frames_of
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.sampling import attributes, sample_clip
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.toybox.world.subjects import SUBJECTS, class_noun
from pcs_ext.toybox.world.subjects import subject as toy_named
from pcs_ext.toybox.world.vocabulary import CONTEXTS, MOTIONS, STYLES
from pcs_ext.video.evaluate import ClipFlow

SHORT = ("spin", "jump", "left", "right", "roll", "sway", "zoom", "orbit")
"""Of `MOTIONS`, in their order: what files are called."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """A true clip of a toy that is none of the subjects."""

    motion: str
    """One of `MOTIONS`."""
    clip: Tensor
    """`f 3 h w` in [-1, 1]."""
    says: str
    """What it shows, without the motion: what is not said must be learned."""
    shows: dict[str, str]
    """Its attributes."""
    flow: ClipFlow
    """Of the world, not matched."""


def example(motion: str, *, resolution: int, frames: int = FRAMES) -> Example:
    """The clip that a motion is learned from, always the same one."""
    scenes = example_scenes(motion, frames)
    return Example(
        motion=motion,
        clip=render_rgb(scenes, resolution=resolution),
        says=unmoved_caption(scenes[0]),
        shows=attributes(scenes[0]),
        flow=true_flow(scenes, resolution=resolution),
    )


def unmoved_caption(scene: Scene) -> str:
    """What a moving scene shows, without the motion."""
    return caption(scene).replace(f" {scene.motion}", "")


def example_scenes(motion: str, frames: int = FRAMES) -> list[Scene]:
    """Moments of a photo of a moving toy of some class."""
    scene = sample_clip(generator_for("video systems", motion), motion=motion, style=STYLES[0])
    return frames_of(scene, frames, start=0.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A subject and a motion that were never seen together."""

    subject: str
    motion: str

    @property
    def name(self) -> str:
        """Of files: "rex-spin"."""
        return f"{self.subject}-{SHORT[MOTIONS.index(self.motion)]}"

    @property
    def context(self) -> str:
        """Where the clip is asked to play: not where the example does."""
        taken = example_scenes(self.motion)[0].context
        others = [context for context in CONTEXTS if context != taken]
        return others[(7 * list(SUBJECTS).index(self.subject) + 3 * MOTIONS.index(self.motion)) % len(others)]

    @property
    def prompt(self) -> str:
        """What is asked for, the motion not named."""
        return f"{STYLES[0]} {{subject}} {self.context}"

    @property
    def asked(self) -> dict[str, str]:
        """What of the prompt can be read off a frame."""
        return {"style": STYLES[0], "context": self.context, "class": class_noun(self.subject)}


def pairs(subjects: Sequence[str], motions: Sequence[str], per_subject: int) -> list[Pair]:
    """Every subject with so many of the motions, the motions taking turns."""
    names = list(SUBJECTS)
    return [
        Pair(subject=subject, motion=motions[(names.index(subject) * per_subject + turn) % len(motions)])
        for subject in subjects
        for turn in range(min(per_subject, len(motions)))
    ]


def true_scenes(pair: Pair) -> list[Scene]:
    """The subject in the asked place, moving and seen as the toy of the example is."""
    return [
        dataclasses.replace(
            scene,
            objects=(
                dataclasses.replace(
                    toy_named(pair.subject), position=scene.objects[0].position, heading=scene.objects[0].heading
                ),
            ),
            context=pair.context,
        )
        for scene in example_scenes(pair.motion)
    ]
