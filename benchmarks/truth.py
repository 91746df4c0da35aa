"""`python -m benchmarks.truth [NAME ...]`: measure again what `results/NAME.json` say, or list what that would be.

One command per file, listed by hand below. They take minutes to hours on two cores; each keeps what it has done in the
cache folder, so an interrupted call goes on.
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import tyro
from tyro.conf import Positional

from pcs_ext.errors import ConfigError
from pcs_ext.results import FOLDER, read_results

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "toybox_quality": (
        "pcs_ext.toybox.quality", "--clips", "0", "--sets", "0", "--sheets", "docs/images",
        "--output", "results/toybox_quality.json", "--cards",
    ),
    "toybox_clips": (
        "pcs_ext.toybox.quality", "--scenes", "0", "--sets", "0", "--sheets", "docs/images",
        "--output", "results/toybox_clips.json", "--cards",
    ),
    "toybox_views": (
        "pcs_ext.toybox.quality", "--scenes", "0", "--clips", "0", "--sheets", "docs/images",
        "--output", "results/toybox_views.json", "--cards",
    ),
    "other_programs": ("benchmarks.other_programs",),
    "panorama_systems": ("benchmarks.panorama_systems",),
    "svg_systems": ("benchmarks.svg_systems", "--exemplars", "12", "--seeds", "3"),
    "censor_systems": ("benchmarks.censor_systems",),
    "conditions": ("benchmarks.conditions",),
    "edit_systems": ("benchmarks.edit_systems",),
    "viewpoints": ("benchmarks.viewpoints",),
    "token_classes": ("benchmarks.token_classes",),
    "reference_systems": ("benchmarks.reference_systems",),
    "continual": ("benchmarks.continual",),
    "audit": ("benchmarks.audit",),
    "defense_systems": ("benchmarks.defense_systems",),
    "image_subjects": ("benchmarks.image_subjects",),
    "image_recipes": ("benchmarks.image_recipes",),
    "video_systems": ("benchmarks.video_systems",),
    "threed_systems": ("benchmarks.threed_systems",),
}  # fmt: skip
"""Name of the file -> module and arguments, cheapest first."""


def main(names: Positional[tuple[str, ...]] = (), list: bool = False) -> None:
    """Run the measurements, or list them.

    Args:
        names: which; none: all.
        list: only say what would run, and what the committed files say of themselves.
    """
    unknown = [name for name in names if name not in COMMANDS]
    if unknown:
        sys.stderr.write(f"no such measurement: {', '.join(unknown)}; expected some of {', '.join(COMMANDS)}.\n")
        sys.exit(2)
    for name in names or COMMANDS:
        path = FOLDER / f"{name}.json"
        if list:
            sys.stdout.write(f"{name}: python -m {' '.join(COMMANDS[name])}\n    {_state(path)}\n")
        else:
            _measure(name, path)


def _measure(name: str, path: Path) -> None:
    sys.stdout.write(f"{name}: python -m {' '.join(COMMANDS[name])}\n")
    sys.stdout.flush()
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", *COMMANDS[name]], cwd=FOLDER.parent)
    if done.returncode:
        sys.stderr.write(f"{name} ended with {done.returncode}; the same command goes on.\n")
        sys.exit(done.returncode)
    sys.stdout.write(f"{_state(path)}; {time.monotonic() - start:.0f} s\n")


def _state(path: Path) -> str:
    if not path.is_file():
        return "not measured yet"
    try:
        result = read_results(path)
    except ConfigError as error:
        return str(error)
    return f"{len(result['rows'])} rows over {len(result['seeds'])} seeds at {result['commit']} by {result['command']}"


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.FlagCreatePairsOff,))
