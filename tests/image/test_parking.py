"""What is set aside comes back bit for bit, and takes no memory meanwhile."""

import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from pcs_ext.errors import ResourceError
from pcs_ext.image.parking import Parked, ParkedParameters


def test_every_kind_of_tensor_comes_back() -> None:
    tensors = {
        "channels last": torch.randn(3, 4, 5, 6).contiguous(memory_format=torch.channels_last),
        "number": torch.tensor(3.0),
        "half": torch.randn(7).bfloat16(),
        "part": torch.randn(10, 4)[3:6],
        "none": torch.empty(0),
    }
    parked = Parked(tensors)
    for _ in range(2):
        found = parked.tensors()
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(found[name], tensor), name
            assert found[name].stride() == tensor.stride(), name
            assert found[name].dtype == tensor.dtype, name


def test_parameters_give_their_memory_away_and_get_it_back() -> None:
    model = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parked = ParkedParameters(model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == 0
    parked.back()
    after = model.state_dict()
    assert all(
        torch.equal(after[name], value) and after[name].stride() == value.stride() for name, value in before.items()
    )


def test_no_room_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full = Path("/dev/full")
    assert full.exists(), "a device that refuses every byte"
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: full.open("r+b", buffering=0))
    with pytest.raises(ResourceError, match="0 MB could not be set aside .*TMPDIR"):
        Parked({"a": torch.zeros(4)})
