"""What `3d texture` is asked for, read and checked before anything is computed."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from pcs_ext.config_io import file_sha256, from_jsonable, read_json, to_jsonable
from pcs_ext.errors import UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.learn import preset_of
from pcs_ext.image.subject import Artifact
from pcs_ext.threed.geometry_control import ControlKind
from pcs_ext.threed.job_options import JobOptions
from pcs_ext.threed.placed_mesh import Placed, place_mesh
from pcs_ext.threed.recipes import RECIPES, Effort, TextureRecipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextureOptions(JobOptions):
    """How a mesh gets a subject's look."""

    prompt: str = "a photo of {subject}"
    """With `{subject}`; view words are appended."""
    effort: Effort = "balanced"
    """Which of the recipe's numbers of steps."""
    controlnet: Path | None = None
    """Folder of a diffusers ControlNet for the base; None leaves the geometry to the picture."""
    control: ControlKind = "normal"
    """What the ControlNet reads."""
    layout: Literal["grid", "xatlas"] = "grid"
    """Of the texture."""
    texture_size: int | None = None
    """Texels per side; None: enough for the mesh."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextureRequest:
    """A job whose inputs were found and fit each other."""

    artifact: Artifact
    """The learned subject."""
    recipe: TextureRecipe
    """How."""
    placed: Placed
    """The mesh."""
    mesh_hash: str
    """sha256 of its file."""
    base: str
    """Name of the base to load."""
    options: TextureOptions
    """The rest."""

    def identity(self, backbone: AbstractUnetBackbone) -> dict[str, Any]:
        """Everything that decides what comes out, as JSON data: the name a work folder is claimed by."""
        folder, control = self.options.controlnet, None
        if folder is not None:
            control = [self.options.control, *(file_sha256(path) for path in sorted(folder.glob("*.safetensors")))]
        return {
            "recipe": to_jsonable(self.recipe),
            "mesh": self.mesh_hash,
            "prompt": self.options.prompt,
            "subject": self.artifact.data.content_hash,
            "base": backbone.fingerprint,
            "precision": str(backbone.dtype),
            "control": control,
            "seed": self.options.seed,
        }


def read_texture_request(mesh: Path, subject: Path, options: TextureOptions) -> TextureRequest:
    """Load the subject and the mesh, choose the recipe.

    Raises:
        UsageError, ConfigError, InputError, ArtifactError: with what to do.
    """
    artifact, placed = Artifact.load(subject), place_mesh(mesh)
    artifact.concept.prompt(options.prompt)
    base = options.base or artifact.data.base_name
    return TextureRequest(
        artifact=artifact,
        recipe=texture_recipe(preset_of(base), options),
        placed=placed,
        mesh_hash=file_sha256(mesh),
        base=base,
        options=options,
    )


def texture_recipe(preset: Any, options: TextureOptions) -> TextureRecipe:
    """The recipe that the options name.

    Raises:
        ConfigError: the JSON does not fit.
        UsageError: too few steps.
    """
    if options.config is not None:
        recipe = from_jsonable(TextureRecipe, read_json(options.config), where=str(options.config))
    else:
        recipe = RECIPES["texturedreamer"].build(preset, options.effort)
    assert isinstance(recipe, TextureRecipe)
    if options.steps is not None and options.steps < 1:
        raise UsageError(f"--steps must be at least 1, got {options.steps}.")
    return recipe if options.steps is None else recipe.with_steps(options.steps)
