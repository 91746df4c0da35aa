"""A word in balance with the text: the share by hand, the maps against the encoder's own, and what is best."""

import math

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import EmbeddingConfig, StageWordsConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.terms import EquilibriumConfig, build_term
from pcs_ext.image.terms.equilibrium import EquilibriumTerm, share
from tests.image.terms.test_context_term import step_of


def test_the_share_by_hand() -> None:
    maps = torch.zeros(1, 2, 5)
    maps[0, :, 1], maps[0, :, 2] = 0.02, 0.03  # the word's tokens; the second is looked at most
    maps[0, :, 3] = torch.tensor([0.03, 0.01])
    one, two = 0.5, 1 / (1 + math.exp(-2))
    assert float(share(maps, [1, 2], [3, 4], 100.0)) == pytest.approx((one + two) / 2)
    maps[0, :, 3] = 0.03
    assert float(share(maps, [1, 2], [3, 4], 100.0)) == pytest.approx(0.5), "looked at alike"


def test_maps_are_those_of_the_last_layer(sd: AbstractBackbone) -> None:
    word = build_adapter("word", EmbeddingConfig(placeholder="<r>", initializer="dog"))
    term = EquilibriumTerm(EquilibriumConfig(templates=("a photo of {subject}",), weight=2.0))
    encoder = sd.text_encoders[0]
    with injected(sd, word), torch.no_grad():
        step = step_of(sd, {"word": word})
        maps = term._maps(step, "a photo of <r>")
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:2]))
        assert not maps.triu(1).any(), "later words are not looked at"
        encoder.set_attn_implementation("eager")
        tokenizer = sd.tokenizers[0]
        ids = tokenizer(
            "a photo of <r>", padding="max_length", max_length=maps.shape[-1], return_tensors="pt"
        ).input_ids
        expected = encoder(ids, output_attentions=True).attentions[-1][0]
        torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-4)
        told = share(maps, [4], [1, 2, 3], 100.0)
        torch.testing.assert_close(term(step), -2 * told * (1 - told))
        assert float(term(step)) >= -0.5, "a quarter of the weight is the best"


def test_words_of_a_stage_get_gradients(sd: AbstractBackbone) -> None:
    word = build_adapter("word", StageWordsConfig(placeholder="<r>", num_vectors=2, initializer="dog", width=8))
    with injected(sd, word):
        step = step_of(sd, {"word": word})
        parameters = word.parameters()["embedding"]
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.no_grad():
            step.asked().timesteps.fill_(600)
        loss = build_term(EquilibriumConfig())(step)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        assert any(one is not None and one.any() for one in found)
    with pytest.raises(ConfigError, match="says {subject}"):
        EquilibriumConfig(templates=("a photo",))
