"""Words of a stage: what they are before, in and behind it, and how they start."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import StageWordsConfig, build_adapter, injected
from pcs_ext.image.adapters.stage_words import StageMapper
from pcs_ext.image.backbone import AbstractBackbone
from tests.image.adapters.test_adapters import disturb

CONFIG = StageWordsConfig(placeholder="<r>", num_vectors=2, initializer="dog", features=16, anchors=5, width=8)


def test_before_in_and_behind_the_stage(backbone: AbstractBackbone) -> None:
    word, path = build_adapter("word", CONFIG), backbone.cross_attention_paths()[0]
    with injected(backbone, word), torch.no_grad():
        noun = backbone.encode_prompt(["a photo of dog dog"] * 5).states
        told = backbone.encode_prompt(["a photo of <r>"] * 5)
        timesteps = torch.tensor([90, 80, 70, 40, 10])
        torch.testing.assert_close(told.at(timesteps, path)[0], noun)
        disturb(word, size=1.0)
        states = backbone.encode_prompt(["a photo of <r>"] * 5).at(timesteps, path)[0]
        torch.testing.assert_close(states[:2], noun[:2])
        assert not torch.allclose(states[2], noun[2], atol=1e-5)
        assert not torch.allclose(states[2], states[3], atol=1e-6)
        torch.testing.assert_close(states[4], states[3], msg="behind the stage they stay")
        rows = word.rows_at(torch.tensor([60]), torch.tensor([0]))[0]  # type: ignore[attr-defined]
        initial = word.rows()[0].initial  # type: ignore[attr-defined]
        torch.testing.assert_close(rows[0].norm(dim=-1), initial.norm(dim=-1))


def test_the_first_layer_knows_its_anchors() -> None:
    mapper = StageMapper(CONFIG, total=1000, out=3)
    entry = mapper.net[0]
    assert isinstance(entry, torch.nn.Linear)
    torch.testing.assert_close(entry.weight[0], mapper.sinusoids(torch.tensor([400.0]))[0])
    assert mapper.sinusoids(torch.tensor([0.0]))[0].tolist() == [1.0] * 8 + [0.0] * 8
    assert StageMapper(StageWordsConfig(initializer="face"), total=1000, out=4 * 768).net[0].weight.shape == (200, 2048)
    assert mapper(torch.tensor([500])).tolist() == [[0.0, 0.0, 0.0]]
    with pytest.raises(ConfigError, match="two rising parts"):
        StageWordsConfig(initializer="dog", low=0.8, high=0.4)
