"""What the demo's page shows, as plain data: `numbers.json`. The page is made from it and the images beside it."""

from pathlib import Path

from pcs_ext.config_io import config, from_jsonable, read_json
from pcs_ext.image.evaluate import Report


@config
class ShownPrompt:
    """One prompt of the gallery."""

    text: str
    """With `{subject}`."""
    kind: str
    """`context`, `accessory`, `style`, `view`: the gallery's sections."""
    asked: str
    """The part that changes: "on the beach"."""


@config
class ShownSystem:
    """One row of images: a recipe, or the plain class word."""

    id: str
    """Recipe id, or `class-word`."""
    label: str
    """For people: "DreamBooth LoRA"."""
    images: tuple[str, ...]
    """Paths relative to the page, prompts outermost, seeds within."""
    hits: tuple[int, ...]
    """Per prompt, how many of its images show what was asked."""
    report: Report
    """Every measured figure."""
    losses: tuple[float, ...] = ()
    """Training loss of every step; empty for the class word."""
    learn_seconds: float = 0.0
    """Time to learn."""
    sample_seconds: float = 0.0
    """Time to generate the images."""


@config
class PlotPoint:
    """One system in the plot of fidelity against editability."""

    id: str
    """Recipe id, or `class-word`."""
    label: str
    """Written beside the point."""
    fidelity: float
    """Similarity to true new views."""
    fidelity_spread: float
    """One standard deviation."""
    editability: float
    """Share of what prompts ask for that is shown."""
    editability_spread: float
    """One standard deviation."""


@config
class ShownPanorama:
    """The subject, all around."""

    picture: str
    """Relative path of the panorama."""
    viewer: str
    """Relative path of the page to look around in."""
    text: str
    """The prompt, with `{subject}`."""
    seam: float
    """Difference across the ends over that of neighbouring columns; 1 is seamless."""
    seconds: float
    """Time to make it."""


@config
class ShownObject:
    """The subject as a mesh."""

    method: str
    """How it was made."""
    text: str
    """The prompt, with `{subject}`."""
    model: str
    """Relative path of the GLB."""
    viewer: str
    """Relative path of the page to turn it in."""
    made: str
    """Relative path of its turntable, an animated WebP."""
    true: str
    """Relative path of the toy's own."""
    faces: int
    """Triangles."""
    likeness: float
    """Mean cosine of its views to the toy's from the same cameras."""
    seconds: float
    """Time to make it."""


@config
class ShownClip:
    """A clip and what was measured of it."""

    label: str
    """For people: "Rex, with the motion"."""
    clip: str
    """Relative path of an MP4, enlarged."""
    still: str
    """Relative path of its first frame."""
    read: str
    """The motion that a reader sees in it; empty: none."""
    fidelity: float
    """To the true motion of the reference, in [-1, 1]."""
    likeness: float
    """To the photos, mean cosine."""


@config
class ShownMethod:
    """What a way to learn motions reached over many subjects and motions."""

    label: str
    """Recipe id, or what it is measured beside."""
    figures: tuple[float | None, ...]
    """In the order of `video_methods.COLUMNS`."""


@config
class ShownVideo:
    """The subject performing a motion that was learned from one clip."""

    motion: str
    """What the reference shows: "spinning"."""
    text: str
    """The prompt, with `{subject}`; it does not name the motion."""
    recipe: str
    """How the motion was learned."""
    from_noise: bool
    """Whether the clip with the motion starts from the reference's inverted noise."""
    steps: int
    """Of learning."""
    clips: tuple[ShownClip, ...]
    """The reference, the subject with the motion, the subject without."""
    methods: tuple[ShownMethod, ...]
    """Of the committed results; none where they are not there."""
    seconds: float
    """Time for all of it."""


@config
class ShownDrawing:
    """An SVG exemplar redrawn."""

    exemplar: str
    """Relative path of the SVG before."""
    picture: str
    """Relative path of what the base imagined."""
    redrawn: str
    """Relative path of the SVG after."""
    outlines: str
    """Relative path of its outlines alone."""
    noun: str
    """What the exemplar shows."""
    text: str
    """The prompt, with `{subject}`."""
    kept: tuple[str, ...]
    """Ids of the exemplar's paths that are still there."""
    dropped: tuple[str, ...]
    """Ids of those that are not."""
    added: tuple[str, ...]
    """Ids of new ones."""
    seconds: float
    """Time to make it."""


@config
class ShownProtected:
    """A photo before and after."""

    original: str
    """Relative path."""
    protected: str
    """Relative path."""
    difference: str
    """Relative path of the strip: before, after, the change amplified."""
    levels: float
    """Largest change, 8-bit levels."""
    ssim: float
    """Structural similarity to the original."""


@config
class ShownArm:
    """What the attacker got from one set of photos."""

    id: str
    """clean, protected, noise."""
    label: str
    """For people: "clean photos"."""
    pictures: tuple[str, ...]
    """Relative paths."""
    likeness: float
    """Mean, to the photos."""


@config
class ShownProtection:
    """The photos protected, and an attack on them."""

    recipe: str
    """Of the protection."""
    noun: str
    """What the photos show."""
    levels: float
    """Budget, 8-bit levels."""
    steps: int
    """Gradient steps."""
    photos: tuple[ShownProtected, ...]
    """All of them."""
    arms: tuple[ShownArm, ...]
    """Clean photos first."""
    attacker: str
    """Recipe of the attack."""
    attacker_steps: int
    """Its optimiser steps."""
    drop: float
    """Likeness from clean photos minus that from protected ones."""
    drop_interval: tuple[float, float]
    """Its 95 % interval over pictures."""
    noise_drop: float
    """The same for random noise."""
    report: str
    """Relative path of the whole report."""
    seconds: float
    """Time for all of it."""


@config
class DemoData:
    """The whole page."""

    subject: str
    """Name: "rex"."""
    noun: str
    """Class noun: "dog"."""
    photos: tuple[str, ...]
    """The photos it was learned from, relative paths."""
    prompts: tuple[ShownPrompt, ...]
    """Of the gallery."""
    seeds: tuple[int, ...]
    """One image of each prompt per seed."""
    systems: tuple[ShownSystem, ...]
    """The recipe to show first, then the others, the class word last."""
    points: tuple[PlotPoint, ...]
    """Of the plot."""
    points_over: str
    """What the plot's spread is over: "4 seeds", "12 subjects"."""
    ceiling: float | None
    """Fidelity that other true views of the subject reach, on the plot's scale."""
    base: str
    """The base model's name."""
    resolution: int
    """Side of the images in pixels."""
    measure_seconds: float
    """Time to measure."""
    cores: int
    """CPU threads that were used."""
    device: str
    """Where it ran."""
    panorama: ShownPanorama | None = None
    """Where that part was asked for."""
    object: ShownObject | None = None
    """Where that part was asked for."""
    video: ShownVideo | None = None
    """Where that part was asked for."""
    drawing: ShownDrawing | None = None
    """Where that part was asked for."""
    protection: ShownProtection | None = None
    """Where that part was asked for."""

    @staticmethod
    def load(path: Path) -> "DemoData":
        """Read `numbers.json`.

        Raises:
            ConfigError: missing, or of another layout.
        """
        return from_jsonable(DemoData, read_json(path), where=str(path))
