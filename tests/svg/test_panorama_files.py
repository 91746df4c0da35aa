"""Panorama files and pages that something is wrong with."""

from pathlib import Path

import pytest
from PIL import Image

from pcs_ext.errors import InputError, UsageError
from pcs_ext.svg.panorama.cli import make, view
from pcs_ext.svg.panorama.make import make_panoramas
from pcs_ext.svg.panorama.metadata import properties, read_properties, save_panorama


def test_a_page_never_takes_the_place_of_its_panorama(tmp_path: Path) -> None:
    path = tmp_path / "p.jpg"
    save_panorama(Image.new("RGB", (64, 32)), path)
    content = path.read_bytes()
    with pytest.raises(UsageError, match="ends in .html"):
        view(path, output=path)
    assert path.read_bytes() == content
    (tmp_path / "f.html").mkdir()
    with pytest.raises(UsageError, match="ends in .html"):
        view(path, output=tmp_path / "f.html")
    with pytest.raises(UsageError, match="is a folder"):
        make_panoramas("a beach", tmp_path / "f.html" / "..")


def test_odd_pictures_end_in_a_clear_error_or_have_no_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "garbage.jpg", xmp=b"\x00\x01garbage")
    assert read_properties(tmp_path / "garbage.jpg") == {}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(InputError, match="cannot be read"):
        view(tmp_path / "garbage.jpg")


@pytest.mark.parametrize(("heading", "written"), [(359.99999, "0"), (-1e-9, "0"), (-90.0, "270")])
def test_headings_stay_below_360(heading: float, written: str) -> None:
    assert properties(64, 32, heading=heading)["PoseHeadingDegrees"] == written


@pytest.mark.parametrize("method", ["padded", "stitch"])
def test_windows_of_methods_that_have_none_are_refused(method, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sees the whole"):
        make("a beach", tmp_path / "p.jpg", method=method, window="square")
