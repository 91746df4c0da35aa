"""From a name, a JSON file and a few numbers to the settings of an edit."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from pcs_ext.config_io import from_jsonable, read_json
from pcs_ext.errors import UsageError
from pcs_ext.image.edits import EDITS
from pcs_ext.image.learn import preset_of

T = TypeVar("T")


def resolve_edit(
    method: str,
    kind: type[T] | tuple[type[T], ...],
    base: Any,
    config: Path | None = None,
    *,
    steps: int = 0,
    guidance_scale: float = 0.0,
) -> T:
    """The settings of an edit for a base, with what the user said in place of what the method says.

    Args:
        method: a key of `EDITS` whose settings are of `kind`.
        kind: the settings' class, or those of several methods; all have a field `sampling`.
        base: a name or a loaded backbone: which preset fits.
        config: JSON of the method's class instead of its own values.
        steps: 0 keeps the method's.
        guidance_scale: 0 keeps the method's.

    Raises:
        UsageError: unknown method, or a number out of range.
        ConfigError: the JSON does not fit.
    """
    if method not in EDITS or not isinstance(built := EDITS[method].build(preset_of(base)), kind):
        raise UsageError(f"method {method!r} is unknown; expected one of {', '.join(_of_kind(kind))}.")
    settings: Any = built if config is None else from_jsonable(type(built), read_json(config), where=str(config))
    if steps < 0 or guidance_scale < 0:
        raise UsageError(f"--steps and --guidance-scale must be 0 or more, got {steps} and {guidance_scale}.")
    changes = {"num_inference_steps": steps or None, "guidance_scale": guidance_scale or None}
    sampling = dataclasses.replace(settings.sampling, **{key: value for key, value in changes.items() if value})
    return dataclasses.replace(settings, sampling=sampling)


def _of_kind(kind: type | tuple[type, ...]) -> list[str]:
    return [entry.id for entry in EDITS.values() if isinstance(entry.build("sd"), kind)]
