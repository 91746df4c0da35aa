"""The commands that write folders of the world: what they refuse, and how they end."""

from pathlib import Path
from typing import Any

import pytest

from pcs_ext.errors import Interrupted, PcsError, UsageError
from pcs_ext.reporter import SilentReporter
from pcs_ext.toybox.world import export_clips, export_pairs
from pcs_ext.toybox.world.export_job import run_export

PAIRS: dict[str, Any] = {"subjects": 1, "couples": 0, "photos": 1, "resolution": 32, "seed": 1}
CLIPS: dict[str, Any] = {"subjects": 1, "clips": 1, "photos": 0, "frames": 2, "resolution": 32, "seed": 1}


@pytest.mark.parametrize(("name", "value"), [("subjects", -1), ("couples", -1), ("photos", 0), ("resolution", 15)])
def test_albums_of_nothing_are_refused(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"--{name} must be at least .*, got {value}"):
        export_pairs.export_pairs(tmp_path / "pairs", SilentReporter(), **{**PAIRS, name: value})
    assert not (tmp_path / "pairs").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("subjects", -1), ("clips", 0), ("photos", -1), ("frames", 0), ("resolution", 15)]
)
def test_clips_of_nothing_are_refused(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"--{name} must be at least .*, got {value}"):
        export_clips.export_clips(tmp_path / "clips", SilentReporter(), **{**CLIPS, name: value})
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("too few."), UsageError.exit_code, "too few."),
        (KeyboardInterrupt(), Interrupted.exit_code, "goes on"),
    ],
)
def test_a_command_ends_with_a_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def export() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_export(export)
    assert ended.value.code == code
    assert capsys.readouterr().err.endswith(f"{line}\n" if isinstance(error, PcsError) else f"{line}.\n")
