"""Systems for video transformers: where a photo enters Wan, written out, and how clips for it are drawn."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.reference.base import Reading
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.reporter import SilentReporter
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.backbones.wan import WanBackbone
from pcs_ext.video.reference.base import ShownWithLatents, transformer_model
from pcs_ext.video.reference.clips import encode_clip_subjects, read_clip_subjects
from pcs_ext.video.reference.directions import Directions
from pcs_ext.video.reference.identity_stream import identity_pairs, rotated
from pcs_ext.video.reference.kinds import build_clip_adapter
from pcs_ext.video.reference.systems.consisid import ConsisID, ConsisIDConfig
from pcs_ext.video.reference.systems.sugar import Sugar
from pcs_ext.video.reference.training import ClipReferenceLoss, ClipReferenceTraining
from tests.support.tiny_clip_reference import clip_albums, tiny_clip_system
from tests.support.tiny_reference import HIDDEN, at_random, tiny_vision
from tests.support.tiny_wan import tiny_wan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan(tmp_path_factory.mktemp("wan") / "model")


@pytest.fixture
def wan(folder: Path) -> WanBackbone:
    return transformer_model(load_video_backbone(folder, device="cpu", precision="fp32"))


@pytest.fixture
def eye(tmp_path: Path) -> Path:
    return tiny_vision(tmp_path / "eye")


def shown(count: int = 1, seed: int = 0) -> Shown:
    return Shown(sight=Sight(features=torch.randn(count, 1, 1, 17, HIDDEN, generator=random(seed))))


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def joint_sequence(wan: WanBackbone, noisy: Tensor, timestep: Tensor, states: Tensor, tokens: Tensor) -> Tensor:
    """The first block's input and output written out for one sequence of clip and identity under one mask."""
    denoiser = wan.denoiser
    cells = denoiser.patch_embedding(noisy).flatten(2).transpose(1, 2)
    count = cells.shape[1]
    _, told, text, _ = denoiser.condition_embedder(timestep, states, None)
    told, rotary = told.unflatten(1, (6, -1)), denoiser.rope(noisy)
    sequence = torch.cat([cells, tokens], dim=1)
    # Identity has no place: it is turned by nothing.
    cosine, sine = (torch.cat([part, part.new_full((1, tokens.shape[1], 1, part.shape[-1]), value)], dim=1)
                    for part, value in zip(rotary, (1.0, 0.0), strict=True))  # fmt: skip
    mask = torch.ones(sequence.shape[1], sequence.shape[1], dtype=torch.bool)
    mask[count:, :count] = False
    for block in denoiser.blocks:
        shift, scale, gate, feed_shift, feed_scale, feed_gate = (block.scale_shift_table + told).chunk(6, dim=1)
        seen, attn = block.norm1(sequence) * (1 + scale) + shift, block.attn1
        query, keys, values = (
            part.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for part in (
                rotated(attn.norm_q(attn.to_q(seen)), (cosine, sine), attn.heads),
                rotated(attn.norm_k(attn.to_k(seen)), (cosine, sine), attn.heads),
                attn.to_v(seen),
            )
        )
        scores = (query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
        found = (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)
        sequence = sequence + attn.to_out[0](found) * gate
        own = sequence[:, :count]
        told_by_text = block.attn2(block.norm2(own), text, None, None)
        sequence = torch.cat([own + told_by_text, sequence[:, count:]], dim=1)
        fed = block.ffn(block.norm3(sequence) * (1 + feed_scale) + feed_shift)
        sequence = sequence + fed * feed_gate
    return sequence[:, :count]


@torch.no_grad()
def test_sugars_tokens_stand_in_one_sequence_whose_mask_keeps_clip_and_text_from_them(
    wan: WanBackbone, eye: Path
) -> None:
    adapter, _ = tiny_clip_system("sugar", wan, eye)
    assert isinstance(adapter, Sugar)
    at_random(adapter, wan)
    adapter.train()  # without guidance
    noisy, timestep = torch.randn(1, 4, 3, 8, 8, generator=random(1)), torch.tensor([400.0])
    ends: list[Tensor] = []
    with adapter.inserted(wan):
        told = adapter.conditioned(wan, wan.encode_prompt, ["a red dog"], shown())
        handle = wan.denoiser.blocks[-1].register_forward_hook(lambda module, inputs, output: ends.append(output))
        wan.predict(noisy, timestep, told)
        handle.remove()
        tokens = adapter.map(shown().sight.features[:, 0, 0])
        expected = joint_sequence(wan, noisy, timestep, wan.encode_prompt(["a red dog"]).states, tokens)
        torch.testing.assert_close(ends[0], expected, atol=2e-5, rtol=1e-4)
        pairs = identity_pairs(wan.denoiser, tokens, timestep)
        assert len(pairs) == len(wan.denoiser.blocks)
        other = identity_pairs(wan.denoiser, tokens, timestep + 300)
        assert not torch.allclose(pairs[1][0], other[1][0], atol=1e-3), "the noise level is told"


@torch.no_grad()
def test_rotation_is_that_of_the_transformer(wan: WanBackbone) -> None:
    """With no identity to see, the attention is the transformer's own."""
    attn, noisy = wan.denoiser.blocks[0].attn1, torch.randn(1, 4, 3, 8, 8, generator=random())
    rotary, states = wan.denoiser.rope(noisy), torch.randn(1, 48, 24, generator=random(1))
    query, keys = (rotated(norm(layer(states)), rotary, attn.heads)
                   for norm, layer in ((attn.norm_q, attn.to_q), (attn.norm_k, attn.to_k)))  # fmt: skip
    asked, told, found = (x.unflatten(2, (2, -1)).transpose(1, 2) for x in (query, keys, attn.to_v(states)))
    mixed = F.scaled_dot_product_attention(asked, told, found).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attn.to_out[0](mixed), attn(states, None, None, rotary), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_sugars_guidance_is_that_of_the_identity_and_that_of_the_text(wan: WanBackbone, eye: Path) -> None:
    """v(0,0) + w_identity (v(I,0) - v(0,0)) + w_text (v(I,T) - v(I,0)) with w_identity half of w_text."""
    adapter, _ = tiny_clip_system("sugar", wan, eye)
    at_random(adapter, wan)
    noisy, timestep = torch.randn(1, 4, 2, 8, 8, generator=random(1)), torch.tensor([400.0])
    with adapter.inserted(wan):
        adapter.train()
        nothing = wan.encode_prompt([""])
        identity = adapter.conditioned(wan, wan.encode_prompt, [""], shown())
        both = adapter.conditioned(wan, wan.encode_prompt, ["a red dog"], shown())
        v_0, v_i, v_it = (wan.predict(noisy, timestep, told) for told in (nothing, identity, both))
        adapter.eval()
        rows: Any = type(both).cat([nothing, both])
        negative, positive = wan.predict(noisy.repeat(2, 1, 1, 1, 1), timestep.repeat(2), rows).chunk(2)
    expected = v_0 + 3.0 * (v_i - v_0) + 6.0 * (v_it - v_i)
    torch.testing.assert_close(combine_guidance(negative, positive, 6.0), expected, atol=2e-4, rtol=1e-3)
    assert (v_it - v_i).abs().max() > 1e-3
    assert (v_i - v_0).abs().max() > 1e-3


def test_clips_for_a_causal_autoencoder_are_drawn_from_their_start(wan: WanBackbone, eye: Path, tmp_path: Path) -> None:
    wan.resolution = 64
    subjects = read_clip_subjects(clip_albums(tmp_path / "albums", frames=7))
    _, encoder = tiny_clip_system("sugar", wan, eye)
    data = encode_clip_subjects(subjects, wan, encoder, SilentReporter(), frames=5)
    assert [tuple(clip.shape) for clip in data.clips] == [(4, 2, 8, 8)] * 2
    drawn = data.draw(6, random())
    assert isinstance(drawn.shown, ShownWithLatents)
    for latents, said in zip(drawn.latents, drawn.captions, strict=True):
        assert torch.equal(latents, data.clips[data.told.index(said)].float())
    assert drawn.shown.latents.shape == (6, 1, 4, 8, 8)
    # The last of seven frames is behind the two latents that are drawn; those before it are in them.
    assert max(place for _, place in data.places) == 2
    shown_places = {data.places[row] for clip in range(2) for row in data._beside(clip, 0).tolist()}
    assert {place for _, place in shown_places} == {2}
    with pytest.raises(UsageError, match="multiple of 4 frames and one more, got 1, 0.0 and 6; take 5"):
        encode_clip_subjects(subjects, wan, encoder, SilentReporter(), frames=6)


def test_a_clip_model_made_of_an_image_model_is_no_transformer() -> None:
    with pytest.raises(UsageError, match=r"shows photos to a video transformer.*Wan 2\.1"):
        transformer_model(type("Other", (), {"name": "tiny"})())  # type: ignore[arg-type]


@torch.no_grad()
def test_consisids_photo_stands_in_the_first_latent_and_details_behind_every_second_block(
    wan: WanBackbone, eye: Path
) -> None:
    """The first layer of latents and photo side by side, and one look at the details, written out."""
    adapter, _ = tiny_clip_system("consisid", wan, eye)
    assert isinstance(adapter, ConsisID)
    noisy, timestep = torch.randn(1, 4, 3, 8, 8, generator=random(1)), torch.tensor([400.0])
    photo = torch.randn(1, 1, 4, 8, 8, generator=random(2))
    features = torch.randn(1, 1, adapter.layers, 17, HIDDEN, generator=random(3))
    seen = ShownWithLatents(sight=Sight(features=features), latents=photo, noise=photo[:, 0])
    with adapter.inserted(wan):
        plain = wan.predict(noisy, timestep, wan.encode_prompt(["a dog"]))
        adapter.begin_stage("coarse")
        told = adapter.conditioned(wan, wan.encode_prompt, ["a dog"], seen)
        assert torch.equal(wan.predict(noisy, timestep, told), plain), "the photo's channels begin at nothing"
    at_random(adapter, wan)
    begun: list[Tensor] = []
    outputs: list[Tensor] = []
    with adapter.inserted(wan):
        first, blocks = wan.denoiser.patch_embedding, wan.denoiser.blocks
        hooks = [
            blocks[0].register_forward_pre_hook(lambda module, inputs: begun.append(inputs[0])),
            blocks[1].register_forward_pre_hook(lambda module, inputs: outputs.append(inputs[0])),
        ]
        for stage in ("coarse", "fine"):
            adapter.begin_stage(stage)
            wan.predict(noisy, timestep, adapter.conditioned(wan, wan.encode_prompt, ["a dog"], seen))
        padded = torch.cat([photo[:, 0, :, None], torch.zeros(1, 4, 2, 8, 8)], 2)
        weight = torch.cat([first.weight, adapter.low.weight], 1)
        joined = F.conv3d(torch.cat([noisy, padded], 1), weight, first.bias, stride=first.stride)
        torch.testing.assert_close(begun[0], joined.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-4)
        assert torch.equal(*begun), "both stages see the photo as a whole"
        coarse, fine = outputs
        details, look = adapter.details_of(features[:, 0]), adapter.looks[0]
        query = look.to_q(look.norm2(coarse)).unflatten(2, (2, 8)).transpose(1, 2)  # type: ignore[operator, union-attr]
        read = look.to_kv(look.norm1(details)).chunk(2, -1)  # type: ignore[operator]
        keys, values = (part.unflatten(2, (2, 8)).transpose(1, 2) for part in read)
        found = ((query @ keys.transpose(-1, -2) / 8**0.5).softmax(-1) @ values).transpose(1, 2).flatten(2)
        torch.testing.assert_close(fine - coarse, look.to_out(found), atol=1e-5, rtol=1e-4)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    assert adapter.places == (0,)
    trains = {stage.name: stage.trains for stage in adapter.stages}
    assert trains == {"coarse": ("low", "base"), "fine": ("low", "high", "base")}


def test_consisids_photos_are_noisy_in_half_of_the_steps_and_masks_count_in_half(wan: WanBackbone, eye: Path) -> None:
    adapter, encoder = tiny_clip_system("consisid", wan, eye)
    shown = ShownWithLatents(
        sight=Sight(features=torch.zeros(400, 1, 1)), latents=torch.zeros(400, 1, 4, 8, 8), noise=torch.zeros(1)
    )
    spread = adapter.prepared(shown, random()).latents.flatten(1).std(1)  # type: ignore[attr-defined]
    assert 160 < int((spread > 0).sum()) < 240
    assert float(spread[spread > 0].log().mean()) == pytest.approx(-3, abs=0.1)
    settings = ClipReferenceTraining(batch_size=2, masked=0.5, frames=5)
    data = SimpleNamespace(groups=())
    loss = ClipReferenceLoss(wan, adapter, data, settings, None, encoder=encoder)  # type: ignore[arg-type]
    cover = torch.zeros(400, 2, 8, 8)
    cover[:, :, 2:4] = 1.0
    weights = loss._weights(Directions(cover=cover), random())
    assert weights is not None
    masked = weights[:, 0, 0, 0, 0] == 0
    assert 160 < int(masked.sum()) < 240
    # sum(mask error) / sum(mask) is the mean of the error times these.
    torch.testing.assert_close(weights[masked].mean((1, 2, 3, 4)), torch.ones(int(masked.sum())))
    assert torch.equal(weights[masked][0, 0, :, 2:4], torch.full((2, 2, 8), 4.0))
    assert torch.equal(weights[~masked], torch.ones_like(weights[~masked]))
    alone = loss._weights(Directions(cover=torch.ones(4, 2, 8, 8)), random())
    assert torch.equal(alone, torch.ones(4, 1, 2, 8, 8)), "a mask of everything is the plain mean"  # type: ignore[arg-type]


def test_consisids_low_rank_option_leaves_the_transformer_whole(wan: WanBackbone, eye: Path) -> None:
    config = ConsisIDConfig(queries=2, identity_tokens=1, depth=5, heads=1, details=16, perceiver_heads=2, rank=2,
                            perceiver_head_width=8)  # fmt: skip
    adapter = build_clip_adapter(config, wan, Reading(sees="layers", width=HIDDEN, layers=2))
    with adapter.inserted(wan):
        count = sum(parameter.numel() for parameter in adapter.groups()["base"])
    # Two blocks, two attentions of four square layers of width 24 each.
    assert count == 2 * 2 * 4 * 2 * (24 + 24)
