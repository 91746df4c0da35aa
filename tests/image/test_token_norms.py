"""Lengths of rows that are kept in an interval of steps, also over an interruption."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.token_norms import TokenNorms
from pcs_ext.image.types import ParameterGroup


def group(name: str, rows: torch.Tensor) -> ParameterGroup:
    return ParameterGroup(name=name, parameters=(torch.nn.Parameter(rows),), learning_rate=1.0)


def test_rows_keep_the_length_they_had_before_the_interval() -> None:
    rows = group("word/embedding", torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    other = group("weights/denoiser", torch.ones(2, 2))
    norms, (weight,) = TokenNorms([rows, other], 1, 3), rows.parameters
    lengths = []
    for step in range(1, 6):
        with torch.no_grad():
            weight *= 2
            if step == 3:  # a run that goes on from the checkpoint of step 2
                state = norms.state_dict()
                norms = TokenNorms([rows, other], 1, 3)
                norms.load_state_dict(state)
            norms(step)
        lengths.append(weight.detach().norm(dim=-1))
    expected = torch.tensor([[10.0, 2.0], [10.0, 2.0], [10.0, 2.0], [20.0, 4.0], [40.0, 8.0]])
    torch.testing.assert_close(torch.stack(lengths), expected)
    assert torch.equal(other.parameters[0], torch.ones(2, 2))
    with pytest.raises(ConfigError, match="no word trains"):
        TokenNorms([other], 0, 1)
