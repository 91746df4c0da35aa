"""A word among names: an orthonormal basis of what names span, a start at their mean, and lists that do not do."""

import dataclasses

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import BasisAdapter, BasisConfig, injected
from pcs_ext.image.adapters.basis import BasisRows
from pcs_ext.image.backbone import AbstractBackbone

NAMES = ("dog beach", "dog photo", "cat beach", "cat photo", "cat the", "on", "the dog beach")


def test_the_basis_spans_what_names_differ_in_and_no_more() -> None:
    # Five names of two tokens: the first has 3 different rows, the second 5, in a width of 6.
    first = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))[[0, 1, 2, 0, 1]]
    second = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    rows = BasisRows(torch.stack([first, second], dim=1), components=512)
    assert rows.basis.shape == (2, 2, 6), "as many directions as the poorer token has"
    gram = rows.basis @ rows.basis.transpose(1, 2)
    torch.testing.assert_close(gram, torch.eye(2).expand(2, -1, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows(), torch.stack([first.mean(0), second.mean(0)]))
    away = first - first.mean(0)
    torch.testing.assert_close(away @ rows.basis[0].T @ rows.basis[0], away, atol=1e-5, rtol=0)
    variance = ((second - second.mean(0)) @ rows.basis[1].T).square().sum(0)
    assert variance[0] > variance[1], "the widest direction comes first"
    rows.coefficients.data = torch.tensor([[2.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(rows(), rows.initial + torch.stack([2 * rows.basis[0, 0], -rows.basis[1, 1]]))
    rows.scale = 0.0
    assert torch.equal(rows(), rows.initial)
    assert BasisRows(torch.stack([first, second], dim=1), components=1).basis.shape == (2, 1, 6)


@torch.no_grad()
def test_in_a_model(sd: AbstractBackbone) -> None:
    config = BasisConfig(names=NAMES)
    adapter = BasisAdapter("word", config)
    table = sd.text_encoders[0].get_input_embeddings().weight.clone()
    ids = sd.tokenizers[0]("dog cat beach photo the", add_special_tokens=False).input_ids
    with injected(sd, adapter):
        (rows,) = adapter.rows()
        dog, cat, beach, photo, the = table[ids]
        expected = torch.stack([(2 * dog + 3 * cat) / 5, (2 * beach + 2 * photo + the) / 5])
        torch.testing.assert_close(rows(), expected)
        adapter.parameters()["embedding"][0].normal_(generator=torch.Generator().manual_seed(0))
        moved = sd.encode_prompt(["a photo of <subject>"]).states
    again = BasisAdapter("word", config)
    again.load_state_dict(adapter.state_dict())
    with injected(sd, again):
        assert torch.equal(sd.encode_prompt(["a photo of <subject>"]).states, moved)
    with (
        pytest.raises(ConfigError, match="of the 3 names 0 are 5 tokens"),
        injected(sd, BasisAdapter("word", dataclasses.replace(config, names=NAMES[:3], num_vectors=5))),
    ):
        pass
    with pytest.raises(ConfigError, match="three or more different names"):
        BasisConfig(names=("dog beach", "dog beach", "dog photo"))
