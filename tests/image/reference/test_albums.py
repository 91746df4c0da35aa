"""Albums that reference adapters cannot learn from are refused with what is missing."""

from pathlib import Path
from typing import Any

import pytest

from pcs_ext.config_io import write_json
from pcs_ext.errors import ConfigError, PhotoError, UsageError
from pcs_ext.image.reference.learn import learn_reference
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import TINY


def test_albums_that_cannot_be_used_are_named(eye: Path, tiny_sd_path: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"base": str(tiny_sd_path), "encoder": str(eye), "device": "cpu", "steps": 1}
    pairs = albums(tmp_path / "pairs", couples=1)
    with pytest.raises(PhotoError, match="names 2 subjects; this system learns from photos of one"):
        learn_reference(pairs, tmp_path / "x", system="photomaker", **asked)
    with pytest.raises(PhotoError, match="nowhere does not exist; expected a folder with a subfolder for each"):
        learn_reference(tmp_path / "nowhere", tmp_path / "x", system="photomaker", **asked)
    with pytest.raises(PhotoError, match=r"noun.txt is a file; expected a folder with a subfolder for each"):
        learn_reference(pairs / "couple-0" / "noun.txt", tmp_path / "x", system="photomaker", **asked)
    (pairs / "couple-0" / "1_mask2.png").unlink()
    with pytest.raises(PhotoError, match=r"1.png has 1 numbered masks; expected 2, 1_mask1.png and so on"):
        learn_reference(pairs, tmp_path / "x", system="fastcomposer", **asked)
    (pairs / "couple-0" / "noun.txt").unlink()
    with pytest.raises(PhotoError, match="has no noun.txt; expected the word"):
        learn_reference(pairs, tmp_path / "x", system="fastcomposer", **asked)
    (pairs / "couple-0" / "noun.txt").write_text("duck")
    with pytest.raises(PhotoError, match="does not name the duck of noun.txt"):
        learn_reference(pairs, tmp_path / "x", system="photomaker", **asked)
    (pairs / "couple-0" / "noun.txt").write_text("dog")
    (pairs / "dog-album" / "0_mask.png").unlink()
    with pytest.raises(PhotoError, match="1 of 9 photos in .* have no mask, and elite learns with masks"):
        learn_reference(pairs, tmp_path / "x", system="elite", **asked)
    with pytest.raises(UsageError, match="--system elites is not known; expected one of ip-adapter, photomaker"):
        learn_reference(pairs, tmp_path / "x", system="elites", **asked)
    write_json(tmp_path / "other.json", {"adapter": TINY["elite"]})
    with pytest.raises(UsageError, match="kind elite, and --system is photomaker"):
        learn_reference(pairs, tmp_path / "x", system="photomaker", config=tmp_path / "other.json", **asked)
    write_json(tmp_path / "wrong.json", {"adapter": {"kind": "elite", "hiden": 3}})
    with pytest.raises(ConfigError, match="hiden"):
        learn_reference(pairs, tmp_path / "x", system="elite", config=tmp_path / "wrong.json", **asked)
