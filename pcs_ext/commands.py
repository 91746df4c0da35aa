"""Commands that belong to no plugin: `systems`, `doctor`."""

import dataclasses
import json as json_module
import sys
from typing import Any, Literal


def systems(status: Literal["all", "measured", "runs", "open"] = "all", json: bool = False) -> None:
    """List the survey's 176 systems and what this suite can do with each.

    Args:
        status: only systems of this status (measured: beats its baseline in results/; runs: has a recipe).
        json: print JSON instead of a table.
    """
    from pcs_ext.systems import catalogue

    chosen = [system for system in catalogue() if status in ("all", system.status)]
    if json:
        _print_json([{**_fields(system), "status": system.status} for system in chosen])
        return
    for system in chosen:
        recipes = ", ".join(system.recipes)
        sys.stdout.write(
            f"[{system.reference:3}] {system.name:34.34}  {system.scope:22.22}  {system.status:9} {recipes}\n"
        )
    counts = {key: sum(system.status == key for system in chosen) for key in ("measured", "runs", "open")}
    sys.stdout.write("  ".join(f"{key} {count}" for key, count in counts.items()) + f"  of {len(chosen)}\n")


def doctor(json: bool = False) -> None:
    """Say what this machine has: device, memory, versions, models found, and what is missing.

    Args:
        json: print JSON instead of lines.
    """
    from pcs_ext.doctor import examine

    report = examine()
    if json:
        _print_json(report)
        return
    for section, facts in report.items():
        sys.stdout.write(f"{section}\n")
        for key, value in facts.items():
            sys.stdout.write(f"  {key:22} {value}\n")


def _fields(system: Any) -> dict[str, Any]:
    return dataclasses.asdict(system)


def _print_json(value: object) -> None:
    sys.stdout.write(json_module.dumps(value, indent=2) + "\n")
