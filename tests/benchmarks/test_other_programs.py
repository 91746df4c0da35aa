"""What other programs make of our files: the programs that are not installed are named."""

from pathlib import Path

import pytest

from benchmarks import other_programs


def test_what_is_not_installed_is_named_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_programs.shutil, "which", lambda name: None if name in ("blender", "inkscape") else name)
    with pytest.raises(SystemExit, match=r"not installed: inkscape, blender.*Run: apt-get install .*usd-core"):
        other_programs.main(tmp_path / "found.json")
    assert not (tmp_path / "found.json").exists()
