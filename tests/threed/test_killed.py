"""Every 3D job, killed with SIGKILL again and again, ends in the tensors of one that was left alone."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.killed import killed
from tests.support.small_jobs import Learned, edit, make, paint

JOBS: dict[str, tuple[Callable[..., Any], tuple[tuple[str, int], ...]]] = {
    "dreamfusion": (make, (("3d field", 5),)),
    "vsd": (make, (("3d field", 4),)),
    "mvdream": (make, (("learn denoiser", 2), ("3d field", 2))),
    "dream-in-4d-still": (make, (("3d field", 2),)),
    "dreambooth3d": (make, (("learn denoiser", 1), ("3d initial", 3), ("3d final", 3))),
    "magic3d": (make, (("3d coarse", 2), ("3d fine", 2))),
    "consist3d": (make, (("learn shape", 3), ("3d field", 3))),
    "avatarbooth": (make, (("3d field", 3),)),
    "animate124-still": (make, (("3d field", 4),)),
    "texture": (paint, (("3d texture", 3),)),
    "edit": (edit, (("3d splats", 2), ("3d scene", 2), ("3d edit", 3), ("3d refine", 2))),
}
"""What runs, and after which steps it is killed, one run after another in the same folder."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of several threads may differ in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def job(learned: Learned, folder: Path, name: str) -> Callable[..., Any]:
    """One call of a job into a folder."""
    folder.mkdir(exist_ok=True)
    run = JOBS[name][0]
    if run is not make:
        return functools.partial(run, learned, folder)
    given = {"multiview": learned.multiview} if name in ("mvdream", "dream-in-4d-still") else {}
    given |= {"photos": learned.photos} if name == "mvdream" else {}
    given |= {"view_model": str(learned.view_model)} if name == "animate124-still" else {}
    return functools.partial(make, learned, folder, name, **given)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that a job stored, by file and name."""
    files = sorted(folder.rglob("*.safetensors"))
    assert files
    return {f"{file.relative_to(folder)}: {key}": value for file in files for key, value in load_file(file).items()}


@pytest.mark.parametrize("name", list(JOBS))
def test_a_killed_job_ends_like_one_left_alone(name: str, learned: Learned, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    job(learned, whole, name)()
    for task, step in JOBS[name][1]:
        killed(job(learned, parts, name), task, step, preload="tests.support.small_jobs")
        assert not (parts / "rex.glb").exists()
    job(learned, parts, name)()
    expected, found = (tensors(folder / "rex.glb.work") for folder in (whole, parts))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert (whole / "rex.glb").read_bytes() == (parts / "rex.glb").read_bytes()
