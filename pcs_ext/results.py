"""Result files: what was measured, by which command, at which commit, on which machine. `pcs-ext systems` reads them.

`results/NAME.json` is `{command, commit, machine, toybox, seeds, rows}`; every claim of the suite is a row of one.
`results/former/NAME.json` says of a toybox that no longer ships what `results/NAME.json` does not say of this one.
"""

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcs_ext.config_io import read_json
from pcs_ext.errors import ConfigError

FOLDER = Path(__file__).parent.parent / "results"
"""Of the committed files; absent where the package is installed without its repository."""
_HEAD = {"command": str, "commit": str, "machine": str, "toybox": str, "seeds": list, "rows": list}
_DENOISER = Path(__file__).parent / "toybox" / "weights" / "base" / "unet" / "diffusion_pytorch_model.safetensors"
_ROW = {"metric", "higher_is_better", "value", "spread", "n", "baseline", "baseline_value", "seconds"}


def as_result(rows: Sequence[Mapping[str, Any]], *, command: str, seeds: Sequence[int], **facts: Any) -> dict[str, Any]:
    """The contents of a result file, with the commit, the machine and the toybox it was measured on.

    Args:
        rows: one per system and metric; `system` is an id in `systems.json` where it is one of the survey.
        command: what measures it again.
        seeds: of everything random.
        facts: what else there is to know, such as the subjects.
    """
    head = {"command": command, "commit": commit(), "machine": machine(), "toybox": toybox(), "seeds": list(seeds)}
    result = {**head, **facts, "rows": [dict(row) for row in rows]}
    check_results(result, command)
    return result


def read_results(path: Path) -> dict[str, Any]:
    """Contents of a result file.

    Raises:
        ConfigError: not JSON, or without what every result must tell.
    """
    result = read_json(path)
    check_results(result, str(path))
    return result


def check_results(result: Any, where: str) -> None:
    """See that a result tells how it was made and what it says.

    Raises:
        ConfigError: names what is missing.
    """
    if not isinstance(result, Mapping):
        raise ConfigError(f"{where}: expected an object, got {type(result).__name__}.")
    wrong = [key for key, kind in _HEAD.items() if not isinstance(result.get(key), kind) or not result[key]]
    if wrong:
        raise ConfigError(f"{where} lacks {', '.join(wrong)}; write it with `make truth`.")
    for index, row in enumerate(result["rows"]):
        if lacking := _ROW - row.keys():
            raise ConfigError(f"{where}: row {index} lacks {', '.join(sorted(lacking))}; write it with `make truth`.")


def is_former(result: Mapping[str, Any]) -> bool:
    """Whether a result is of a toybox that no longer ships: what it says holds for that one."""
    return result["toybox"] != toybox()


@functools.cache
def toybox() -> str:
    """Which embedded base ships: eight hex digits of its denoiser's file."""
    with _DENOISER.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def machine() -> str:
    """Processor architecture and cores: "x86_64, 2 cores"."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    """The checkout's commit, with `+` where files differ from it."""
    folder = Path(__file__).parent
    try:
        head = _git("rev-parse", "--short", "HEAD", folder=folder)
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", folder=folder)
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"
    return head + ("+" if changed else "")


def _git(*arguments: str, folder: Path) -> str:
    found = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return found.stdout.strip()
