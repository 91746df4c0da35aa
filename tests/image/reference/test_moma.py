"""MoMA: photo and prompt in one embedding, shortcuts between self-attentions, and where both count."""

import dataclasses
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from pcs_ext.image.attention import attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.decoupled import attending_besides
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.files import OpenedAdapter
from pcs_ext.image.reference.latents import LatentEncoder
from pcs_ext.image.reference.reference import Reference, seen_by
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.bootpig import timestep_noise
from pcs_ext.image.reference.systems.moma import MoMA, Shortcut, subject_mask
from pcs_ext.image.sample import Sampling
from pcs_ext.image.types import Conditioning, Decoupled
from tests.support.tiny_reference import HIDDEN, at_random, drawn, tiny_system, tiny_vision

PROMPT = "the dog on beach"


def made(sd: AbstractBackbone, tmp_path: Path) -> tuple[MoMA, Reference]:
    adapter, encoder = tiny_system("moma", sd, tiny_vision(tmp_path / "eye"))
    assert isinstance(adapter, MoMA)
    at_random(adapter, sd)
    adapter.eval().requires_grad_(False)
    cells = torch.zeros(1, 8, 8)
    cells[:, :, :4] = 1
    sight = Sight(features=drawn(1, 17, HIDDEN), latents=drawn(1, 4, 8, 8, seed=2), cells=cells)
    opened = OpenedAdapter(adapter=adapter, encoder=encoder, latents=LatentEncoder.of(sd))
    return adapter, Reference(opened=opened, sight=sight, nouns=("dog",))


def shown(reference: Reference) -> Shown:
    return Shown(sight=reference.sight.map(lambda known: known[None]), nouns=(("dog",),))


@torch.no_grad()
def test_some_tokens_are_passed_over_and_some_cells_find_less(sd: AbstractBackbone) -> None:
    path = "mid_block.attentions.0.transformer_blocks.0.attn1"
    module = sd.denoiser.get_submodule(path)
    width = module.to_k.weight.shape[0]
    cells, keys, values = drawn(2, 16, width), drawn(2, 3, width, seed=1), drawn(2, 3, width, seed=2)
    there = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    weight = torch.zeros(2, 8, 8)
    weight[:, :4] = 0.5
    source = Decoupled(pairs={path: (keys, values)}, there=there, weight=weight)
    plain = module(cells)
    with attending_besides(sd.denoiser, [source]):
        found = module(cells)
    bare = Decoupled(pairs={path: (keys[:1, [0, 2]], values[:1, [0, 2]])})
    with attending_besides(sd.denoiser, [bare]):
        whole = module(cells[:1])
    torch.testing.assert_close(found[0, :8] - plain[0, :8], 0.5 * (whole - plain[:1])[0, :8], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[0, 8:], plain[0, 8:])
    torch.testing.assert_close(found[1], plain[1])
    rows = source[torch.tensor([1])]
    assert rows.there is not None
    assert rows.weight is not None
    assert (len(rows.there), len(rows.weight)) == (1, 1)


@torch.no_grad()
def test_shortcuts_are_the_bases_keys_and_values_of_the_subjects_cells(sd: AbstractBackbone, tmp_path: Path) -> None:
    adapter, reference = made(sd, tmp_path)
    told = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], shown(reference))
    text, *fine = told.decoupled
    assert list(text.pairs) == list(sd.cross_attention_paths())
    assert sorted(path for source in fine for path in source.pairs) == sorted(adapter.names)
    seen: dict[str, Tensor] = {}
    latents = reference.sight.latents
    assert latents is not None
    first = torch.zeros(1, dtype=torch.long)
    dirty = sd.schedule.add_noise(latents, timestep_noise(0, (4, 8, 8))[None], first)
    with attention_program(sd, lambda path, x: seen.setdefault(path, x), list(adapter.names), at="values"):
        sd.predict(dirty, first, sd.encode_prompt(["dog"]))
    for source in fine:
        assert source.there is not None
        side = round(source.there.shape[1] ** 0.5)
        left = source.there.unflatten(1, (side, side))
        assert left[..., : side // 2].min() == 1
        assert left[..., side // 2 :].max() == 0
        for path, (_, values) in source.pairs.items():
            shortcut = cast(Shortcut, adapter.shortcuts[adapter.names[path]])
            torch.testing.assert_close(values, shortcut.scale * shortcut.values(seen[path]))
    half = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], shown(reference), scale=0.5)
    for one, other in zip(half.decoupled, told.decoupled, strict=True):
        for path, (_, values) in one.pairs.items():
            torch.testing.assert_close(values, 0.5 * other.pairs[path][1])
    # The embedding knows the prompt.
    elsewhere = adapter.conditioned(sd, sd.encode_prompt, ["red dog in snow"], shown(reference))
    path = next(iter(text.pairs))
    assert (elsewhere.decoupled[0].pairs[path][0] - text.pairs[path][0]).abs().max() > 1e-4


def test_the_mask_is_where_cells_look_at_the_noun() -> None:
    """Layers of 4 and of 1 x 4 cells on a grid of 2 x 2: each from 0 to 1, their mean, and nothing below 0.4 of it."""
    one, other = torch.tensor([[0.1, 0.2, 0.3, 0.5]]), torch.tensor([[0.0, 4.0, 1.0, 4.0]])
    mean = torch.tensor([0.0, (0.25 + 1) / 2, (0.5 + 0.25) / 2, 1.0])
    mask = subject_mask([one, other], (2, 2), 0.4)
    torch.testing.assert_close(mask, torch.tensor([[[0.0, float(mean[1])], [0.0, 1.0]]]))
    large = subject_mask([one], (4, 4), 0.0)
    torch.testing.assert_close(large[0, :2, 2:], torch.full((2, 2), 0.25))


@torch.no_grad()
def test_each_step_shows_where_the_last_one_looked(sd: AbstractBackbone, tmp_path: Path) -> None:
    _, reference = made(sd, tmp_path)
    hooks = reference.hooks(sd)
    assert hooks.encode is not None
    assert hooks.started is not None
    assert hooks.predict is not None
    size = (sd.resolution, sd.resolution)
    told = Conditioning.cat(
        [hooks.encode([""], negative=True, size=size), hooks.encode([PROMPT], negative=False, size=size)]
    )
    hooks.started(Sampling(scheduler=None, conditioning=told, guided=True, guidance_scale=3.0, seeds=(1,)))
    noisy = drawn(1, 4, 8, 8, seed=4).repeat(2, 1, 1, 1)
    predict = hooks.predict(sd.predict)
    early = predict(noisy, torch.tensor([980, 980]), told)
    tokens = dataclasses.replace(told, decoupled=told.decoupled[:1])
    torch.testing.assert_close(early, sd.predict(noisy, torch.tensor([980, 980]), tokens), atol=1e-5, rtol=1e-5)
    looks: list[Tensor] = []
    position = sd.tokenizers[0](PROMPT).input_ids.index(sd.tokenizers[0]("dog").input_ids[1])
    with attention_program(sd, lambda path, p: (looks.append(p.mean(1)[..., position]), p)[1]):
        sd.predict(noisy, torch.tensor([980, 980]), tokens)
    mask = subject_mask(looks, (8, 8), 0.2)
    assert 0 < (mask[1] > 0).float().mean() < 1
    second = predict(noisy, torch.tensor([500, 500]), told)
    masked = dataclasses.replace(told, decoupled=tuple(dataclasses.replace(s, weight=mask) for s in told.decoupled))
    torch.testing.assert_close(second, sd.predict(noisy, torch.tensor([500, 500]), masked), atol=1e-4, rtol=1e-4)
    assert (second - sd.predict(noisy, torch.tensor([500, 500]), told))[1].abs().max() > 1e-4
    # Another sampling knows nothing of this one.
    hooks.started(Sampling(scheduler=None, conditioning=told, guided=True, guidance_scale=3.0, seeds=(2,)))
    fresh = predict(noisy, torch.tensor([500, 500]), told)
    torch.testing.assert_close(fresh, sd.predict(noisy, torch.tensor([500, 500]), told), atol=1e-5, rtol=1e-5)


def test_photos_are_seen_as_latents_too(sd: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    _, reference = made(sd, tmp_path)
    found = seen_by(reference.opened, find_photos([photos / "0.png"]), scale=1.0, nouns=("dog",))
    assert found.sight.latents is not None
    assert found.sight.cells is not None
    assert found.sight.latents.shape == (1, 4, 8, 8)
    assert found.sight.cells.unique().tolist() == [1.0]
