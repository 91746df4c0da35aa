"""A ControlNet over segmentation maps: what it adds, to whom, and what is left when it is gone."""

import pytest
import torch

from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.adapters import GuideAdapter, GuideConfig, injected
from pcs_ext.image.control_branch import ControlBranch, added_of, controlled
from pcs_ext.image.types import Batch
from tests.image.adapters.test_adapters import disturb

PROMPTS = ["a photo of the dog", "a cat in snow"]


def build() -> GuideAdapter:
    return GuideAdapter("guide", GuideConfig(regions=("<dog>", "<cat>")))


def predict(backbone):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return backbone.predict(noise, torch.tensor([3, 70]), backbone.encode_prompt(PROMPTS))


def left_and_right() -> torch.Tensor:
    maps = torch.zeros(1, 2, 8, 8)
    maps[:, 0, :, :4], maps[:, 1, :, 4:] = 1, 1
    return maps


@torch.no_grad()
def test_untrained_it_adds_nothing_and_trained_what_its_branch_says(backbone, snapshot):
    before, plain, adapter = snapshot(backbone), predict(backbone), build()
    with injected(backbone, adapter):
        with adapter.guiding(left_and_right()):
            torch.testing.assert_close(predict(backbone), plain, rtol=1e-4, atol=1e-5)
        disturb(adapter, size=0.3)
        assert torch.equal(predict(backbone), plain), "without a map nothing is added"
        with adapter.guiding(left_and_right()):
            led = predict(backbone)
        with adapter.guiding(left_and_right().flip(1)):
            turned = predict(backbone)
        assert not torch.allclose(led, plain, atol=1e-3)
        assert not torch.allclose(led, turned, atol=1e-4), "whose region it is matters"
        # by hand: ControlNet's own residuals, of the map at the picture's size
        branch = adapter._branch
        assert isinstance(branch, ControlBranch)
        noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        told = backbone.encode_prompt(PROMPTS)
        side = 8 * backbone.vae_factor
        hints = left_and_right().repeat_interleave(side // 8, 2).repeat_interleave(side // 8, 3).expand(2, -1, -1, -1)
        said = branch(noise, torch.tensor([3, 70]), told.states, hints, added_of(told, noise))
        with controlled(backbone.denoiser, said):
            by_hand = backbone.predict(noise, torch.tensor([3, 70]), told)
        torch.testing.assert_close(led, by_hand, rtol=1e-4, atol=1e-5)
        adapter.set_scale(0.0)
        with adapter.guiding(left_and_right()):
            assert torch.equal(predict(backbone), plain)
    assert snapshot(backbone) == before


@torch.no_grad()
def test_rows_without_a_map_are_the_denoisers_alone(backbone):
    adapter = build()
    with injected(backbone, adapter):
        plain = predict(backbone)
        disturb(adapter, size=0.3)
        guides = torch.cat([left_and_right(), torch.zeros(1, 2, 8, 8)])
        batch = Batch(images=torch.zeros(2, 3, 32, 32), captions=tuple(PROMPTS), guides=guides)
        with adapter.reading(batch, torch.zeros(2, 4, 8, 8), torch.Generator()):
            led = predict(backbone)
        assert not torch.allclose(led[0], plain[0], atol=1e-3)
        torch.testing.assert_close(led[1], plain[1], rtol=1e-4, atol=1e-5)
        with adapter.reading(Batch(images=batch.images, captions=batch.captions), batch.images, torch.Generator()):
            assert torch.equal(predict(backbone), plain), "a batch that says nothing"


@torch.no_grad()
def test_stored_and_opened_again(backbone):
    adapter, other = build(), build()
    with injected(backbone, adapter):
        disturb(adapter, size=0.3)
        with adapter.guiding(left_and_right()):
            led = predict(backbone)
    other.load_state_dict(adapter.state_dict())
    with injected(backbone, other), other.guiding(left_and_right()):
        assert torch.equal(predict(backbone), led)
    with pytest.raises(ArtifactError, match="do not fit adapter 'guide'"):
        other.load_state_dict({"branch.nothing": torch.zeros(1)})
    with pytest.raises(ConfigError, match="a region for each of different words"):
        GuideConfig(regions=("<dog>", "<dog>"))
