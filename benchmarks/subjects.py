"""The subjects of `examples/` as recipes learn them from their five photos: learned once for all benchmarks."""

from pathlib import Path

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import photo_paths
from pcs_ext.image.learn_once import learn_once
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import cache_folder
from pcs_ext.toybox.world.subjects import class_noun

EXAMPLES = Path(__file__).parents[1] / "examples"


def subjects_folder() -> Path:
    """Where `image_subjects` keeps its runs, and the others look for learned subjects."""
    return cache_folder() / "image_subjects"


def subject_path(work: Path, name: str, seed: int, recipe: str) -> Path:
    """Folder of one learned subject below `work`."""
    return work / f"{name}-{seed}" / "subjects" / recipe


def learned(
    name: str, seed: int, backbone: AbstractBackbone, reporter: Reporter, *, recipe: str = "dreambooth-lora",
    steps: int | None = None, work: Path | None = None,
) -> Artifact:  # fmt: skip
    """A subject, learned now if no benchmark has yet.

    Args:
        name: of the subject.
        seed: of the training.
        backbone: its base.
        reporter: hears events and progress.
        recipe: how.
        steps: of training; None takes the recipe's.
        work: where it is kept; None shares it with the other benchmarks.
    """
    return learn_once(
        photo_paths(EXAMPLES / name),
        noun=class_noun(name),
        recipe=recipe,
        base=backbone,
        output=subject_path(work or subjects_folder(), name, seed, recipe),
        steps=steps,
        seed=seed,
        reporter=reporter,
    )
