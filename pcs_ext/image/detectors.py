"""Detectors that people bring along: functions of their own, named `MODULE:FUNCTION`. None ships."""

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from pcs_ext.errors import UsageError

Detector = Callable[[Tensor], Any]
"""A photo, uint8 `3 h w`, upright, sRGB -> what it finds there."""


def own_detector(name: str, *, finds: str, gives: str, or_else: str = "") -> Detector:
    """The function behind a name.

    Args:
        name: `MODULE:FUNCTION`.
        finds: what the detector looks for, in a word, for messages.
        gives: what it must give.
        or_else: names that may be passed instead, for messages: "cascade, or ".

    Raises:
        UsageError: there is no such function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function) if module and function else None
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"the {finds} detector {name!r} cannot be loaded: {error}. A module in this folder is found with "
            "PYTHONPATH=. in front of the command."
        ) from None
    if not callable(found):
        raise UsageError(
            f"the {finds} detector {name!r} is unknown; expected {or_else}MODULE:FUNCTION of your own, which takes a "
            f"photo (uint8, 3 h w) and gives {gives}."
        )
    return found
