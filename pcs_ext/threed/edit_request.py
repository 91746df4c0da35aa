"""What `3d edit` is asked for, read and checked before anything is computed."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from pcs_ext.config_io import to_jsonable
from pcs_ext.errors import UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.learn import preset_of
from pcs_ext.image.subject import Artifact
from pcs_ext.threed.box import Box
from pcs_ext.threed.named_recipe import EffortOptions, named_recipe
from pcs_ext.threed.recipes import EditRecipe
from pcs_ext.threed.scene import Scene, read_scene


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditOptions(EffortOptions):
    """How a scene is edited."""

    box: Box
    """Where anything may change, world units."""
    mode: Literal["add", "replace"] = "add"
    """Beside what is in the box, or instead of it."""
    scene_prompt: str = ""
    """What the scene shows; empty: what it was made with."""
    content_prompt: str = "a photo of {subject}"
    """What the content alone is to show."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditRequest:
    """A job whose inputs were found and fit each other."""

    artifact: Artifact
    """The subject that comes into the box."""
    recipe: EditRecipe
    """How."""
    scene: Scene
    """What is edited."""
    prompt: str
    """Of the edited scene, with `{subject}`."""
    base: str
    """Name of the base to load."""
    options: EditOptions
    """The rest."""

    @property
    def scene_prompt(self) -> str:
        """What the scene shows."""
        return self.options.scene_prompt or self.scene.made.prompt

    def identity(self, backbone: AbstractUnetBackbone) -> dict[str, Any]:
        """Everything that decides what comes out, as JSON data: the name a work folder is claimed by."""
        return {
            "recipe": to_jsonable(self.recipe),
            "scene": self.scene.digest,
            "box": to_jsonable(self.options.box),
            "mode": self.options.mode,
            "prompts": [self.scene_prompt, self.prompt, self.options.content_prompt],
            "subject": self.artifact.data.content_hash,
            "base": backbone.fingerprint,
            "precision": str(backbone.dtype),
            "seed": self.options.seed,
        }


def read_edit_request(scene: Path, subject: Path, prompt: str, options: EditOptions) -> EditRequest:
    """Load the subject, find the scene, choose the recipe.

    Raises:
        UsageError, ConfigError, InputError, ArtifactError: with what to do.
    """
    found = read_scene(scene)
    bounds, box = found.settings.bounds, options.box
    low, high = ([middle + sign * bounds.half for middle in bounds.center] for sign in (-1, 1))
    if any(a < least or b > most for a, b, least, most in zip(box.low, box.high, low, high, strict=True)):
        raise UsageError(f"the box {box.low} to {box.high} leaves the scene's cube, {tuple(low)} to {tuple(high)}.")
    artifact = Artifact.load(subject)
    for text in (prompt, options.content_prompt):
        artifact.concept.prompt(text)
    base = options.base or artifact.data.base_name
    return EditRequest(
        artifact=artifact,
        recipe=named_recipe(EditRecipe, "tip-editor", preset_of(base), options, least=2),
        scene=found,
        prompt=prompt,
        base=base,
        options=options,
    )
