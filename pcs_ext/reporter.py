"""How long work speaks: one progress line for people, one JSON line per event for machines."""

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pcs_ext.errors import InputError


class Reporter(Protocol):
    """Receiver of events. `event` is called rarely (start, note, warning, done), `progress` once per step."""

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        """Something happened: `message` for people, `fields` (JSON-able) for machines."""
        ...

    def progress(self, task: str, step: int, total: int, **fields: Any) -> None:
        """`task` has finished `step` of `total` steps; `fields` are numbers worth showing (loss, lr)."""
        ...


class SilentReporter:
    """Says nothing: the default of library functions."""

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        """Ignore the event."""

    def progress(self, task: str, step: int, total: int, **fields: Any) -> None:
        """Ignore the step."""


class ConsoleReporter:
    """A rewritten progress line on a terminal, a plain line now and then elsewhere; messages on stderr."""

    def __init__(self, stream: Any = None, interval: float | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.live = bool(self.stream.isatty())
        self.interval = interval if interval is not None else (0.1 if self.live else 10.0)
        self._task = ""
        self._started = 0.0
        self._first_step = 0
        self._last = 0.0
        self._open = False

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        """Print the message on its own line."""
        if message:
            self._finish_line()
            self.stream.write(message + "\n")
            self.stream.flush()

    def progress(self, task: str, step: int, total: int, **fields: Any) -> None:
        """Show step, rate, time left and the given numbers, at most once per interval."""
        now = time.monotonic()
        if task != self._task:
            self._task, self._started, self._first_step, self._last = task, now, step, 0.0
        if step < total and now - self._last < self.interval:
            return
        self._last = now
        line = self._line(task, step, total, now, fields)
        if self.live:  # a line that wraps could not be rewritten
            line = "\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1]
        self.stream.write(line + ("" if self.live else "\n"))
        self._open = self.live
        if step >= total:
            self._finish_line()
            self._task = ""
        self.stream.flush()

    def _line(self, task: str, step: int, total: int, now: float, fields: dict[str, Any]) -> str:
        if step == self._first_step:
            return f"{task}  {step}/{total}"
        rate = (step - self._first_step) / max(now - self._started, 1e-9)
        left = (total - step) / rate
        numbers = "  ".join(f"{key} {value:.4g}" for key, value in fields.items() if isinstance(value, (int, float)))
        pace = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
        return f"{task}  {step}/{total}  {pace}  {_clock(left)} left  {numbers}".rstrip()

    def _finish_line(self) -> None:
        if self._open:
            self.stream.write("\n")
            self._open = False


def _clock(seconds: float) -> str:
    """A duration as clocks have it: 4:05, 2:00:00."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class JsonlReporter:
    """One JSON object per line in a file: {"time", "event", ...}. Lines are flushed so that a kill loses none.

    A number that JSON has no word for (NaN, infinite) is null, a path is its text. Lines are added to a file that has
    some.

    Raises:
        InputError: the file holds something else.
    """

    def __init__(self, path: Path) -> None:
        if path.is_file() and _first_byte(path) not in (b"", b"{"):
            raise InputError(f"{path} holds something else than events and is left as it is; choose another file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.handle = open(path, "a", encoding="utf-8")  # noqa: SIM115 (lives as long as the reporter)

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        """Write the event."""
        self._write({"event": name, "message": message, **fields})

    def progress(self, task: str, step: int, total: int, **fields: Any) -> None:
        """Write the step."""
        self._write({"event": "progress", "task": task, "step": step, "total": total, **fields})

    def _write(self, record: dict[str, Any]) -> None:
        self.handle.write(json.dumps(_plain({"time": round(time.time(), 3), **record}), allow_nan=False) + "\n")
        self.handle.flush()

    def close(self) -> None:
        """Close the file."""
        self.handle.close()


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)


def _plain(value: Any) -> Any:
    """What JSON can hold of a value."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


class TeeReporter:
    """Passes every event to several reporters."""

    def __init__(self, *reporters: Reporter) -> None:
        self.reporters = reporters

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        """Pass the event on."""
        for reporter in self.reporters:
            reporter.event(name, message, **fields)

    def progress(self, task: str, step: int, total: int, **fields: Any) -> None:
        """Pass the step on."""
        for reporter in self.reporters:
            reporter.progress(task, step, total, **fields)
