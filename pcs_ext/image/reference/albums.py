"""Albums on disk: a subfolder for each subject, with photos, captions, masks and the nouns that captions say.

Errors name the folder and what to put into it.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from pcs_ext.errors import PhotoError
from pcs_ext.image.data import Photo, find_photos
from pcs_ext.image.reference.nouns import names

NOUN_FILE = "noun.txt"


@dataclasses.dataclass(frozen=True)
class Subjects:
    """A folder of one subject, or of several that stand together."""

    photos: tuple[Photo, ...]
    nouns: tuple[str, ...]
    """Of `noun.txt`, a line for each; empty: there is none."""


def read_subjects(folder: Path, *, asks_noun: bool = False, several: bool = False) -> list[Subjects]:
    """The photos of a folder's subfolders, with a caption `NAME.txt` beside every photo.

    A subfolder shows one subject, which `noun.txt` names, in photos with masks `NAME_mask.png`, or several together: a
    line of `noun.txt` and a mask `NAME_mask1.png`, `NAME_mask2.png` for each.

    Args:
        folder: of the subfolders.
        asks_noun: nouns must be told, and captions must have them.
        several: whether a subfolder may show several subjects.

    Raises:
        PhotoError: there is no such folder, or no subfolders, one has fewer than two photos, a photo has no caption, or
            what nouns and masks must tell is missing.
    """
    return list(each_subjects(folder, asks_noun=asks_noun, several=several))


def each_subjects(folder: Path, *, asks_noun: bool = False, several: bool = False) -> Iterator[Subjects]:
    """The same one subfolder after the other, for who needs the pixels of one at a time."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise PhotoError(f"{folder} {what}; expected a folder with a subfolder for each subject.")
    places = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not places:
        raise PhotoError(f"{folder} has no subfolders; expected one for each subject, with two photos of it or more.")
    for place in places:
        yield _subjects(place, asks_noun, several)


def _subjects(place: Path, asks_noun: bool, several: bool) -> Subjects:
    photos = find_photos(place)
    if len(photos) < 2:
        raise PhotoError(f"{place} holds one photo; expected two or more of one subject: one is shown, one is drawn.")
    bare = [photo.path.name for photo in photos if not photo.caption]
    if bare:
        raise PhotoError(
            f"{place} has no caption beside {', '.join(bare[:3])}; expected {Path(bare[0]).stem}.txt, which says "
            "what the photo shows and leaves out what another photo of the subject tells."
        )
    nouns = read_nouns(place)
    if asks_noun:
        _check_nouns(place, photos, nouns)
    if len(nouns) > 1:
        _check_parts(place, photos, nouns, several)
    return Subjects(tuple(photos), nouns)


def read_nouns(place: Path) -> tuple[str, ...]:
    """The lines of a folder's `noun.txt`; none where there is no such file.

    Raises:
        PhotoError: it is no text in UTF-8.
    """
    file = place / NOUN_FILE
    try:
        text = file.read_text(encoding="utf-8-sig") if file.is_file() else ""
    except UnicodeDecodeError:
        raise PhotoError(f"{file} is no text in UTF-8; expected the subject's noun, save it again as UTF-8.") from None
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _check_nouns(place: Path, photos: Sequence[Photo], nouns: tuple[str, ...]) -> None:
    if not nouns:
        raise PhotoError(
            f"{place} has no {NOUN_FILE}; expected the word by which its captions name the subject: robot."
        )
    for photo in photos:
        missing = [noun for noun in nouns if not names(photo.caption or "", noun)]
        if missing:
            raise PhotoError(
                f"the caption of {photo.path} does not name the {missing[0]} of {NOUN_FILE}: {photo.caption!r}. Say it "
                "there as it stands in that file."
            )


def _check_parts(place: Path, photos: Sequence[Photo], nouns: tuple[str, ...], several: bool) -> None:
    if not several:
        raise PhotoError(
            f"{place / NOUN_FILE} names {len(nouns)} subjects; this system learns from photos of one. Leave the folder "
            "out, or name one subject."
        )
    if len(set(nouns)) < len(nouns):
        raise PhotoError(
            f"{place / NOUN_FILE} names two subjects alike ({', '.join(nouns)}); expected different words."
        )
    for photo in photos:
        count = 0 if photo.parts is None else len(photo.parts)
        if count != len(nouns):
            raise PhotoError(
                f"{photo.path} has {count} numbered masks; expected {len(nouns)}, {photo.path.stem}_mask1.png and so "
                f"on, in the order of {NOUN_FILE} ({', '.join(nouns)})."
            )
