"""Albums as `pcs-ext reference learn` reads them: tiny pictures with captions, masks and nouns."""

from pathlib import Path

from PIL import Image, ImageDraw


def albums(folder: Path, *, photos: int = 3, couples: int = 0) -> Path:
    """Two albums of one toy each, red and blue, and so many of a dog beside a cat; the folder."""
    for noun, colour in (("dog", "red"), ("cat", "blue")):
        _album(folder / f"{noun}-album", photos, [(noun, colour)])
    for index in range(couples):
        _album(folder / f"couple-{index}", photos, [("dog", "red"), ("cat", "blue")])
    return folder


def _album(place: Path, photos: int, subjects: list[tuple[str, str]]) -> None:
    place.mkdir(parents=True)
    for number in range(photos):
        picture = Image.new("RGB", (40, 36 + number), "white")
        for index, (_, colour) in enumerate(subjects):
            box = (4 + 18 * index, 6, 18 + 18 * index, 30)
            ImageDraw.Draw(picture).rectangle(box, fill=colour)
            mask = Image.new("L", picture.size)
            ImageDraw.Draw(mask).rectangle(box, fill=255)
            suffix = "" if len(subjects) == 1 else str(index + 1)
            mask.save(place / f"{number}_mask{suffix}.png")
        picture.save(place / f"{number}.png")
        said = " and ".join(f"the {noun}" for noun, _ in subjects)
        (place / f"{number}.txt").write_text(f"a photo of {said}")
    (place / "noun.txt").write_text("\n".join(noun for noun, _ in subjects) + "\n")
