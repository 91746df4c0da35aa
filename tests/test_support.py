"""What many tests lean on: copies of tiny models are whole and share nothing."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.copies import deep_copy
from tests.support.tiny import tiny_backbone


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_copy_is_what_deepcopy_gives_and_shares_nothing(family: str, tmp_path: Path) -> None:
    whole = nn.ModuleDict(tiny_backbone(tmp_path / "sd", family=family).components())
    ours, theirs = deep_copy(whole), copy.deepcopy(whole)
    assert repr(ours) == repr(theirs)
    for mine, other, first in zip(ours.modules(), theirs.modules(), whole.modules(), strict=True):
        assert list(vars(mine)) == list(vars(other))
        assert [type(value) for value in vars(mine).values()] == [type(value) for value in vars(other).values()]
        shared = [
            name
            for name, value in vars(mine).items()
            if isinstance(value, (dict, list, set, torch.Tensor, nn.Module)) and value is vars(first)[name]
        ]
        assert not shared
    mine, first = ours.state_dict(), whole.state_dict()
    assert all(torch.equal(mine[key], first[key]) for key in first)
    assert not {tensor.data_ptr() for tensor in mine.values()} & {tensor.data_ptr() for tensor in first.values()}
    # Hooks and what modules name elsewhere, too, are copied as they stand to each other.
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *_: torch.zeros(1))
    pair = nn.ModuleDict({"a": layer})
    vars(pair)["kept"] = [layer]
    again = deep_copy(pair)
    assert vars(again)["kept"][0] is again["a"] is not layer
    assert torch.equal(again["a"](torch.ones(1, 2)), torch.zeros(1))
    assert "__deepcopy__" not in vars(nn.Module)
