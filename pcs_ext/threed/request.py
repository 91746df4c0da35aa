"""What `3d make` is asked for, read and checked before anything is computed."""

import dataclasses
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
from pcs_ext.threed.multiview import MultiViewAdapter
from pcs_ext.threed.recipes import (
    RECIPES,
    AnyRecipe3d,
    EditRecipe,
    Effort,
    PhotosTo3dRecipe,
    Recipe3d,
    TextTo3dRecipe,
    TextureRecipe,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeOptions(JobOptions):
    """How a learned subject becomes a mesh."""

    method: str = "dreambooth3d"
    """Name in `RECIPES`."""
    effort: Effort = "balanced"
    """Which of its numbers of steps."""
    photos: Sequence[Path] | Path | str = ()
    """What the subject was learned from; DreamBooth3D needs them."""
    multiview: Path | None = None
    """Folder of a multi-view adapter, for recipes with a joint score."""
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
    multiview: Path | None
    """Folder of the multi-view adapter."""
    joint: MultiViewAdapter | None
    """The adapter itself."""
    seed: int
    """Of everything random."""
    previews: int
    """Steps between contact sheets."""

    def identity(self, backbone: AbstractUnetBackbone) -> dict[str, Any]:
        """Everything that decides what comes out, as JSON data: the name a work folder is claimed by."""
        adapter = None if self.multiview is None else file_sha256(self.multiview / "adapter.safetensors")
        return {
            "recipe": to_jsonable(self.recipe),
            "prompt": self.prompt,
            "subject": self.artifact.data.content_hash,
            "base": backbone.fingerprint,
            "precision": str(backbone.dtype),
            "photos": sorted(file_sha256(path) for path in self.photos),
            "multiview": adapter,
            "seed": self.seed,
        }


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
    return Request(
        artifact=artifact,
        recipe=recipe,
        prompt=prompt,
        base=base,
        photos=tuple(photos),
        multiview=options.multiview,
        joint=_checked_adapter(recipe, options.multiview),
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
    if not isinstance(recipe, PhotosTo3dRecipe):
        if photos:
            raise UsageError(f"{recipe.id} takes no photos; leave --photos out, or choose --method dreambooth3d.")
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
    return paths


def _checked_adapter(recipe: AnyRecipe3d, folder: Path | None) -> MultiViewAdapter | None:
    wanted = isinstance(recipe, TextTo3dRecipe) and recipe.joint
    if wanted and folder is None:
        raise UsageError(f"{recipe.id} judges views together; give a multi-view adapter: --multiview FOLDER.")
    if not wanted and folder is not None:
        raise UsageError(f"{recipe.id} takes no multi-view adapter; leave --multiview out.")
    return None if folder is None else MultiViewAdapter.load(folder)
