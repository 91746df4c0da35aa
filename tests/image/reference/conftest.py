"""What tests of reference adapters share."""

from pathlib import Path

import pytest

from tests.support.tiny_reference import tiny_vision


@pytest.fixture
def eye(tmp_path: Path) -> Path:
    """The folder of a tiny image encoder."""
    return tiny_vision(tmp_path / "eye")
