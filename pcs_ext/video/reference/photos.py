"""Photos that `video make` shows a clip model: what is asked, and what sampling needs for it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import Photo, find_photos
from pcs_ext.image.reference.files import open_adapter
from pcs_ext.image.reference.reference import Reference, check_scale, seen_by
from pcs_ext.image.reference.shown import Shown
from pcs_ext.image.sample import SampleHooks
from pcs_ext.runtime import generator_for
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.clips import clip_digest
from pcs_ext.video.reference.base import AbstractClipReference, ShownWithLatents, spatial_base
from pcs_ext.video.reference.clips import photo_latents, pyramid_size
from pcs_ext.video.reference.directions import AskedDirections, Directions
from pcs_ext.video.reference.files import is_clip_adapter, open_clip_adapter


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoRequest:
    """Which photos a clip model is shown, and by which adapter."""

    photos: tuple[Path, ...] = ()
    """Without any, nothing is shown."""
    adapter: str = ""
    """A folder of `video learn-reference`; or what `image.reference.files.open_adapter` takes, empty: the one that
    ships for toybox."""
    encoder: str = ""
    """Folder or hub id of the image encoder; empty: the adapter's own."""
    scale: float = 1.0
    """Strength: 1 as trained, 0 the plain model."""
    nouns: tuple[str, ...] = ()
    """By which word prompts name what the photos show; see `image.reference.reference.show`."""
    directions: AskedDirections = dataclasses.field(default_factory=AskedDirections)
    """What clips are told besides, where the adapter is one that is told."""

    def check(self) -> None:
        """What can be said before anything is loaded.

        Raises:
            UsageError: settings for photos and no photo, or a strength that is none.
        """
        asked = (self.adapter, self.encoder, self.nouns, self.scale != 1.0)
        names = ("--reference-adapter", "--reference-encoder", "--reference-noun", "--reference-scale")
        without = [name for name, given in zip(names, asked, strict=True) if given]
        if without and not self.photos:
            raise UsageError(f"{' and '.join(without)} belong to a photo; pass one with --reference.")
        check_scale(self.scale)
        self.directions.check(bool(self.photos))

    def show(
        self, backbone: AbstractVideoBackbone, prompts: Sequence[str], frames: int | None = None
    ) -> "ShownPhotos | None":
        """Let the adapter see the photos; None where there are none.

        Args:
            backbone: made of an image model.
            prompts: that they will stand beside, words of learned subjects filled in.
            frames: of the clips; None: as many as the backbone makes.

        Raises:
            UsageError, PhotoError, ModelError, ArtifactError: as `image --reference` does.
        """
        if not self.photos:
            return None
        photos = find_photos(self.photos)
        reference, home = self._seen(backbone, photos, frames or backbone.frames)
        reference.check(prompts)
        facts = {
            "photos": [photo.digest[:16] for photo in photos],
            **self._adapter_facts(),
            "reference_encoder": reference.opened.encoder.id,
            "reference_scale": self.scale,
            "reference_nouns": list(reference.nouns),
            **self._told(),
        }
        over_maps = isinstance(reference, ClipReference) and reference.reads_maps
        return ShownPhotos(hooks=reference.hooks(home), facts=facts, in_pictures=not over_maps)

    def _adapter_facts(self) -> dict[str, Any]:
        """A folder or file by its name, without where it lies, which is nobody's business, and a digest of its weights,
        which may be trained anew under that name; others by their hub name alone."""
        place = Path(self.adapter).expanduser()
        local = bool(self.adapter) and place.exists()
        return {
            "reference_adapter": place.resolve().name if local else self.adapter,
            "reference_adapter_digest": clip_digest(place)[:16] if local else None,
        }

    def _told(self) -> dict[str, Any]:
        """What a clip's record says of its directions: what was asked."""
        told = dataclasses.asdict(self.directions)
        if self.directions.structure is not None:
            told["structure"] = clip_digest(self.directions.structure)[:16]
        return {name: value for name, value in told.items() if value not in ("", None)}

    def _seen(
        self, backbone: AbstractVideoBackbone, photos: Sequence[Photo], frames: int
    ) -> tuple[Reference, AbstractBackbone]:
        """The photos as the adapter sees them, and the model that it is inserted into."""
        if is_clip_adapter(self.adapter):
            opened = open_clip_adapter(backbone, self.adapter, encoder=self.encoder)
            seen = seen_by(opened, photos, scale=self.scale, nouns=self.nouns)
            return ClipReference(
                opened=opened, sight=seen.sight, nouns=seen.nouns, scale=seen.scale, photo=photos[0],
                asked=self.directions, frames=frames,
            ), backbone  # fmt: skip
        self.directions.fitting(moves=False, structure=None)
        spatial = spatial_base(backbone)
        opened = open_adapter(spatial, self.adapter, encoder=self.encoder)
        if opened.adapter.refines or opened.adapter.mixes:
            raise UsageError(
                f"{self.adapter} {opened.adapter.in_steps}; that is done where pictures are drawn, and not in clips. "
                "Take an adapter of another system."
            )
        return seen_by(opened, photos, scale=self.scale, nouns=self.nouns), spatial


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownPhotos:
    """Photos as an adapter sees them, for any number of clips."""

    hooks: SampleHooks
    """How prompts are encoded beside them, and what is in the model meanwhile."""
    facts: dict[str, Any]
    """What a clip's record says of them."""
    in_pictures: bool = True
    """Whether they can be shown to a single picture, too: not where there has to be a map for every frame."""

    def beside(self, hooks: SampleHooks) -> SampleHooks:
        """Other hooks with the photos in them: every frame of a clip is conditioned by them alike."""
        return dataclasses.replace(hooks, encode=self.hooks.encode, attention=self.hooks.attention)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipReference(Reference):
    """Pictures as an adapter for clip models sees them."""

    photo: Photo
    """The first of them, for adapters that read it as the model would draw it."""
    asked: AskedDirections = dataclasses.field(default_factory=AskedDirections)
    """What clips are told besides."""
    frames: int = 1
    """Of the clips."""
    _maps: dict[tuple[int, int], Tensor] = dataclasses.field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        tracking = self._adapter.tracking
        self.asked.fitting(tracking.motion, tracking.structure, steadies=self._adapter.steadies)

    @property
    def reads_maps(self) -> bool:
        """Whether frames are drawn over maps of their own."""
        return self._adapter.tracking.structure is not None

    @property
    def _adapter(self) -> AbstractClipReference:
        assert isinstance(self.opened.adapter, AbstractClipReference), "it is one for clips"
        return self.opened.adapter

    def beside(self, backbone: AbstractBackbone, shown: Shown, size: tuple[int, int]) -> Shown:
        """See `Reference.beside`. The photo's noise is always the same: a clip depends on its own seed alone."""
        rows = len(shown.sight.features)
        assert isinstance(backbone, AbstractVideoBackbone), "clips are made by one"
        model, shares = backbone, self._adapter.pyramid
        with torch.no_grad():
            latents = photo_latents(self.photo, size, model)
            levels = [photo_latents(self.photo, pyramid_size(size, share, model), model) for share in shares]
        noise = torch.randn(latents.shape, generator=generator_for("photo in a clip"))
        return ShownWithLatents(
            sight=shown.sight,
            nouns=shown.nouns,
            seen=shown.seen,
            latents=_repeated(latents[:, None], rows),
            noise=_repeated(noise.to(latents), rows),
            pyramid=tuple(_repeated(level[:, None], rows) for level in levels),
            directions=self._directions(backbone, size, rows),
        )

    def _directions(self, backbone: AbstractBackbone, size: tuple[int, int], rows: int) -> Directions:
        structure, asked = self._adapter.tracking.structure, self.asked
        if structure is not None and size not in self._maps:
            self._maps[size] = asked.read_maps(structure, size, self.frames).to(backbone.device)
        maps = None if structure is None else self._maps[size]
        intensity = None if asked.intensity is None else torch.full((rows,), asked.intensity, device=backbone.device)
        return Directions(
            intensity=intensity,
            actions=(asked.action,) * rows if asked.action else None,
            maps=None if maps is None else _repeated(maps, rows),
            coarseness=torch.full((rows,), asked.coarseness or 0, device=backbone.device),
            temporal_guidance=asked.temporal_guidance,
        )


def _repeated(one: Tensor, rows: int) -> Tensor:
    return one.expand(rows, *one.shape[1:])
