"""Words mixed of words: the sum by hand, its length, offsets, and a model that reads them."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import MixtureAdapter, MixtureConfig, injected
from pcs_ext.image.adapters.mixture import MixtureRows
from pcs_ext.image.backbone import AbstractBackbone

WORDS = MixtureConfig(placeholder="<x>", words=("dog", "cat", "photo", "beach"), take=2, width=8)


def test_the_mixture_by_hand() -> None:
    vocabulary = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    rows = MixtureRows(torch.zeros(1, 6), vocabulary, 3.0, WORDS)
    weights = torch.sigmoid(rows.network(vocabulary)[:, 0])
    best = weights.argsort(descending=True)[:2]
    mixed = weights[best[0]] * vocabulary[best[0]] + weights[best[1]] * vocabulary[best[1]]
    torch.testing.assert_close(rows(), (3 * mixed / mixed.norm())[None])
    assert float(rows().detach().norm()) == pytest.approx(3)
    rows.offset.data[0, 2] = 4.0
    torch.testing.assert_close(rows()[0, 2], 3 * mixed[2] / mixed.norm() + 2)
    rows.scale = 0.0
    assert not rows().any()
    assert torch.equal(MixtureRows(torch.zeros(1, 6), vocabulary, 3.0, WORDS).weights(), weights), "from its own seed"


@torch.no_grad()
def test_in_a_model(sd: AbstractBackbone) -> None:
    adapter = MixtureAdapter("word", WORDS)
    with injected(sd, adapter):
        table = sd.text_encoders[0].get_input_embeddings().weight
        (rows,) = adapter.rows()
        assert float(rows().norm()) == pytest.approx(float(table.norm(dim=-1).mean()), rel=1e-4)
        assert {name: len(group) for name, group in adapter.parameters().items()} == {"embedding": 3, "offset": 1}
        adapter.parameters()["offset"][0].fill_(0.5)
        assert float(adapter.offsets().square().sum()) == pytest.approx(16 * 0.25)
        words = adapter.explained()
        assert [word in WORDS.words for word, _ in words] == [True, True]
        assert words[0][1] >= words[1][1] > 0
        moved = sd.encode_prompt(["a photo of <x>"]).states
    again = MixtureAdapter("word", WORDS)
    again.load_state_dict(adapter.state_dict())
    with injected(sd, again):
        assert torch.equal(sd.encode_prompt(["a photo of <x>"]).states, moved)
    with pytest.raises(ConfigError, match="two or more different words"):
        MixtureConfig(placeholder="<x>", words=("dog", "dog"))
