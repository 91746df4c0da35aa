"""A pair's updates: disjoint bases, who learns in which pass, and guidance once it is learned."""

import itertools

import pytest
import torch

from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.adapters import PairConfig, build_adapter, injected
from pcs_ext.image.adapters.pair import PairAdapter, orthonormal
from pcs_ext.image.types import Conditioning
from tests.image.adapters.test_adapters import disturb

CONFIG = PairConfig(phrase="on the beach", rank=3, strength=0.75)


def build(config: PairConfig = CONFIG) -> PairAdapter:
    adapter = build_adapter("pair", config)
    assert isinstance(adapter, PairAdapter)
    return adapter


def predict(backbone, conditioning):
    noise = torch.randn(len(conditioning.states), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return backbone.predict(noise, torch.tensor([30, 60][: len(noise)]), conditioning)


def test_content_and_style_read_different_directions(sd):
    basis = orthonormal(8, 0)
    torch.testing.assert_close(basis @ basis.T, torch.eye(8), atol=1e-6, rtol=0)
    adapter = build()
    with injected(sd, adapter):
        for path, content in adapter.content.layers().items():
            first = content.tensors()["lora_A.weight"]
            second = adapter.style.layers()[path].tensors()["lora_A.weight"]
            both = torch.cat([first, second])
            torch.testing.assert_close(both @ both.T, torch.eye(6), atol=1e-6, rtol=0)
        trained = {id(p) for p in itertools.chain(*adapter.parameters().values())}
        assert len(trained) == 2 * len(adapter.style.layers())
        assert id(first) not in trained
    wide = build(PairConfig(phrase="x", rank=64))
    with injected(sd, wide):
        ranks = {(len(x), x.shape[1]) for x in (v.tensors()["lora_A.weight"] for v in wide.style.layers().values())}
    assert ranks == {(4, 8), (8, 16)}, "half of a layer's inputs each"


def test_who_learns_in_which_pass(sd):
    adapter = build()
    with injected(sd, adapter):
        conditioning = sd.encode_prompt(["a dog on the beach"])
        base = predict(sd, conditioning)
        for context, learns, idle in (
            ("content_alone", "content", "denoiser"),
            ("style_beside", "denoiser", "content"),
        ):
            with getattr(adapter, context)():
                predict(sd, conditioning).square().sum().backward()
            assert any(p.grad is not None and p.grad.any() for p in adapter.parameters()[learns])
            assert not any(p.grad is not None and p.grad.any() for p in adapter.parameters()[idle])
            for parameter in itertools.chain(*adapter.parameters().values()):
                parameter.grad = None
        disturb(adapter, size=0.5)
        with torch.no_grad(), adapter.content_alone():
            alone = predict(sd, conditioning)
        assert not torch.allclose(alone, base, atol=1e-3)
        assert not torch.allclose(alone, predict(sd, conditioning), atol=1e-3), "both act again"
        assert all(p.requires_grad for p in itertools.chain(*adapter.parameters().values()))


@torch.no_grad()
def test_learned_it_guides_where_the_phrase_is_said(sd, snapshot):
    prompts = ["a photo of the dog on the beach", "a cat"]
    adapter, before = build(), snapshot(sd)
    plain = predict(sd, sd.encode_prompt(["a photo of the dog", "a cat"]))
    full = predict(sd, sd.encode_prompt(prompts))
    with injected(sd, adapter):
        disturb(adapter, size=0.5)
        adapter.content.set_scale(0.0)
        styled = predict(sd, sd.encode_prompt(prompts))
        state = adapter.state_dict()
    learned = build()
    learned.load_state_dict(state)
    with injected(sd, learned):
        told = sd.encode_prompt(prompts)
        found = predict(sd, told)
        torch.testing.assert_close(found[0], plain[0] + 0.75 * (styled[0] - plain[0]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[1], plain[1], rtol=1e-4, atol=1e-5)
        joined = Conditioning.cat([sd.encode_prompt(["a cat"]), told[0:1]])
        assert joined.styled is not None
        assert joined.styled.tolist() == [False, True]
        learned.set_scale(0.0)
        torch.testing.assert_close(predict(sd, told), full)
        again = learned.state_dict()
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert snapshot(sd) == before
    wrong = build()
    wrong.load_state_dict({**state, "other": torch.zeros(1)})
    with pytest.raises(ArtifactError, match="unexpected other"):
        wrong.inject(sd)
    with pytest.raises(ConfigError, match="needs a phrase"):
        PairConfig(phrase=" ")
    assert CONFIG.without("a dog, on the beach, at night") == "a dog, at night"
    assert CONFIG.without("on the beach, a dog") == "a dog"
