"""Which method a call means: a name, a value or a file, with the user's own budget and steps."""

from pathlib import Path

from pcs_ext.config_io import from_jsonable, read_json
from pcs_ext.defense.budget import Norm, to_levels
from pcs_ext.defense.method import Defense
from pcs_ext.defense.recipes import RECIPES
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.recipes import Preset


def resolve_method(
    recipe: str | Defense,
    preset: Preset,
    *,
    levels: float = 0,
    steps: int = 0,
    norm: Norm | None = None,
    config: Path | None = None,
) -> Defense:
    """The method behind a name, a value or a JSON file; 0 levels, 0 steps and no norm take the method's own.

    Raises:
        UsageError: unknown name, or levels or steps below 0.
        ConfigError: the JSON does not fit, or the budget is out of range or less than one level.
    """
    if levels < 0 or steps < 0:
        raise UsageError(f"--levels and --steps must be positive, or 0 for the method's own; got {levels} and {steps}.")
    if config is not None:
        method = from_jsonable(Defense, read_json(config), where=str(config))
    elif isinstance(recipe, Defense):
        method = recipe
    elif recipe in RECIPES:
        method = RECIPES[recipe].build(preset)
    else:
        raise UsageError(f"recipe {recipe!r} is unknown; expected one of {', '.join(RECIPES)}.")
    method = method.with_norm(norm) if norm is not None else method
    method = method.with_levels(levels) if levels else method
    if method.budget.norm != "l2" and method.budget.levels < 1:
        raise ConfigError(
            f"a budget of {method.budget.levels:g} levels changes nothing: levels are 8-bit steps, and a file holds "
            f"whole ones. Expected at least 1; a paper's 0.05 on pictures in [-1, 1] is "
            f"{to_levels(0.05, '[-1,1]'):.1f}."
        )
    return method.with_steps(steps) if steps else method
