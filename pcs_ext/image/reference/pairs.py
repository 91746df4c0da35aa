"""What a reference adapter learns from: pictures in groups, each group of one subject.

A target and its caption come with the features of another picture of the same subject. Differs from IP-Adapter, whose
reference is the target itself: two pictures of a subject share the subject and not the place, the light or the pose, so
that these stay the caption's to say.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import PhotoError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import Photo, find_photos
from pcs_ext.reporter import Reporter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """One batch: targets, what is said of them, and another picture of each."""

    latents: Tensor
    """`b c h w` of the targets, float32."""
    captions: tuple[str, ...]
    features: Tensor
    """`b 1 d` or `b 1 n d` of the references."""
    weights: Tensor | None
    """`b 1 h w` of the targets' latent cells in the loss; None: all alike."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairData:
    """Pictures that were encoded once."""

    latents: Tensor
    """`n c h w`."""
    features: Tensor
    """`n d` or `n k d`."""
    captions: Sequence[tuple[str, ...]]
    """Of every picture, one or several: one is drawn each time."""
    groups: Sequence[Tensor]
    """Rows of one subject each, two or more."""
    weights: Tensor | None = None
    """`n 1 h w` of latent cells in the loss, 1 on average; None: all alike."""

    def draw(self, batch: int, generator: torch.Generator) -> Pairs:
        """A random batch: subjects evenly, of each two different pictures."""
        chosen = torch.randint(len(self.groups), (batch,), generator=generator).tolist()
        rows = [self.groups[index] for index in chosen]
        picked = torch.stack([own[torch.randperm(len(own), generator=generator)[:2]] for own in rows])
        targets, references = picked.unbind(1)
        told = torch.rand(batch, generator=generator).tolist()
        captions = [self.captions[row] for row in targets.tolist()]
        return Pairs(
            latents=self.latents[targets].float(),
            captions=tuple(said[int(share * len(said))] for said, share in zip(captions, told, strict=True)),
            features=self.features[references].float().unsqueeze(1),
            weights=None if self.weights is None else self.weights[targets].float(),
        )


def read_subjects(folder: Path) -> list[list[Photo]]:
    """The photos of a folder's subfolders, one subject each, with a caption `NAME.txt` beside every photo.

    Raises:
        PhotoError: there are no subfolders, one has fewer than two photos, or a photo has no caption.
    """
    places = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not places:
        raise PhotoError(f"{folder} has no subfolders; expected one for each subject, with two photos of it or more.")
    subjects = [find_photos(place) for place in places]
    for place, photos in zip(places, subjects, strict=True):
        if len(photos) < 2:
            raise PhotoError(
                f"{place} holds one photo; expected two or more of one subject: one is shown, one is drawn."
            )
        bare = [photo.path.name for photo in photos if not photo.caption]
        if bare:
            raise PhotoError(
                f"{place} has no caption beside {', '.join(bare[:3])}; expected {Path(bare[0]).stem}.txt, which says "
                "what the photo shows and leaves out what another photo of the subject tells."
            )
    return subjects


@torch.no_grad()
def encode_subjects(
    subjects: Sequence[Sequence[Photo]],
    backbone: AbstractBackbone,
    encoder: Callable[[Tensor], Tensor],
    reporter: Reporter,
) -> PairData:
    """Latents of the largest centred squares at the base's resolution, and features of the whole photos.

    Args:
        subjects: from `read_subjects`.
        backbone: encodes latents.
        encoder: pictures `1 3 h w` -> features.
        reporter: hears the progress.
    """
    photos = [photo for own in subjects for photo in own]
    latents, features = [], []
    for index, photo in enumerate(photos):
        square = _square(photo.image, backbone.resolution)
        latents.append(backbone.encode_images(square[None].to(backbone.device, backbone.dtype)).float().cpu())
        features.append(encoder(photo.image[None]).cpu())
        reporter.progress("encode", index + 1, len(photos))
    firsts = torch.tensor([0, *(len(own) for own in subjects)]).cumsum(0).tolist()
    return PairData(
        latents=torch.cat(latents),
        features=torch.cat(features),
        captions=[(photo.caption or "",) for photo in photos],
        groups=[torch.arange(first, first + len(own)) for first, own in zip(firsts[:-1], subjects, strict=True)],
    )


def _square(image: Tensor, side: int) -> Tensor:
    """The largest centred square of `3 h w`, resized to `side`."""
    height, width = image.shape[1:]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    cut = image[None, :, top : top + short, left : left + short]
    return F.interpolate(cut, size=(side, side), mode="bicubic", antialias=True)[0].clamp(-1, 1)
