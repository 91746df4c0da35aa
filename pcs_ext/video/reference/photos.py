"""Photos that `video make` shows a clip model: what is asked, and what sampling needs for it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from pcs_ext.config_io import file_sha256
from pcs_ext.errors import UsageError
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.nouns import check_named
from pcs_ext.image.reference.reference import show
from pcs_ext.image.sample import SampleHooks
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.reference.base import spatial_base

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif", ".jfif")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoRequest:
    """Which photos a clip model is shown, and by which adapter."""

    photos: tuple[Path, ...] = ()
    """Without any, nothing is shown."""
    adapter: str = ""
    """See `image.reference.files.open_adapter`; empty: the one that ships for toybox."""
    encoder: str = ""
    """Likewise."""
    scale: float = 1.0
    """Strength: 1 as trained, 0 the plain model."""
    nouns: tuple[str, ...] = ()
    """By which word prompts name what the photos show; see `image.reference.reference.show`."""

    def check(self) -> None:
        """What can be said before anything is loaded.

        Raises:
            UsageError: settings for photos, and no photo.
        """
        asked = (self.adapter, self.encoder, self.nouns, self.scale != 1.0)
        names = ("--reference-adapter", "--reference-encoder", "--reference-noun", "--reference-scale")
        without = [name for name, given in zip(names, asked, strict=True) if given]
        if without and not self.photos:
            raise UsageError(f"{' and '.join(without)} belong to a photo; pass one with --reference.")

    def show(self, backbone: AbstractVideoBackbone, prompts: Sequence[str]) -> "ShownPhotos | None":
        """Let the adapter see the photos; None where there are none.

        Args:
            backbone: made of an image model.
            prompts: that they will stand beside, words of learned subjects filled in.

        Raises:
            UsageError, PhotoError, ModelError, ArtifactError: as `image --reference` does.
        """
        if not self.photos:
            return None
        spatial = spatial_base(backbone)
        reference = show(
            spatial,
            find_photos(self.photos),
            adapter=self.adapter,
            encoder=self.encoder,
            scale=self.scale,
            nouns=self.nouns,
        )
        check_named(list(prompts), list(dict.fromkeys(reference.nouns)))
        facts = {
            "photos": [file_sha256(photo)[:16] for photo in self.photos],
            "reference_adapter": self.adapter,
            "reference_encoder": reference.opened.encoder.id,
            "reference_scale": self.scale,
            "reference_nouns": list(reference.nouns),
        }
        return ShownPhotos(hooks=reference.hooks(spatial), facts=facts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownPhotos:
    """Photos as an adapter sees them, for any number of clips."""

    hooks: SampleHooks
    """How prompts are encoded beside them, and what is in the model meanwhile."""
    facts: dict[str, Any]
    """What a clip's record says of them."""

    def beside(self, hooks: SampleHooks) -> SampleHooks:
        """Other hooks with the photos in them: every frame of a clip is conditioned by them alike."""
        return dataclasses.replace(hooks, encode=self.hooks.encode, attention=self.hooks.attention)


def is_still(path: Path) -> bool:
    """Whether a file is one picture, and no video, animation or folder."""
    if path.suffix.lower() not in _PICTURES or path.is_dir():
        return False
    try:
        with Image.open(path) as picture:
            return not getattr(picture, "is_animated", False)
    except (OSError, UnidentifiedImageError):
        return True  # who reads it says what is wrong with it
