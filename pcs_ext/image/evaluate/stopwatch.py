"""How long a part of the job took in all, over every attempt that was interrupted."""

import time
from pathlib import Path
from typing import Any

from pcs_ext.config_io import read_json, write_json
from pcs_ext.reporter import Reporter

_EVERY = 2.0


class Stopwatch:
    """Counts wall time into a file while events pass through to another reporter.

    Args:
        path: JSON file with `seconds`; what it holds already is counted on.
        reporter: hears every event.
    """

    def __init__(self, path: Path, reporter: Reporter) -> None:
        self.path, self.reporter = path, reporter
        self.before = seconds_in(path)
        self.started = time.monotonic()
        self._saved = self.started

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        """Pass the event on."""
        self.reporter.event(name, message, **fields)

    def progress(self, task: str, step: int, total: int, **fields: Any) -> None:
        """Pass the step on; now and then note the time, so that a kill loses little of it."""
        self.reporter.progress(task, step, total, **fields)
        if time.monotonic() - self._saved > _EVERY:
            self.save()

    def save(self) -> None:
        """Write the seconds so far."""
        self._saved = time.monotonic()
        write_json(self.path, {"seconds": self.before + self._saved - self.started})


def seconds_in(path: Path) -> float:
    """Seconds that a stopwatch wrote; 0 where none did."""
    return float(read_json(path)["seconds"]) if path.is_file() else 0.0
