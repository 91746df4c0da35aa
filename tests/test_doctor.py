"""The doctor tells what is there and how to get what is not."""

from importlib import metadata

import pytest

from pcs_ext import doctor
from pcs_ext.toybox import weights_path


def test_what_is_not_installed_comes_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def without_trimesh(name: str) -> str:
        if name == "trimesh":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor.metadata, "version", without_trimesh)
    report = doctor.examine()
    assert report["missing"]["threed"].startswith('meshes, 3D export: python -m pip install "trimesh>=')
    assert "trimesh" not in report["extras"]["threed"]
    assert "scikit-image" in report["extras"]["threed"]


def test_an_old_version_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "1.0" if name == "trimesh" else real(name))
    assert "trimesh" in doctor.examine()["missing"]["threed"]


def test_every_extra_of_the_package_is_told_of() -> None:
    assert set(metadata.metadata("pcs_ext").get_all("Provides-Extra") or []) == set(doctor.examine()["extras"])


def test_every_model_that_ships_is_told_with_the_size_of_its_files() -> None:
    told = doctor.examine()["models"]["toybox"]
    for folder in weights_path("base").parent.iterdir():
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        assert f"{folder.name} {size / 2**20:.0f} MiB" in told
