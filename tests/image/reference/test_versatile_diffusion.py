"""Versatile Diffusion: layers that flows share, and layers that are swapped or mixed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcs_ext.errors import ConfigError
from pcs_ext.image.activation_checkpointing import activation_checkpointing
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.inside import read_of
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.versatile_diffusion import (
    ImageContext,
    VersatileDiffusion,
    VersatileDiffusionConfig,
    transformer_paths,
)
from pcs_ext.image.types import Conditioning
from tests.support.tiny_reference import HIDDEN, at_random, drawn, layers, tiny_system

NAME = "versatile_context"


def ready(sd: AbstractBackbone, eye: Path) -> VersatileDiffusion:
    adapter, _ = tiny_system("versatile-diffusion", sd, eye)
    assert isinstance(adapter, VersatileDiffusion)
    at_random(adapter, sd)
    return adapter.eval().requires_grad_(False)


def noisy() -> tuple[Tensor, Tensor]:
    return drawn(1, 4, 8, 8, seed=4), torch.tensor([300])


@contextlib.contextmanager
def swapped(denoiser: nn.Module, adapter: VersatileDiffusion) -> Iterator[None]:
    """Inside, the picture's context layers stand in the places of the text's."""
    held = {path: denoiser.get_submodule(path) for path in adapter.names}

    def put(path: str, module: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        denoiser.get_submodule(parent)._modules[name] = module

    for path, name in adapter.names.items():
        put(path, adapter.layers[name])
    try:
        yield
    finally:
        for path, module in held.items():
            put(path, module)


@torch.no_grad()
def test_variation_is_the_denoiser_with_other_context_layers(sd: AbstractBackbone, eye: Path) -> None:
    adapter, photo = ready(sd, eye), layers(count=1)
    context = adapter.told(photo.features[:, 0, 0])
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, ["the dog"], Shown(sight=photo))
        drawn_ = sd.predict(*noisy(), told)
        words = sd.predict(*noisy(), sd.encode_prompt(["the dog"]))
        others = adapter.conditioned(sd, sd.encode_prompt, ["a cat on beach"], Shown(sight=photo))
        assert torch.equal(sd.predict(*noisy(), others), drawn_), "words are read beside a picture"
        with swapped(sd.denoiser, adapter):
            expected = sd.predict(*noisy(), Conditioning(states=context))
    torch.testing.assert_close(drawn_, expected, atol=1e-5, rtol=1e-4)
    assert (drawn_ - words).abs().max() > 1e-3


@torch.no_grad()
def test_contexts_are_mixed_in_every_layer(sd: AbstractBackbone, eye: Path) -> None:
    adapter, photo = ready(sd, eye), layers(count=1)
    path = transformer_paths(sd)[0]
    seen: list[tuple[Tensor, Tensor]] = []
    module = sd.denoiser.get_submodule(path)

    def record(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        # What the text's layer makes of it, behind whose back the hook mixes.
        seen.append((given[0], module.forward(*given, **named)[0]))

    context = adapter.told(photo.features[:, 0, 0])
    handle = module.register_forward_pre_hook(record, with_kwargs=True)
    after: list[Tensor] = []
    with adapter.inserted(sd, 0.25):
        told = adapter.conditioned(sd, sd.encode_prompt, ["the dog"], Shown(sight=photo), scale=0.25)
        block = sd.denoiser.get_submodule(path.split(".attentions")[0])
        later = block.register_forward_hook(lambda _, __, output: after.append(output[1][0]))
        sd.predict(*noisy(), told)
        later.remove()
    handle.remove()
    entered, text = seen[0]
    layer = adapter.layers[adapter.names[path]]
    picture = layer(entered, encoder_hidden_states=context, return_dict=False)[0]  # type: ignore[operator]
    torch.testing.assert_close(after[0], 0.75 * text + 0.25 * picture, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_equal_layers_and_contexts_change_nothing_however_they_are_mixed(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("versatile-diffusion", sd, eye)
    assert isinstance(adapter, VersatileDiffusion)
    adapter.eval().requires_grad_(False)
    told = sd.encode_prompt(["the dog"])
    vectors = told.states[:, : adapter.places]
    with adapter.inserted(sd):
        plain = sd.predict(*noisy(), Conditioning(states=vectors))
        for share in (0.3, 1.0):
            column = torch.full((1, adapter.places, 1), share)
            both = Conditioning(states=vectors, shown={NAME: torch.cat([vectors, column], dim=-1)})
            torch.testing.assert_close(sd.predict(*noisy(), both), plain, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_several_pictures_pass_each_by_itself_and_count_alike(sd: AbstractBackbone, eye: Path) -> None:
    adapter, two = ready(sd, eye), layers(2, count=1)
    answers = []
    for order in ([0], [0, 0], [0, 1], [1, 0]):
        with adapter.inserted(sd):
            sight = Sight(features=two.features[:, order])
            told = adapter.conditioned(sd, sd.encode_prompt, ["the dog"], Shown(sight=sight))
            answers.append(sd.predict(*noisy(), told))
    torch.testing.assert_close(answers[1], answers[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(answers[3], answers[2], atol=1e-5, rtol=1e-4)
    assert (answers[2] - answers[0]).abs().max() > 1e-4


@torch.no_grad()
def test_flows_take_turns_in_training_and_nothing_is_told_as_no_picture(sd: AbstractBackbone, eye: Path) -> None:
    adapter = ready(sd, eye)
    prompts = ["the dog", "the cat", "", "a toy"]
    photos = Sight(features=drawn(4, 1, 1, 17, HIDDEN))
    given = Shown(sight=photos, seen=torch.tensor([True, True, False, False]))

    def strengths(scale: float = 1.0) -> list[float]:
        read = read_of(adapter.conditioned(sd, sd.encode_prompt, prompts, given, scale=scale), NAME)
        assert read is not None
        return read.strength.tolist()

    # In use: a picture beside words; none beside none, told like one; words alone.
    assert strengths() == [1, 1, 1, 0]
    assert strengths(0.5) == [0.5, 0.5, 0.5, 0]
    assert strengths(3.0) == [1, 1, 1, 0]
    adapter.train()
    adapter.begin_stage("variation")
    assert strengths() == [1, 1, 1, 0]
    adapter.begin_stage("dual")
    assert strengths() == [0, 1, 0, 0]


def test_layers_are_of_one_kind_each_and_the_texts_rest_while_no_words_are_told(
    sd: AbstractBackbone, eye: Path
) -> None:
    adapter, _ = tiny_system("versatile-diffusion", sd, eye)
    with adapter.inserted(sd):
        data, text = (set(adapter.inside[index].state_dict()) for index in range(2))
        everything = {f"denoiser.{name}" for name, _ in sd.denoiser.named_parameters()}
        assert data | text == everything
        assert not data & text
        assert all(".attentions." in name for name in text)
        assert {f"denoiser.{name}.weight" for name in ("conv_in", "conv_out", "time_embedding.linear_1")} <= data
        sizes = {}
        for stage in adapter.stages:
            adapter.begin_stage(stage.name)
            sizes[stage.name] = {name: len(group) for name, group in adapter.groups().items() if name != "reference"}
    assert sizes == {
        "variation": {"base": len(data), "text": len(text)},
        "dual": {"base": len(data) + len(text)},
    }
    with pytest.raises(ConfigError, match="between 0 and 1"):
        VersatileDiffusionConfig(variation_share=1.0)


@torch.no_grad()
def test_a_context_has_the_class_tokens_length() -> None:
    torch.manual_seed(0)
    context, vectors = ImageContext(8, 16), drawn(2, 5, 8)
    told = context(vectors)
    projected = torch.nn.functional.layer_norm(vectors, (8,)) @ context.project.weight.T
    torch.testing.assert_close(told, 4 * projected / projected[:, :1].norm(dim=-1, keepdim=True))
    torch.testing.assert_close(told[:, 0].norm(dim=-1), torch.full((2,), 4.0))


@pytest.mark.parametrize("system", ["versatile-diffusion", "w-plus-adapter"])
def test_recomputed_activations_give_the_same_gradients(system: str, sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = tiny_system(system, sd, eye)
    at_random(adapter, sd)
    photo = Sight(features=drawn(1, *encoder(torch.zeros(1, 3, 32, 32)).shape))
    gradients = []
    for recomputing in (contextlib.nullcontext(), activation_checkpointing(sd.denoiser)):
        with adapter.inserted(sd), recomputing:
            told = adapter.conditioned(sd, sd.encode_prompt, ["the dog"], Shown(sight=photo), scale=0.5)
            sd.predict(*noisy(), told).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in adapter.parameters() if parameter.grad is not None])
        adapter.zero_grad()
    assert len(gradients[0]) == len(gradients[1]) > 0
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
