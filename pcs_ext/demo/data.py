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

    @staticmethod
    def load(path: Path) -> "DemoData":
        """Read `numbers.json`.

        Raises:
            ConfigError: missing, or of another layout.
        """
        return from_jsonable(DemoData, read_json(path), where=str(path))
