"""What `3d texture` is asked for, read and checked before anything is computed."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from pcs_ext.config_io import file_sha256, to_jsonable
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.learn import preset_of
from pcs_ext.image.subject import Artifact
from pcs_ext.threed.geometry_control import ControlKind, check_control, control_identity
from pcs_ext.threed.named_recipe import EffortOptions, named_recipe
from pcs_ext.threed.placed_mesh import Placed, place_mesh
from pcs_ext.threed.recipes import TextureRecipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextureOptions(EffortOptions):
    """How a mesh gets a subject's look."""

    prompt: str = "a photo of {subject}"
    """With `{subject}`; view words are appended."""
    controlnet: Path | None = None
    """Folder of a diffusers ControlNet for the base; None leaves the geometry to the picture."""
    control: ControlKind = "normal"
    """What the ControlNet reads."""
    layout: Literal["auto", "grid", "xatlas"] = "auto"
    """Of the texture; see `TextureConfig`."""
    texture_size: int | None = None
    """Texels per side; None: enough for the mesh."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_control(self.control, self.controlnet, unless="normal")


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
        return {
            "recipe": to_jsonable(self.recipe),
            "mesh": self.mesh_hash,
            "prompt": self.options.prompt,
            "subject": self.artifact.data.content_hash,
            "base": backbone.fingerprint,
            "precision": str(backbone.dtype),
            "control": control_identity(self.options.controlnet, self.options.control),
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
        recipe=named_recipe(TextureRecipe, "texturedreamer", preset_of(base), options),
        placed=placed,
        mesh_hash=file_sha256(mesh),
        base=base,
        options=options,
    )
