"""What 3D jobs start from, made once."""

import pytest

from tests.support.small_jobs import Learned, learn_small


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Subjects, a mesh and a scene on a tiny base; read-only."""
    return learn_small(tmp_path_factory.mktemp("learned"))
