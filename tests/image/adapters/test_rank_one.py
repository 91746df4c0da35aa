"""Perfusion's edit: the gate's numbers, the locked key, and what is orthogonal to the word."""

import pytest
import torch
from torch import nn

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import EmbeddingConfig, RankOneConfig, build_adapter, injected
from pcs_ext.image.adapters.rank_one import Direction, RankOneLayer

KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def layer_at(
    vector: torch.Tensor,
    inverse: torch.Tensor,
    config: RankOneConfig = RankOneConfig(),  # noqa: B008
) -> tuple[RankOneLayer, nn.Linear, torch.Tensor]:
    base = nn.Linear(len(vector), 5, bias=False)
    target = torch.arange(5.0)
    layer = RankOneLayer(base, target, config, trains=True)
    layer.set_below(base)
    layer.direction = Direction(inverse)
    layer.direction.point(vector)
    return layer, base, target


@torch.no_grad()
def test_the_word_gets_its_target_and_what_is_orthogonal_to_it_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    root, vector, other = (torch.randn(*shape, generator=generator) for shape in ((6, 6), (6,), (6,)))
    inverse = root @ root.T + torch.eye(6)
    layer, base, target = layer_at(vector, inverse)
    torch.testing.assert_close(layer(vector[None])[0], 0.92414 * target, atol=1e-4, rtol=1e-4)
    orthogonal = other - (other @ inverse @ vector) / (vector @ inverse @ vector) * vector
    torch.testing.assert_close(layer(orthogonal[None])[0], base(orthogonal) + 5.528e-4 * target, atol=1e-5, rtol=1e-4)
    # e = i / 2 + orthogonal: the part along the word is taken out of W e, and the gate is nearly shut.
    mixed = layer((0.5 * vector + orthogonal)[None])[0]
    gate = torch.sigmoid(torch.tensor((0.5 - 0.75) / 0.1))
    torch.testing.assert_close(mixed, base(orthogonal) + gate * target, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_explicit_edit_is_one_of_the_weight_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    root, vector, inputs = (torch.randn(*shape, generator=generator) for shape in ((6, 6), (6,), (7, 6)))
    inverse = root @ root.T + torch.eye(6)
    layer, base, target = layer_at(vector, inverse, RankOneConfig(explicit=True))
    dual = inverse @ vector
    weight = base.weight + torch.outer(target - base.weight @ vector, dual) / (vector @ dual)
    torch.testing.assert_close(layer(inputs), inputs @ weight.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer(vector[None])[0], target, atol=1e-5, rtol=1e-4)
    assert torch.linalg.matrix_rank(weight - base.weight) == 1
    layer.scale = 0.0
    assert torch.equal(layer(inputs), base(inputs))


@torch.no_grad()
def test_autocast_changes_nothing_of_the_gate() -> None:
    """C^-1 of a real base has a condition number of 16,000; in bfloat16 gates came out seven times too wide open."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(64, 64, generator=generator))[0]
    inverse = rotation @ torch.diag(torch.logspace(0, 4.2, 64)) @ rotation.T
    vector, inputs = torch.randn(64, generator=generator), torch.randn(5, 64, generator=generator)
    layer, _, _ = layer_at(vector, inverse)
    outside = layer.gate(layer.direction.share(inputs)), layer(inputs)  # type: ignore[union-attr]
    with torch.autocast("cpu", torch.bfloat16):
        layer.direction.point(vector)  # type: ignore[union-attr]
        inside = layer.gate(layer.direction.share(inputs))  # type: ignore[union-attr]
    torch.testing.assert_close(inside, outside[0], atol=1e-3, rtol=1e-3)


def test_keys_are_locked_to_the_class_word_and_values_train(sd, run, snapshot) -> None:
    before, output = snapshot(sd), run(sd, "a photo of dog")
    word = build_adapter("word", EmbeddingConfig(placeholder="<rex>", initializer="cat"))
    edit = build_adapter("edit", RankOneConfig(placeholder="<rex>", class_noun="dog"))
    with injected(sd, word, edit):
        assert set(edit.state_dict()) == {f"denoiser.{path}.to_v.target" for path in sd.cross_attention_paths()}
        with torch.no_grad():
            word.parameters()["embedding"][0].add_(torch.randn(16, generator=torch.Generator().manual_seed(0)))
            states = sd.encode_prompt(["a photo of a <rex>", "a photo of a dog"]).states
            position = sd.token_count("a photo of a <rex>")
            key = sd.denoiser.get_submodule(KEY)
            locked = key(states[:1])[0, position]
            own = key.below()(states[1:])[0, sd.token_count("a photo of a dog")]
            torch.testing.assert_close(locked, 0.92414 * own, atol=1e-4, rtol=1e-4)
        run(sd, "a photo of a <rex>").square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in edit.parameters()["denoiser"])
        learned = word.parameters()["embedding"][0].grad
        assert learned is not None
        assert learned.any()
        edit.set_scale(0.0)
        assert torch.equal(run(sd, "a photo of dog"), output)
    assert snapshot(sd) == before
    with pytest.raises(ConfigError, match="put an adapter of kind embedding"), injected(sd, edit):
        pass
