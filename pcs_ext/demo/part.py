"""A part of the demonstration that may be left out: its folder and the time it took."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pcs_ext.config_io import read_json, write_json
from pcs_ext.image.evaluate.stopwatch import Stopwatch, seconds_in
from pcs_ext.reporter import Reporter

_FACTS, _TIME = "made_from.json", "time.json"


@contextmanager
def part(folder: Path, facts: dict[str, Any], reporter: Reporter) -> Iterator[Reporter]:
    """Work in a part's folder, with a reporter that counts the time. What was made from other facts is taken away.

    Args:
        folder: of the part alone.
        facts: everything that decides what is made, as JSON data.
        reporter: hears events and progress.
    """
    mark = folder / _FACTS
    if not mark.is_file() or read_json(mark) != facts:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(mark, facts)
    watch = Stopwatch(folder / _TIME, reporter)
    yield watch
    watch.save()


def part_seconds(folder: Path) -> float:
    """What the part took in all."""
    return seconds_in(folder / _TIME)
