"""Several classes learned as words, each against the photos of the others, and the classifier they make."""

from collections.abc import Callable
from pathlib import Path

from pcs_ext.errors import ArtifactError, PhotoError, UsageError
from pcs_ext.image.backbones.load import TOYBOX_WEIGHTS, load_backbone
from pcs_ext.image.classify import TokenClassifier
from pcs_ext.image.contrast import Rivals
from pcs_ext.image.data import Photo, find_photos
from pcs_ext.image.evaluate.encoders import ClipEncoder, load_image_text_encoder
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import Recipe
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter


def clip_for(base: str, folder: Path | None = None) -> ClipEncoder:
    """The CLIP whose text tower a base has: toybox brings its own, that of a real base is named.

    Raises:
        UsageError: a real base, and no folder.
        ModelError: the folder holds no CLIP.
    """
    if folder is None and base != "toybox":
        raise UsageError(
            f"classes on {base} need the CLIP whose text tower it has: give --clip with a transformers folder, such as "
            "a download of openai/clip-vit-large-patch14 for Stable Diffusion 1.x."
        )
    return load_image_text_encoder(folder if folder is not None else TOYBOX_WEIGHTS / "clip")


def class_photos(folder: Path) -> dict[str, list[Photo]]:
    """Photos by class, from one folder per class in `folder`, in the order of their names.

    Raises:
        PhotoError: no such folder, fewer than two classes, or one without photos.
    """
    if not folder.is_dir():
        raise PhotoError(f"{folder} is no folder; expected one with a folder of photos per class in it.")
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(inside) < 2:
        raise PhotoError(f"{folder} holds {len(inside)} folders; expected one per class, at least two.")
    return {path.name: find_photos(path) for path in inside}


def learn_classes(
    folder: Path,
    *,
    noun: str,
    output: Path,
    clip: ClipEncoder,
    recipe: str | Recipe = "mc-ti",
    base: str = "toybox",
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> list[str]:
    """A learned word per class, in `OUTPUT/CLASS`. Interrupted, the same call goes on; finished classes are kept.

    Args:
        folder: see `class_photos`.
        noun: what all classes are.
        output: folder of the words.
        clip: whose text tower the base's first text encoder is.
        recipe, base, steps, seed, device, precision, reporter: as for `learn`.

    Raises:
        ArtifactError: a class that is there was learned against other photos.
    """
    photos = class_photos(folder)
    backbone = load_backbone(base, device=device, precision=precision, reporter=reporter)
    for name, group in photos.items():
        rivals = Rivals(clip, [others for other, others in photos.items() if other != name])
        target = output / name
        if target.exists():
            if Artifact.load(target).data.training.get("rivals") != rivals.digest:
                raise ArtifactError(
                    f"{target} was learned against other photos than those in {folder}; remove it to learn it again, "
                    "or choose another --output."
                )
            continue
        learn([photo.path for photo in group], noun=noun, output=target, recipe=recipe, base=backbone, steps=steps,
              seed=seed, rivals=rivals, reporter=reporter)  # fmt: skip
    return list(photos)


def load_classifier(folder: Path, clip: Callable[[str], ClipEncoder], *, device: str = "auto") -> TokenClassifier:
    """The classifier of all learned subjects in a folder.

    Args:
        folder: one artifact per class in it, of whatever recipe, all on one base.
        clip: base name -> the CLIP whose text tower it has.
        device: where to run.

    Raises:
        UsageError: fewer than two subjects, or of several bases.
    """
    inside = sorted(path for path in folder.iterdir() if (path / "config.json").is_file()) if folder.is_dir() else []
    subjects = {path.name: Artifact.load(path) for path in inside}
    bases = {artifact.data.base_name for artifact in subjects.values()}
    if len(subjects) < 2 or len(bases) > 1:
        raise UsageError(
            f"{folder} holds {len(subjects)} learned subjects of {len(bases)} bases; expected at least two of one base."
        )
    (name,) = bases
    return TokenClassifier.of(subjects, load_backbone(name, device=device), clip(name))
