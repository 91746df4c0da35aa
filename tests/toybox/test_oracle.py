"""The oracle: shapes, words, files."""

from pathlib import Path

import pytest
import torch

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
    read = small().read(images)
    assert [row["color"] for row in read] == [HEADS["color"][i] for i in logits["color"].argmax(1).tolist()]


def test_saved_and_loaded_reads_the_same(tmp_path: Path) -> None:
    oracle = small()
    oracle.save(tmp_path / "oracle")
    loaded = Oracle.load(tmp_path / "oracle")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    # Weights lie on disk as int8 with a scale per output: a hundredth of the largest of a row may be lost.
    for key, value in oracle.state_dict().items():
        rows = value.reshape(len(value), -1)
        assert (loaded.state_dict()[key].reshape(rows.shape) - rows).abs().max() <= rows.abs().max() / 127, key
    loaded.save(tmp_path / "again")
    # Saving what was loaded loses next to nothing more: the scales are found again.
    assert torch.allclose(Oracle.load(tmp_path / "again")(images)["class"], loaded(images)["class"], atol=1e-2)
    assert loaded.heads == HEADS
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_missing_oracle_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        Oracle.load(tmp_path)
