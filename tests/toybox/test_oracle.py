"""The oracle: shapes, words, files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pcs_ext.errors import ModelError
from pcs_ext.toybox.oracle import HEADS, Oracle


def small() -> Oracle:
    torch.manual_seed(0)
    return Oracle(channels=(8, 8, 16, 16)).eval()


def test_logits_and_words() -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    logits = small()(images)
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        name: (3, len(values)) for name, values in HEADS.items()
    }
    assert [list(row) for row in small().read(images)] == [list(HEADS)] * 3


def test_a_picture_is_read_moved_by_a_pixel_each_way_and_mirrored() -> None:
    images = torch.rand(70, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    oracle, total = small(), torch.zeros(70, len(HEADS["color"]))
    # Edge pixels repeat outwards.
    wide = torch.cat([images[..., :1], images, images[..., -1:]], -1)
    wide = torch.cat([wide[..., :1, :], wide, wide[..., -1:, :]], -2)
    for top in (0, 1, 2):
        for left in (0, 1, 2):
            moved = wide[:, :, top : top + 32, left : left + 32]
            total += oracle(moved)["color"] + oracle(moved.flip(-1))["color"]
    assert [row["color"] for row in oracle.read(images)] == [HEADS["color"][i] for i in total.argmax(1).tolist()]


def test_what_is_read_does_not_change_with_the_mirror() -> None:
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    assert small().read(images) == small().read(images.flip(-1))


def test_saved_and_loaded_reads_the_same(tmp_path: Path) -> None:
    oracle = small()
    oracle.save(tmp_path / "oracle")
    loaded = Oracle.load(tmp_path / "oracle")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    # float16 on disk: three digits survive.
    assert torch.allclose(loaded(images)["class"], oracle(images)["class"], atol=2e-2)
    assert loaded.heads == HEADS
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_missing_oracle_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        Oracle.load(tmp_path)


def test_large_weights_lie_on_disk_as_int8_with_a_scale_per_output(tmp_path: Path) -> None:
    torch.manual_seed(0)
    oracle = Oracle().eval()
    oracle.save(tmp_path / "oracle")
    stored, loaded = load_file(tmp_path / "oracle" / "model.safetensors"), Oracle.load(tmp_path / "oracle").state_dict()
    large = [key for key, value in stored.items() if value.dtype == torch.int8]
    assert large
    assert (tmp_path / "oracle" / "model.safetensors").stat().st_size < 5e6
    for key in large:
        rows, found = oracle.state_dict()[key].flatten(1), loaded[key].flatten(1)
        # Half a step of rounding, and the scale's own rounding to float16.
        allowed = rows.abs().amax(1, keepdim=True) * (0.5 / 127 + 2**-10)
        assert ((found - rows).abs() <= allowed).all(), key
