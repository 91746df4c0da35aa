"""Panorama files and pages that something is wrong with."""

from pathlib import Path

import pytest
from PIL import Image

from pcs_ext.errors import ArtifactError, InputError, UsageError
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


def test_pictures_of_any_mode_are_written_or_refused(tmp_path: Path) -> None:
    for mode in ("RGB", "L", "P", "CMYK", "RGBA", "LA"):
        for ending in ("jpg", "png", "webp"):
            path = tmp_path / f"{mode}.{ending}"
            if ending == "jpg" and mode in ("RGBA", "LA"):
                with pytest.raises(UsageError, match=r"has transparent parts; choose .png or .webp"):
                    save_panorama(Image.new(mode, (32, 16)), path)
                assert not path.exists()
                continue
            save_panorama(Image.new(mode, (32, 16)), path)
            assert read_properties(path)["ProjectionType"] == "equirectangular"


def test_the_commands_replace_no_file_that_nobody_gave_up(tmp_path: Path) -> None:
    page = tmp_path / "beach.html"
    page.write_text("mine")
    with pytest.raises(ArtifactError, match=r"beach.html exists already; choose another --output or pass --overwrite"):
        make("a beach", tmp_path / "beach.jpg", base=str(tmp_path))
    (tmp_path / "sea-2.jpg").write_bytes(b"mine")
    with pytest.raises(ArtifactError, match=r"sea-2.jpg exists already"):
        make("a sea", tmp_path / "sea.jpg", seeds=(1, 2), base=str(tmp_path))
    save_panorama(Image.new("RGB", (32, 16)), tmp_path / "beach.jpg")
    with pytest.raises(ArtifactError, match=r"beach.html exists already"):
        view(tmp_path / "beach.jpg")
    assert page.read_text() == "mine"
    view(tmp_path / "beach.jpg", overwrite=True)
    assert "data:image/jpeg" in page.read_text()
