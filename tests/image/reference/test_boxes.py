"""Attention kept to cells or shared with the text, boxes, and the systems that are told them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.attention import attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.decoupled import attending_besides
from pcs_ext.image.reference.boxes import BoxFeatures, boxes_of, cells_in, read_boxes
from pcs_ext.image.reference.pairs import PairData
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.ms_diffusion import MSDiffusion
from pcs_ext.image.reference.systems.subject_diffusion import SubjectDiffusion
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.image.types import Conditioning, Decoupled
from tests.support.tiny_reference import HIDDEN, drawn, layers, tiny_system

PROMPT = "the dog on beach"


def latents() -> tuple[Tensor, Tensor]:
    return drawn(1, 4, 8, 8, seed=4), torch.tensor([300])


def mixed_before_output(backbone: AbstractBackbone, told: Conditioning, source: Decoupled, path: str) -> Any:
    """Queries of an attention, and what enters its output layer, with and without a source beside the text."""
    attention, seen, queries = backbone.denoiser.get_submodule(path), [], []
    noisy, timesteps = latents()
    for sources in ((), (source,)):
        with attending_besides(backbone.denoiser, sources):
            handle = attention.to_out[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
            with attention_program(backbone, lambda _, q: queries.append(q) or q, [path], at="queries"):
                backbone.denoiser(noisy, timesteps, encoder_hidden_states=told.states)
            handle.remove()
    heads = lambda x: x.unflatten(2, (attention.heads, -1)).transpose(1, 2)  # noqa: E731
    return heads, attention, queries[0], seen[0], seen[1]


@torch.no_grad()
def test_one_softmax_of_text_and_pictures_is_that_of_their_keys_side_by_side(sd: AbstractBackbone) -> None:
    path, told = sd.cross_attention_paths()[0], sd.encode_prompt([PROMPT])
    width = sd.denoiser.get_submodule(path).to_k.weight.shape[0]
    keys, values = drawn(1, 3, width), drawn(1, 3, width, seed=1)
    for weight in (1.0, 0.25, 0.0):
        source = Decoupled(pairs={path: (keys, values)}, joint=torch.tensor([weight]))
        heads, attention, query, plain, mixed = mixed_before_output(sd, told, source, path)
        own = heads(torch.cat([attention.to_k(told.states), keys], dim=1))
        scores = attention.scale * heads(query) @ own.transpose(-1, -2)
        scores[..., -3:] += torch.tensor(weight).log()
        wanted = scores.softmax(-1) @ heads(torch.cat([attention.to_v(told.states), values], dim=1))
        torch.testing.assert_close(mixed, wanted.transpose(1, 2).flatten(2), atol=1e-5, rtol=1e-5)
        assert torch.equal(mixed, plain) == (weight == 0)


@torch.no_grad()
def test_cells_attend_to_the_tokens_that_are_open_to_them(sd: AbstractBackbone) -> None:
    path, told = sd.cross_attention_paths()[0], sd.encode_prompt([PROMPT])
    width = sd.denoiser.get_submodule(path).to_k.weight.shape[0]
    keys, values = drawn(1, 2, width), drawn(1, 2, width, seed=1)
    where = torch.zeros(1, 2, 8, 8)
    where[0, 0, :, :4] = 1
    where[0, 1, :4, :2] = 1
    heads, attention, query, plain, mixed = mixed_before_output(
        sd, told, Decoupled(pairs={path: (keys, values)}, where=where), path
    )
    added = (mixed - plain)[0].unflatten(0, (8, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = mixed_before_output(sd, told, Decoupled(pairs={path: (keys, values)}, where=where), path)[-1]
    torch.testing.assert_close(half.float(), mixed, atol=0.1, rtol=0.1)
    torch.testing.assert_close(added[:, 4:], torch.zeros_like(added[:, 4:]))
    torch.testing.assert_close(added[4:, :4], values[0, 0].expand(4, 4, -1), atol=1e-5, rtol=1e-5)
    both = F.scaled_dot_product_attention(heads(query), heads(keys), heads(values), scale=attention.scale)
    both = both.transpose(1, 2).flatten(2)[0].unflatten(0, (8, 8))
    torch.testing.assert_close(added[:4, :2], both[:4, :2], atol=1e-5, rtol=1e-5)


def test_boxes_lie_around_masks_and_cells_in_boxes() -> None:
    masks = torch.zeros(2, 8, 8)
    masks[0, 2:6, 1:3] = 1
    boxes = boxes_of(masks)
    assert boxes.tolist() == [[1 / 8, 2 / 8, 3 / 8, 6 / 8], [0, 0, 0, 0]]
    assert torch.equal(cells_in(boxes, 8, 8), masks)
    # On a coarse grid a box has every cell that it touches.
    assert cells_in(boxes, 4, 4)[0].tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    features = BoxFeatures(2)(torch.tensor([0.5, 0.0, 1.0, 0.25]))
    angles = torch.tensor([0.5, 5.0, 0, 0, 1, 10, 0.25, 2.5])
    torch.testing.assert_close(features, torch.stack([angles.sin(), angles.cos()], dim=-1).flatten())
    assert read_boxes(["0,0,0.5,1"], 1).tolist() == [[0, 0, 0.5, 1]]
    for texts, count, message in (
        (["0,0,1,1"], 2, "1 boxes for 2 photos"),
        (["0.5,0,0.2,1"], 1, "expected left,top,right,bottom"),
        (["a,b"], 1, "is no box"),
    ):
        with pytest.raises(UsageError, match=message):
            read_boxes(texts, count)


@torch.no_grad()
def test_ms_diffusion_asks_with_word_and_box_and_holds_subjects_to_boxes(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("ms-diffusion", sd, eye)
    assert isinstance(adapter, MSDiffusion)
    adapter.eval()
    left, right = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]
    phrases, boxes = drawn(3, adapter.context), torch.tensor([left, right, [0.0] * 4])
    queries = adapter.resampler.queries(phrases[[0, 0, 0]], boxes)
    assert (queries[0] - queries[1]).abs().max() > 1e-3, "the box counts"
    assert (adapter.resampler.queries(phrases, boxes)[1] - queries[1]).abs().max() > 1e-3, "the word counts"
    assert torch.equal(queries[2], adapter.resampler.latents[0])
    sight = Sight(features=drawn(1, 3, 17, HIDDEN))
    shown = Shown(sight=sight, nouns=(("dog", "cat", ""),), boxes=torch.tensor([[left, right, [0.0] * 4]]))
    told = adapter.conditioned(sd, sd.encode_prompt, ["the dog and the cat"], shown)
    (source,) = told.decoupled
    assert source.where is not None
    assert source.where[0, :2, :, :4].min() == 1 - source.where[0, :2, :, 4:].max() == 1
    assert source.where[0, 2:4, :, 4:].min() == 1 - source.where[0, 2:4, :, :4].max() == 1
    assert source.where[0, 4:].max() == 0
    # Without boxes each stands where cells look at its word, at its last token.
    told = adapter.conditioned(sd, sd.encode_prompt, ["the dog and the cat"], Shown(sight=sight, nouns=shown.nouns))
    gates = [source.gate for source in told.decoupled]
    dog, cat = (place_of(sd, "the dog and the cat", noun) for noun in ("dog", "cat"))
    assert [gate.nonzero().tolist() for gate in gates if gate is not None] == [[[0, dog]], [[0, cat]], []]
    assert {source.above for source in told.decoupled} == {0.5}


@torch.no_grad()
def test_a_gate_with_a_threshold_opens_cells_above_it(sd: AbstractBackbone) -> None:
    path, told = sd.cross_attention_paths()[0], sd.encode_prompt([PROMPT])
    width = sd.denoiser.get_submodule(path).to_k.weight.shape[0]
    pair, gate = (drawn(1, 1, width), drawn(1, 1, width, seed=1)), torch.zeros(1, 24)
    gate[0, 2] = 1
    source = Decoupled(pairs={path: pair}, gate=gate, above=0.5)
    heads, attention, query, plain, mixed = mixed_before_output(sd, told, source, path)
    look = (attention.scale * heads(query) @ heads(attention.to_k(told.states)).transpose(-1, -2)).softmax(-1)[..., 2]
    mean = look.mean(1)[0]
    wanted = ((mean - mean.min()) / (mean.max() - mean.min()) > 0.5).float()
    assert 0 < wanted.sum() < len(wanted)
    torch.testing.assert_close((mixed - plain)[0], wanted[:, None] * pair[1][0], atol=1e-5, rtol=1e-5)


def test_training_tells_where_the_target_has_what_is_shown(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("ms-diffusion", sd, eye)
    masks = torch.zeros(4, 1, 8, 8)
    masks[..., :4] = 1
    data = PairData(
        latents=drawn(4, 4, 8, 8), features=drawn(4, 17, HIDDEN), captions=[("the dog",)] * 4,
        groups=torch.arange(4).reshape(1, 4).unbind(0), nouns=[("dog",)], masks=masks,
    )  # fmt: skip
    settings = ReferenceTraining(batch_size=2000, photos=2)
    loss = ReferenceLoss(sd, adapter, data, settings, Sight(features=torch.zeros(17, HIDDEN)))
    pairs = loss._drawn(torch.Generator().manual_seed(0))
    boxes = pairs.shown.boxes
    assert boxes is not None
    assert boxes.shape == (2000, pairs.shown.sight.features.shape[1], 4)
    told = boxes[:, 0, 2] > 0
    assert boxes[told].unique(dim=0).tolist() == [[[0, 0, 0.5, 1]] * boxes.shape[1]]
    assert float(told.float().mean()) == pytest.approx(0.9, abs=0.03)
    assert pairs.subjects is not None
    assert pairs.subjects.tolist() == [0] * 2000


@torch.no_grad()
def test_subject_diffusion_says_words_and_tells_which_cells_are_free(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("subject-diffusion", sd, eye)
    assert isinstance(adapter, SubjectDiffusion)
    adapter.eval()
    texts: list[str] = []

    def encode(prompts, *, size=None) -> Conditioning:
        texts.extend(prompts)
        return sd.encode_prompt(prompts, size=size)

    boxes = torch.tensor([[[0.0, 0, 0.5, 1], [0.5, 0, 1, 0.5], [0.0, 0, 0.5, 1]]])
    shown = Shown(sight=layers(3, 1), nouns=(("dog", "cat", "dog"),), boxes=boxes)
    noisy, timesteps = latents()
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, encode, ["the dog and the cat"], shown)
        assert texts == ["the dog and the cat, the dog is <reference>_1, the cat is <reference>_2"]
        (words,) = adapter._words(_asked(adapter, sd, shown), shown.sight.features[:, :, 0, 0])
        made = adapter.concept(shown.sight.features[0, :, 0, 0])
        torch.testing.assert_close(words[0], torch.stack([made[[0, 2]].mean(0), made[1]]))
        # Nothing but the words acts while gates are shut and places have no weight.
        assert torch.equal(sd.predict(noisy, timesteps, told), sd.predict(noisy, timesteps, word_alone(told)))
        assert told.shown is not None
        free = told.shown["reference_free_cells"][0, :, 0].reshape(8, 8)
        assert free.tolist() == [[0.0] * 8] * 4 + [[0.0] * 4 + [1.0] * 4] * 4
        adapter.free.weight.fill_(0.1)
        first = []
        after = sd.denoiser.down_blocks[0].resnets[0]
        handle = after.register_forward_pre_hook(lambda module, inputs: first.append(inputs[0]))
        sd.predict(noisy, timesteps, told)
        sd.predict(noisy, timesteps, word_alone(told))
        handle.remove()
        # The same as a fifth channel.
        five = torch.cat([noisy, free[None, None]], dim=1)
        weight = torch.cat([sd.denoiser.conv_in.weight, adapter.free.weight], dim=1)
        wanted = F.conv2d(five, weight, sd.denoiser.conv_in.bias, padding=1)
        torch.testing.assert_close(first[0], wanted, atol=1e-5, rtol=1e-5)
        assert (first[0] - first[1]).abs().max() > 0.1
        held = adapter._held(sd, ["the dog and the cat"], shown)
    assert (held.rows, held.pictures) == ([0] * 4, [0, 0, 1, 1])
    tokens = held.tokens
    # Nouns where they stand first, and the words behind "is" at the end of both clauses.
    text = texts[0]
    assert [tokens[0], tokens[2]] == [place_of(sd, text, "dog"), place_of(sd, text, "cat")]
    ids = sd.tokenizers[0]("the dog and the cat, the dog is").input_ids
    assert tokens[1] == len(ids) - 1


def place_of(sd: AbstractBackbone, text: str, noun: str) -> int:
    (token,) = sd.tokenizers[0](noun, add_special_tokens=False).input_ids
    return sd.tokenizers[0](text).input_ids.index(token)


def word_alone(told: Conditioning) -> Conditioning:
    return Conditioning(states=told.states, pooled=told.pooled, time_ids=told.time_ids)


def _asked(adapter: SubjectDiffusion, sd: AbstractBackbone, shown: Shown) -> Any:
    from pcs_ext.image.reference.asked import Asked

    return Asked(backbone=sd, encode=sd.encode_prompt, prompts=["the dog and the cat"], shown=shown)
