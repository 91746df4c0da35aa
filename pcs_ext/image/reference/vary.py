"""People who do not exist, each in several pictures, from a style space: synthetic variation for identity encoders.

Su et al. (arXiv 2304.07429) vary identities by a StyleGAN; how could not be read. Ours: an album's mean code is who it
shows, and what its photos' codes differ from it by is how it is shown. A new identity is a mixture of two albums'
means, and each of its pictures borrows one difference of an album's, with that photo's caption.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import atomic_folder, atomic_write_bytes, check_place
from pcs_ext.errors import ModelError, PhotoError, UsageError
from pcs_ext.image.levels import to_pil
from pcs_ext.image.png import png_bytes
from pcs_ext.image.reference.albums import NOUN_FILE, Subjects, read_subjects
from pcs_ext.image.reference.style_networks import StyleAutoencoder
from pcs_ext.image.reference.style_space import StyleEye, open_style_space
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import choose_device, seed_for

PREFIX = "synthetic-"
"""Of the folders of synthetic albums, which lend nothing to others."""
_NEAREST = 0.3
"""Share that the lesser of two mixed identities has at least, so that a new one is neither."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """An album of one subject as codes."""

    noun: str
    """Empty: the album does not say."""
    mean: Tensor
    """Who it shows, `styles width`."""
    differences: Tensor
    """How each photo shows it, `n styles width`; 0 on average."""
    captions: tuple[str, ...]


def vary_pairs(
    pairs: Path,
    output: Path,
    *,
    space: Path,
    identities: int = 100,
    photos: int = 4,
    seed: int = 0,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Path:
    """Add albums of new identities to a folder of pairs for `learn_reference`; those that are there already are kept.

    Masks beside the pictures are white all over: nothing is known to be around anybody.

    Args:
        pairs: see `read_subjects`; albums of one subject are read, those of synthetic ones are passed over.
        output: the folder; it may be `pairs`.
        space: folder that `reference style-space` wrote.
        identities: how many albums.
        photos: pictures of each, two or more.
        seed: of what is mixed and borrowed, with the album's number.
        device: where codes are decoded.
        reporter: hears the progress.

    Raises:
        UsageError: no identity, or fewer than two pictures.
        PhotoError: no noun has two albums of one subject.
        ModelError: the space is none, or only says what codes another tool writes.
    """
    if identities < 1 or photos < 2:
        raise UsageError(f"expected one identity or more with two photos or more each, got {identities} and {photos}.")
    check_place(output)
    eye = open_style_space(space, choose_device(device))
    if not isinstance(eye.model, StyleAutoencoder):
        raise ModelError(f"{space} only names codes that another tool writes; pictures are made by a space of ours.")
    kinds = by_noun(read_subjects(pairs, several=True), eye)
    reporter = reporter or SilentReporter()
    for number in range(identities):
        folder = output / f"{PREFIX}{number:05d}"
        if not folder.is_dir():
            generator = torch.Generator().manual_seed(seed_for(seed, folder.name) % 2**31)
            chosen = kinds[int(torch.randint(len(kinds), (), generator=generator))]
            _write(folder, *invented(chosen, photos, generator), chosen[0].noun, eye.model, seed)
        reporter.progress("vary", number + 1, identities)
    return output


def by_noun(subjects: Sequence[Subjects], eye: StyleEye) -> list[list[Seen]]:
    """Albums of one subject as codes, those of one noun together, where there are two or more.

    Raises:
        PhotoError: no noun has two.
    """
    found: dict[str, list[Seen]] = {}
    for own in subjects:
        if len(own.nouns) > 1 or own.photos[0].path.parent.name.startswith(PREFIX):
            continue
        codes = torch.cat([eye(photo.image[None]).cpu() for photo in own.photos])
        mean, noun = codes.mean(0), "".join(own.nouns)
        captions = tuple(photo.caption or "" for photo in own.photos)
        found.setdefault(noun, []).append(Seen(noun=noun, mean=mean, differences=codes - mean, captions=captions))
    kinds = [seen for seen in found.values() if len(seen) > 1]
    if not kinds:
        raise PhotoError(
            f"no noun has two albums of one subject, to mix a third of; got {len(found)} nouns. Add albums."
        )
    return kinds


def invented(albums: Sequence[Seen], photos: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """Codes and captions of an identity that is mixed of two albums', and shown as photos of all of them are.

    Args:
        albums: of one noun, two or more.
        photos: how many.
        generator: the only source of randomness.

    Returns:
        `photos styles width`, and a caption for each.
    """
    one, other = torch.randperm(len(albums), generator=generator)[:2].tolist()
    share = _NEAREST + (1 - 2 * _NEAREST) * float(torch.rand((), generator=generator))
    who = torch.lerp(albums[one].mean, albums[other].mean, share)
    lent = [(change, said) for seen in albums for change, said in zip(seen.differences, seen.captions, strict=True)]
    order = torch.randperm(len(lent), generator=generator).repeat(-(-photos // len(lent)))[:photos].tolist()
    return torch.stack([who + lent[row][0] for row in order]), [lent[row][1] for row in order]


@torch.inference_mode()
def _write(folder: Path, codes: Tensor, captions: Sequence[str], noun: str, model: StyleAutoencoder, seed: int) -> None:
    pictures = model.decode(codes.to(model.synthesis.constant)).float().clamp(-1, 1).cpu()
    white = png_bytes(Image.new("L", (pictures.shape[3], pictures.shape[2]), 255))
    with atomic_folder(folder) as made:
        if noun:
            atomic_write_bytes(made / NOUN_FILE, f"{noun}\n".encode())
        for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            GeneratedImage(to_pil(picture), caption, {"synthetic": True, "seed": seed}).save(made / f"{number}.png")
            atomic_write_bytes(made / f"{number}.txt", caption.encode())
            atomic_write_bytes(made / f"{number}_mask.png", white)
