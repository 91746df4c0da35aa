"""Words and small formats that several sections of the page share."""

import shlex
from html import escape

from pcs_ext.demo.data import DemoData

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def esc(text: str) -> str:
    """Text for HTML."""
    return escape(text)


def quoted(text: str) -> str:
    """Text as one argument of a shell."""
    return shlex.quote(text) if '"' in text or "$" in text else f'"{text}"'


def command(text: str) -> str:
    """A command to copy, as HTML."""
    return f'<pre tabindex="0"><code>{esc(text)}</code></pre>'


def display_name(data: DemoData) -> str:
    """The subject's name as a name, for HTML: "Rex"."""
    return esc(data.subject[:1].upper() + data.subject[1:])


def count_text(count: int) -> str:
    """Small counts in words."""
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def machine_text(data: DemoData) -> str:
    """What it ran on, for HTML: "2 CPU cores"."""
    if data.device != "cpu":
        return esc(data.device)
    return "1 CPU core" if data.cores == 1 else f"{data.cores} CPU cores"


def metric_of(data: DemoData, *names: str) -> str | None:
    """The first of the named metrics that every shown system has; None when there is none."""
    return next((n for n in names if all(n in system.report.figures for system in data.systems)), None)
