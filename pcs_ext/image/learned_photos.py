"""The photos of a request to learn: read, checked against the recipe, and what one would rather know of them told."""

from collections.abc import Sequence
from pathlib import Path

from pcs_ext.errors import PhotoError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import LEARNED_SIDE, Photo, SubjectDataset, find_photos, overlooked, photo_paths, repeated
from pcs_ext.image.posed import posed
from pcs_ext.image.recipes import Recipe
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for


def photos_for(
    recipe: Recipe, photos: Sequence[Path] | Sequence[Photo] | Path | str, reporter: Reporter
) -> list[Photo]:
    """The photos, once all is found right that can be before a model is loaded.

    Args:
        recipe: says what each photo needs beside it.
        photos: a folder, photo files, or photos that were read already.
        reporter: hears of files that are passed over and of pictures that are there twice.

    Raises:
        PhotoError: see `find_photos` and `Recipe.check_photos`.
    """
    found = _read(photos, reporter)
    recipe.check_photos(found)
    return posed(found) if recipe.needs_cameras else found


def _read(photos: Sequence[Path] | Sequence[Photo] | Path | str, reporter: Reporter) -> list[Photo]:
    source = [photos] if isinstance(photos, (str, Path)) else photos
    read = [photo for photo in source if isinstance(photo, Photo)]
    if read:
        return read
    paths = [path for path in source if not isinstance(path, Photo)]
    count = len(photo_paths(paths))  # large photos take seconds each
    reporter.event("reading", f"reading {count} {'photo' if count == 1 else 'photos'}", photos=count)
    found = find_photos(paths, short_side=LEARNED_SIDE)
    for remark in (*overlooked(paths), *repeated(found)):
        reporter.event("photos", remark)
    return found


def check_captions(data: SubjectDataset, backbone: AbstractBackbone, reporter: Reporter) -> None:
    """Say which captions are longer than the text encoder reads.

    Args:
        data: the photos.
        backbone: with the learned words among its tokens.
        reporter: hears of captions that are cut.

    Raises:
        PhotoError: what is cut off is the subject, so that its photo would teach the words nothing.
    """
    limit = backbone.tokenizers[0].model_max_length - 2
    for index, photo in enumerate(data.photos):
        if photo.caption is None:
            continue
        text = data.caption(index, generator_for("caption", index))
        if (count := backbone.token_count(text)) <= limit:
            continue
        before, named, _ = text.partition(data.concept.name)
        if named and backbone.token_count(before + named) > limit:
            raise PhotoError(
                f"the caption of {photo.path.name} has {count} tokens, of which {limit} are read, and {named!r} stands "
                "behind these. Write {subject} further to the front, or shorten the caption."
            )
        reporter.event("photos", f"the caption of {photo.path.name} has {count} tokens, of which {limit} are read")
