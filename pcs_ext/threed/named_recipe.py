"""The recipe that a job's options name, where it starts from something that is there: a mesh or a scene."""

import dataclasses
from typing import Any, TypeVar

from pcs_ext.config_io import from_jsonable, read_json
from pcs_ext.errors import UsageError
from pcs_ext.threed.job_options import JobOptions
from pcs_ext.threed.recipes import (
    RECIPES,
    AnimateRecipe,
    EditRecipe,
    Effort,
    GeneratorRecipe,
    PosedRecipe,
    TextureRecipe,
)

RecipeT = TypeVar("RecipeT", TextureRecipe, EditRecipe, AnimateRecipe, PosedRecipe, GeneratorRecipe)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EffortOptions(JobOptions):
    """Options of jobs whose recipes have presets."""

    effort: Effort = "balanced"
    """Which preset."""


def named_recipe(kind: type[RecipeT], method: str, preset: Any, options: EffortOptions, *, least: int = 1) -> RecipeT:
    """The options' JSON, or the method's preset; shortened or lengthened to the options' steps.

    Args:
        kind: of recipe.
        method: name in `RECIPES`.
        preset: of the base.
        options: of the job.
        least: steps that it takes at least.

    Raises:
        ConfigError: the JSON does not fit.
        UsageError: a method of another kind, or too few steps.
    """
    recipe = _of_file(kind, options) if options.config is not None else _preset(kind, method, preset, options)
    if options.steps is not None and options.steps < least:
        raise UsageError(f"--steps must be at least {least}, got {options.steps}.")
    return recipe if options.steps is None else recipe.with_steps(options.steps)


def _of_file(kind: type[RecipeT], options: EffortOptions) -> RecipeT:
    assert options.config is not None
    return from_jsonable(kind, read_json(options.config), where=str(options.config))


def _preset(kind: type[RecipeT], method: str, preset: Any, options: EffortOptions) -> RecipeT:
    recipes = {id: entry.build(preset, options.effort) for id, entry in RECIPES.items()}
    fitting = {id: recipe for id, recipe in recipes.items() if isinstance(recipe, kind)}
    if method not in fitting:
        raise UsageError(f"this job's method is {' or '.join(fitting)}, got {method!r}.")
    return fitting[method]
