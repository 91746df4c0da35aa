"""What `3d make` is asked for, read and checked before anything is computed."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pcs_ext.config_io import file_sha256, from_jsonable, read_json, to_jsonable
from pcs_ext.errors import ArtifactError, InputError, UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.learn import preset_of
from pcs_ext.image.subject import Artifact
from pcs_ext.threed.export import Colors
from pcs_ext.threed.job_options import JobOptions
from pcs_ext.threed.known_view import KnownPhoto, read_known_photo
from pcs_ext.threed.multiview import MultiViewAdapter, find_adapter
from pcs_ext.threed.recipes import (
    RECIPES,
    AnimateRecipe,
    AnyRecipe3d,
    AvatarTo3dRecipe,
    EditRecipe,
    Effort,
    GeneratorRecipe,
    PhotosTo3dRecipe,
    PhotoTo3dRecipe,
    PosedRecipe,
    Recipe3d,
    SeenTo3dRecipe,
    TextTo3dRecipe,
    TextureRecipe,
)
from pcs_ext.threed.view_model import ViewModel
from pcs_ext.threed.warp import read_nearness


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeOptions(JobOptions):
    """How a learned subject becomes a mesh."""

    method: str = "dreambooth3d"
    """Name in `RECIPES`."""
    effort: Effort = "balanced"
    """Which of its numbers of steps."""
    photos: Sequence[Path] | Path | str = ()
    """What the subject was learned from; DreamBooth3D and Consist3D need them, MVDream learns it anew from them.
    Animate124's one photo need not be among them."""
    depth: Path | None = None
    """A depth picture of the one photo of Consist3D or Animate124, brighter is nearer; None: Consist3D inflates the
    mask's outline, Animate124 does without."""
    head: Path | None = None
    """Folder of the subject's head as a subject of its own; AvatarBooth needs it."""
    multiview: Path | None = None
    """Folder of a multi-view adapter, for recipes with a joint score; None: the one that ships with the base."""
    view_model: str = ""
    """Folder or hub id of a view model (Zero123), for recipes that know one photo; empty: words say what other sides
    look like."""
    colors: Colors | Literal["auto"] = "auto"
    """At the vertices or in a texture; auto: a texture where the format holds one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A job whose inputs were found and fit each other."""

    artifact: Artifact
    """The learned subject."""
    recipe: AnyRecipe3d
    """Which stages."""
    prompt: str
    """With `{subject}`."""
    base: str
    """Name of the base to load."""
    photos: tuple[Path, ...]
    """Of the subject; empty where the recipe needs none."""
    depth: Path | None
    """Depth picture of the photo, for recipes that turn it."""
    head: Artifact | None
    """The head as a subject of its own, for avatars."""
    multiview: Path | None
    """Folder of the multi-view adapter."""
    joint: MultiViewAdapter | None
    """The adapter itself."""
    view_model: str
    """Folder or hub id of the view model; empty: none."""
    photo: KnownPhoto | None
    """What the known camera sees, for recipes that have one."""
    seed: int
    """Of everything random."""
    previews: int
    """Steps between contact sheets."""

    def identity(self, backbone: AbstractUnetBackbone, view_model: ViewModel | None = None) -> dict[str, Any]:
        """Everything that decides what comes out, as JSON data: the name a work folder is claimed by."""
        adapter = None if self.multiview is None else file_sha256(self.multiview / "adapter.safetensors")
        shape, company = self._shape_files(), self._company()
        return {
            "recipe": to_jsonable(self.recipe),
            "prompt": self.prompt,
            "subject": self.artifact.data.content_hash,
            "base": backbone.fingerprint,
            "precision": str(backbone.dtype),
            "photos": sorted(file_sha256(path) for path in self.photos),
            "multiview": adapter,
            "seed": self.seed,
            **({"shape": shape} if shape else {}),
            **({"masks and captions": company} if company else {}),
            **({"head": self.head.data.content_hash} if self.head is not None else {}),
            **({"view_model": view_model.fingerprint} if view_model is not None else {}),
        }

    def _shape_files(self) -> list[str]:
        """Hashes of what tells the shape of a photo that is turned."""
        if not isinstance(self.recipe, (PhotoTo3dRecipe, SeenTo3dRecipe)):
            return []
        mask = find_photos(self.photos)[0].mask
        pixels = [] if mask is None else [hashlib.sha256(mask.numpy().tobytes()).hexdigest()]
        return pixels + ([] if self.depth is None else [file_sha256(self.depth)])

    def _company(self) -> list[str]:
        """Hashes of photos that a subject is learned from again, with what lies beside them, if anything does."""
        if not isinstance(self.recipe, (PhotosTo3dRecipe, TextTo3dRecipe)) or not self.photos:
            return []
        found = find_photos(self.photos)
        return sorted(photo.digest for photo in found if photo.mask is not None or photo.caption is not None)


def read_request(subject: Path, prompt: str, options: MakeOptions) -> Request:
    """Load the subject, choose the recipe, find what it needs.

    Raises:
        UsageError, ConfigError, InputError, ArtifactError, ModelError: with what to do.
    """
    artifact = Artifact.load(subject)
    artifact.concept.prompt(prompt)
    base = options.base or artifact.data.base_name
    recipe = resolve_recipe_3d(
        options.method, preset_of(base), options.effort, steps=options.steps, config=options.config
    )
    photos = _checked_photos(recipe, artifact, options.photos)
    multiview = _found_adapter(recipe, base, options.multiview)
    return Request(
        artifact=artifact,
        recipe=recipe,
        prompt=prompt,
        base=base,
        photos=tuple(photos),
        depth=_checked_depth(recipe, photos, options.depth),
        head=_checked_head(recipe, artifact, options.head),
        multiview=multiview,
        joint=None if multiview is None else MultiViewAdapter.load(multiview),
        view_model=_checked_view_model(recipe, options.view_model),
        photo=read_known_photo(photos[0], options.depth) if isinstance(recipe, SeenTo3dRecipe) else None,
        seed=options.seed,
        previews=options.previews,
    )


def resolve_recipe_3d(
    method: str, preset: Any, effort: Effort, *, steps: int | None = None, config: Path | None = None
) -> AnyRecipe3d:
    """The recipe behind a name or a JSON file, with another number of steps.

    Raises:
        UsageError: an unknown method.
        ConfigError: the JSON does not fit, or the recipe contradicts itself.
    """
    if config is not None:
        recipe = from_jsonable(Recipe3d, read_json(config), where=str(config))
    elif method in RECIPES:
        recipe = RECIPES[method].build(preset, effort)
        if isinstance(recipe, TextureRecipe):
            raise UsageError(f"{method} paints a mesh that is there: pcs-ext 3d texture MESH SUBJECT -o OUT.glb.")
        if isinstance(recipe, AnimateRecipe):
            raise UsageError(
                f"{method} moves a scene that is there: pcs-ext 3d animate SCENE.work SUBJECT PROMPT -o OUT.mp4."
            )
        if isinstance(recipe, PosedRecipe):
            raise UsageError(f"{method} poses a figure: pcs-ext 3d avatar SUBJECT PROMPT --poses POSES -o OUT.glb.")
        if isinstance(recipe, GeneratorRecipe):
            raise UsageError(f"{method} trains a generator: pcs-ext 3d learn-generator SUBJECT PROMPT -o FOLDER.")
        if isinstance(recipe, EditRecipe):
            raise UsageError(
                f"{method} edits a scene that is there: pcs-ext 3d edit SCENE.work SUBJECT PROMPT --box ..."
            )
    else:
        raise UsageError(f"3D method {method!r} is unknown; expected one of {', '.join(RECIPES)}.")
    if steps is not None:
        if steps < 2:
            raise UsageError(f"--steps must be at least 2, got {steps}.")
        recipe = recipe.with_steps(steps)
    recipe.validate()
    return recipe


def _checked_photos(recipe: AnyRecipe3d, artifact: Artifact, photos: Sequence[Path] | Path | str) -> list[Path]:
    """The photos' paths, if the recipe needs them; they must be those that the subject was learned from."""
    if isinstance(recipe, SeenTo3dRecipe):
        return _one_photo(recipe, photos)
    needed = isinstance(recipe, (PhotosTo3dRecipe, PhotoTo3dRecipe))
    if not needed and not (isinstance(recipe, TextTo3dRecipe) and recipe.relearn is not None):
        if photos:
            raise UsageError(f"{recipe.id} takes no photos; leave --photos out, or choose --method dreambooth3d.")
        return []
    if not photos and not needed:
        return []
    if not photos:
        raise UsageError(
            f"{recipe.id} learns from the photos again; give those the subject was learned from: --photos FOLDER."
        )
    if artifact.data.training.get("after"):
        raise ArtifactError(
            f"{recipe.id} needs a subject learned on its own; this one was learned after others. Learn it anew."
        )
    paths = [photo.path for photo in find_photos(photos)]
    known = set(artifact.data.training["photos"].values())
    if {file_sha256(path) for path in paths} != known:
        raise InputError(
            f"expected the {len(known)} photos the subject was learned from "
            f"({', '.join(artifact.data.training['photos'])}), got {len(paths)}, not the same. Give those, unchanged."
        )
    if isinstance(recipe, PhotoTo3dRecipe) and len(paths) != 1:
        raise InputError(
            f"{recipe.id} starts from one photo, got {len(paths)}. Learn the subject from one (by "
            "textual-inversion, as the paper), or choose --method dreambooth3d."
        )
    return paths


def _one_photo(recipe: SeenTo3dRecipe, photos: Sequence[Path] | Path | str) -> list[Path]:
    """The path of the photo that is known; the subject may have been learned from others."""
    paths = [photo.path for photo in find_photos(photos)] if photos else []
    if len(paths) != 1:
        raise UsageError(
            f"{recipe.id} starts from one photo, cut out, got {len(paths)}. Give it: --photos PHOTO.png (transparent "
            "around the thing, or with PHOTO_mask.png beside it)."
        )
    return paths


def _checked_view_model(recipe: AnyRecipe3d, view_model: str) -> str:
    if view_model and not isinstance(recipe, SeenTo3dRecipe):
        raise UsageError(f"{recipe.id} takes no view model; leave --view-model out, or choose animate124-still.")
    return view_model


def _checked_depth(recipe: AnyRecipe3d, photos: Sequence[Path], depth: Path | None) -> Path | None:
    """The depth picture, if the recipe takes one; without it the photo must have a mask."""
    if isinstance(recipe, SeenTo3dRecipe):
        return depth
    if not isinstance(recipe, PhotoTo3dRecipe):
        if depth is not None:
            raise UsageError(f"{recipe.id} takes no depth picture; leave --depth out, or choose --method consist3d.")
        return None
    if depth is not None:
        read_nearness(depth, (8, 8))
    elif find_photos(photos)[0].mask is None:
        raise InputError(
            f"{photos[0]} is to be turned, which needs its shape: put {photos[0].stem}_mask.png beside it (white where "
            "the subject is), or give a depth picture, brighter where it is nearer: --depth FILE."
        )
    return depth


def _checked_head(recipe: AnyRecipe3d, body: Artifact, head: Path | None) -> Artifact | None:
    if not isinstance(recipe, AvatarTo3dRecipe):
        if head is not None:
            raise UsageError(f"{recipe.id} takes no head; leave --head out, or choose --method avatarbooth.")
        return None
    if head is None:
        raise UsageError(f"{recipe.id} needs the head as a subject of its own, learned from its photos: --head FOLDER.")
    found = Artifact.load(head)
    found.concept.prompt(recipe.head_prompt)
    if found.data.base_fingerprint != body.data.base_fingerprint:
        raise ArtifactError(
            f"body and head must be learned on one base, got {body.data.base_name} and {found.data.base_name}. Learn "
            "one of them again."
        )
    return found


def _found_adapter(recipe: AnyRecipe3d, base: str, folder: Path | None) -> Path | None:
    """The multi-view adapter's folder, if the recipe judges views together: the one named, or the base's own."""
    if isinstance(recipe, TextTo3dRecipe) and recipe.joint:
        return find_adapter(base, folder)
    if folder is not None:
        raise UsageError(f"{recipe.id} takes no multi-view adapter; leave --multiview out.")
    return None
