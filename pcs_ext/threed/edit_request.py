"""What `3d edit` is asked for, read and checked before anything is computed."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from pcs_ext.config_io import from_jsonable, read_json, to_jsonable
from pcs_ext.errors import UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.learn import preset_of
from pcs_ext.image.subject import Artifact
from pcs_ext.threed.box import Box
from pcs_ext.threed.job_options import JobOptions
from pcs_ext.threed.recipes import RECIPES, EditRecipe, Effort
from pcs_ext.threed.scene import Scene, read_scene


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditOptions(JobOptions):
    """How a scene is edited."""

    box: Box
    """Where anything may change, world units."""
    mode: Literal["add", "replace"] = "add"
    """Beside what is in the box, or instead of it."""
    scene_prompt: str = ""
    """What the scene shows; empty: what it was made with."""
    content_prompt: str = "a photo of {subject}"
    """What the content alone is to show."""
    effort: Effort = "balanced"
    """Which of the recipe's numbers of steps."""


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
        recipe=edit_recipe(preset_of(base), options),
        scene=found,
        prompt=prompt,
        base=base,
        options=options,
    )


def edit_recipe(preset: Any, options: EditOptions) -> EditRecipe:
    """The recipe that the options name.

    Raises:
        ConfigError: the JSON does not fit.
        UsageError: too few steps.
    """
    if options.config is not None:
        recipe = from_jsonable(EditRecipe, read_json(options.config), where=str(options.config))
    else:
        recipe = RECIPES["tip-editor"].build(preset, options.effort)
    assert isinstance(recipe, EditRecipe)
    if options.steps is not None and options.steps < 2:
        raise UsageError(f"--steps must be at least 2, got {options.steps}.")
    return recipe if options.steps is None else recipe.with_steps(options.steps)
