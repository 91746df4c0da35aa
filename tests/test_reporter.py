"""What people and machines hear of a job."""

import io
import json
from pathlib import Path

import pytest

from pcs_ext.errors import InputError
from pcs_ext.reporter import ConsoleReporter, JsonlReporter, TeeReporter


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test moves."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("each", "total", "said"),
    [
        (0.1, 11, "learn  2/11  10.0/s  0:00 left"),
        (20.0, 400, "learn  2/400  20.0 s each  2:12:40 left"),
        (1.0, 100, "learn  2/100  1.0/s  1:38 left"),
    ],
)
def test_a_line_tells_pace_and_time_left(clock: list[float], each: float, total: int, said: str) -> None:
    stream = io.StringIO()
    reporter = ConsoleReporter(stream, interval=0.0)
    for step in (1, 2):
        reporter.progress("learn", step, total, loss=0.25)
        clock[0] += each
    assert stream.getvalue().splitlines() == [f"learn  1/{total}", f"{said}  loss 0.25"]


def test_a_line_of_a_terminal_is_rewritten_in_its_width(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = _Terminal()
    reporter = ConsoleReporter(stream, interval=0.0)
    for step in (1, 2, 3):
        reporter.progress("learn", step, 3, loss=0.25, prior=0.125, rate=0.001)
        clock[0] += 1
    reporter.event("done", "saved")
    lines = stream.getvalue().split("\r\x1b[K")
    assert all(len(line.rstrip("\n")) < 30 for line in lines[1:3])
    assert lines[-1].endswith("\nsaved\n")


def test_every_line_for_machines_is_json(tmp_path: Path) -> None:
    reporter = JsonlReporter(tmp_path / "new" / "events.jsonl")
    TeeReporter(reporter).progress("learn", 1, 2, loss=float("nan"), lr=1e-4)
    TeeReporter(reporter).event("learned", "saved", output=tmp_path, sizes=(1, float("inf")), more={"a": None})
    reporter.close()

    def refused(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    lines = (tmp_path / "new" / "events.jsonl").read_text().splitlines()
    progress, event = (json.loads(line, parse_constant=refused) for line in lines)
    assert (progress["event"], progress["loss"], progress["lr"]) == ("progress", None, 1e-4)
    assert (event["output"], event["sizes"], event["more"]) == (str(tmp_path), [1, None], {"a": None})


def test_events_are_added_to_events_and_to_nothing_else(tmp_path: Path) -> None:
    for _ in range(2):
        reporter = JsonlReporter(tmp_path / "events.jsonl")
        reporter.event("start")
        reporter.close()
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8 a photo")
    with pytest.raises(InputError, match="holds something else than events and is left as it is"):
        JsonlReporter(tmp_path / "photo.jpg")
    assert (tmp_path / "photo.jpg").read_bytes() == b"\xff\xd8 a photo"
