"""Words apart: squared cosines by hand."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import EmbeddingConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.terms import AnchorConfig, ApartConfig, build_term
from tests.image.terms.test_context_term import step_of


def test_squared_cosines_of_pairs(sd: AbstractBackbone) -> None:
    names = ("a", "b", "r")
    words = {name: build_adapter(name, EmbeddingConfig(placeholder=f"<{name}>", initializer="dog")) for name in names}
    with injected(sd, *words.values()), torch.no_grad():
        for name, values in (("a", (1.0, 0.0)), ("b", (3.0, 4.0)), ("r", (0.0, -2.0))):
            (row,) = words[name].parameters()["embedding"]
            row.zero_()
            row[0, :2] = torch.tensor(values)
        step = step_of(sd, words)
        found = build_term(ApartConfig(pairs=(("a", "b"), ("b", "r")), weight=2.0))(step)
        torch.testing.assert_close(found, torch.tensor(2 * (0.6**2 + 0.8**2) / 2))
        assert build_term(ApartConfig(pairs=(("a", "r"),)))(step) == 0
        with pytest.raises(ConfigError, match=r"apart names pairs of \['a', 'b', 'r'\]"):
            build_term(ApartConfig(pairs=(("a", "c"),)))(step)
        only = build_term(AnchorConfig(words=("dog",), adapters=("b",), weight=1.0))(step)
        dog = sd.text_encoders[0].get_input_embeddings().below().weight[sd.tokenizers[0].base.encode("dog")[1]]
        torch.testing.assert_close(only, (words["b"].parameters()["embedding"][0][0] - dog).square().sum())
        with pytest.raises(ConfigError, match=r"none is one that \['c'\] names"):
            build_term(AnchorConfig(adapters=("c",)))(step)
