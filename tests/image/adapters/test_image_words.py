"""Words made of photos: each caption reads its own photo's, a kept photo speaks when none is shown."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import ImageWordsAdapter, ImageWordsConfig, build_adapter, injected
from pcs_ext.image.adapters.image_words import showing
from pcs_ext.image.backbone import AbstractBackbone
from tests.image.adapters.test_adapters import disturb


def test_every_caption_reads_its_own_photo(backbone: AbstractBackbone) -> None:
    adapter = build_adapter("view", ImageWordsConfig(placeholder="<view>", initializer="dog", width=6))
    assert isinstance(adapter, ImageWordsAdapter)
    captions = ["a cat on a <view>", "a cat on a <view>", "a cat"]
    features = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    with injected(backbone, adapter), torch.no_grad():
        as_initialised = backbone.encode_prompt(["a cat on a dog", "a cat on a dog", "a cat"]).states
        with showing([adapter], features):
            torch.testing.assert_close(backbone.encode_prompt(captions).states, as_initialised)
        disturb(adapter, size=0.3)
        with showing([adapter], features):
            states = backbone.encode_prompt(captions).states
        assert not torch.allclose(states[0], states[1], atol=1e-4)
        assert torch.equal(states[2], as_initialised[2])
        with showing([adapter], features[[1, 0, 2]]):
            torch.testing.assert_close(backbone.encode_prompt(captions).states, states[[1, 0, 2]])
        adapter.keep(features[1])
        torch.testing.assert_close(backbone.encode_prompt(captions).states[0], states[1])
        adapter.set_scale(0.0)
        torch.testing.assert_close(backbone.encode_prompt(captions).states, as_initialised)
    again = build_adapter("view", adapter.config)
    again.load_state_dict(adapter.state_dict())
    with injected(backbone, again), torch.no_grad():
        torch.testing.assert_close(backbone.encode_prompt(captions).states[0], states[1])


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="a word to start from, got 'random'"):
        ImageWordsConfig(placeholder="<view>", initializer="random")
