"""A subject seen from a camera: who is changed by it, by which pictures, and what is left when it is gone."""

import pytest
import torch

from pcs_ext.errors import ArtifactError, ConfigError, UsageError
from pcs_ext.image.adapters import EmbeddingConfig, FeatureFieldAdapter, FeatureFieldConfig, build_adapter, injected
from pcs_ext.image.adapters.feature_field import grid_of, spread
from pcs_ext.image.cameras import Cameras, orbit
from pcs_ext.image.types import Batch
from tests.image.adapters.test_adapters import disturb

PROMPTS = ["a photo of <rex> on the beach", "a cat"]
CENTER, RADIUS = torch.tensor([0.0, 0.0, 0.5]), torch.tensor(1.5)


def around(*azimuths: float) -> Cameras:
    count = len(azimuths)
    return orbit(list(azimuths), [10.0] * count, [4.0] * count, [40.0] * count, (0.0, 0.0, 0.5))


def build(**settings) -> FeatureFieldAdapter:
    config = FeatureFieldConfig(
        placeholder="<rex>", caption="a photo of <rex>", samples=4, width=8, references=3, **settings
    )
    adapter = FeatureFieldAdapter("view", config)
    latents = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    adapter.keep(latents, around(0, 60, 120, 180, 240, 300), CENTER, RADIUS)
    return adapter


def word():
    return build_adapter("word", EmbeddingConfig(placeholder="<rex>", initializer="dog"))


def predict(backbone, prompts=PROMPTS):
    noise = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return backbone.predict(noise, torch.tensor([3, 70][: len(prompts)]), backbone.encode_prompt(prompts))


@torch.no_grad()
def test_untrained_it_changes_nothing_and_trained_only_who_names_the_subject(backbone, snapshot):
    adapter = build()
    with injected(backbone, word()):
        before, plain = snapshot(backbone), predict(backbone)
        with injected(backbone, adapter):
            assert torch.equal(predict(backbone), plain), "no camera is said"
            with adapter.viewing(around(30)):
                torch.testing.assert_close(predict(backbone), plain, rtol=1e-4, atol=1e-5)
            disturb(adapter, size=0.3)
            assert torch.equal(predict(backbone), plain)
            with adapter.viewing(around(30)):
                seen = predict(backbone)
                assert adapter.rendered.keys() == adapter.fields.keys()
                assert torch.equal(predict(backbone), seen), "references are read once and kept"
            torch.testing.assert_close(seen[1], plain[1], rtol=1e-4, atol=1e-5)
            assert not torch.allclose(seen[0], plain[0], atol=1e-3)
            with adapter.viewing(around(210)):
                assert not torch.allclose(predict(backbone)[0], seen[0], atol=1e-4)
            with adapter.viewing(around(30)):
                twice = backbone.predict(
                    torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).expand(3, -1, -1, -1),
                    torch.tensor([3, 3, 3]),
                    backbone.encode_prompt([PROMPTS[1], PROMPTS[0], PROMPTS[0]]),
                )
                torch.testing.assert_close(twice[1], twice[2], rtol=1e-4, atol=1e-5)
                adapter.set_scale(0.0)
                assert torch.equal(predict(backbone), plain)
        assert snapshot(backbone) == before


@torch.no_grad()
def test_stored_and_opened_again(backbone):
    adapter = build()
    other = FeatureFieldAdapter("view", adapter.config)
    with injected(backbone, word()):
        with injected(backbone, adapter):
            disturb(adapter, size=0.3)
            with adapter.viewing(around(30)):
                seen = predict(backbone)
        other.load_state_dict(adapter.state_dict())
        assert other.state_dict().keys() == adapter.state_dict().keys()
        with injected(backbone, other), other.viewing(around(30)):
            assert torch.equal(predict(backbone), seen)
    with pytest.raises(ArtifactError, match="do not fit adapter 'view'"):
        other.load_state_dict({"field.nothing": torch.zeros(1)})
    empty = FeatureFieldAdapter("view", adapter.config)
    with pytest.raises(UsageError, match="no posed pictures"), empty.viewing(around(0)):
        pass


def test_photos_are_learned_from_references_that_are_not_themselves(backbone):
    adapter = build(drop=0.5)
    batch = Batch(images=torch.zeros(2, 3, 32, 32), captions=tuple(PROMPTS), cameras=around(60, 120))
    for seed in range(8):
        with adapter.reading(batch, torch.zeros(2, 4, 8, 8), torch.Generator().manual_seed(seed)):
            look = adapter.look
            assert look is not None
            assert len(set(look.references)) == 3
            assert not {1, 2} & set(look.references), "those two are in the batch"
            assert 0 <= look.timestep < 50
    taken = [
        adapter._drawn(around(*range(100)), batch.images, torch.Generator().manual_seed(seed)).taken
        for seed in range(9)
    ]
    assert abs(float(torch.cat(taken).float().mean()) - 0.5) < 0.06
    assert adapter.look is None
    with injected(backbone, word(), adapter):
        for parameter in adapter.parameters()["denoiser"]:
            parameter.requires_grad_(True)
        only = Batch(
            images=batch.images, captions=batch.captions, cameras=around(30)
        )  # the second row is a class image
        seed = next(
            s
            for s in range(20)
            if bool(adapter._drawn(around(30), batch.images, torch.Generator().manual_seed(s)).taken)
        )
        with adapter.reading(only, torch.zeros(2, 4, 8, 8), torch.Generator().manual_seed(seed)):
            predict(backbone, [PROMPTS[0], PROMPTS[0]]).square().mean().backward()
            assert all(rows.tolist() == [0] for _, rows, _ in adapter.rendered.values())
        moved = [p.grad is not None and bool(p.grad.any()) for p in adapter.parameters()["denoiser"]]
        assert any(moved), "what joins the two starts at zero and has a gradient"


def test_references_are_spread_and_grids_found():
    positions = around(0, 10, 90, 180, 270).positions - CENTER
    assert spread(positions, positions[1], 3) == [1, 4, 2] or spread(positions, positions[1], 3)[0] == 1
    assert set(spread(positions, positions[0], 4)) == {0, 2, 3, 4}
    assert len(spread(positions, positions[0], 9)) == 5
    assert grid_of(64, (1, 4, 16, 16)) == (8, 8)
    assert grid_of(32, (1, 4, 8, 16)) == (4, 8)
    with pytest.raises(ConfigError, match="stands in the caption"):
        FeatureFieldConfig(placeholder="<rex>", caption="a dog")
