"""What systems promise that are told more than words and photos, beyond the contract: which number enters where."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.reference.base import Reading
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.reference.base import ShownWithLatents
from pcs_ext.video.reference.clip_identity import ClipIdentityLoss
from pcs_ext.video.reference.clips import ClipData
from pcs_ext.video.reference.directions import Directions, coarser
from pcs_ext.video.reference.kinds import build_clip_adapter
from pcs_ext.video.reference.systems.dreamoving import DreaMoving, DreaMovingConfig
from pcs_ext.video.reference.systems.gen1 import Gen1, Gen1Config
from pcs_ext.video.reference.systems.motioncharacter import MotionCharacter, MotionCharacterConfig
from pcs_ext.video.reference.systems.videoassembler import VideoAssembler
from pcs_ext.video.reference.tracks import ClipTrack
from pcs_ext.video.reference.training import ClipReferenceLoss, ClipReferenceTraining
from tests.support.tiny_clip_reference import tiny_clip_system
from tests.support.tiny_reference import HIDDEN, at_random, tiny_vision
from tests.support.tiny_video import tiny_motion_adapter
from tests.support.written_out import looked


@pytest.fixture
def eye(tmp_path: Path) -> Path:
    return tiny_vision(tmp_path / "eye")


@pytest.fixture
def video(sd: AbstractUnetBackbone) -> AnimateDiffBackbone:
    return AnimateDiffBackbone(sd, tiny_motion_adapter(), name="tiny")


@torch.no_grad()
def test_motioncharacters_layers_add_identity_action_and_intensity_each_by_itself(
    video: AnimateDiffBackbone, eye: Path
) -> None:
    """out = text + lambda identity + alpha (action + intensity), written out for one layer and one frame."""
    config = MotionCharacterConfig(tokens=2, inner=16, heads=2, identity_strength=0.5, motion_strength=0.25)
    adapter = build_clip_adapter(config, video, Reading(sees="layers", width=HIDDEN, layers=1))
    assert isinstance(adapter, MotionCharacter)
    at_random(adapter, video)
    adapter.eval()
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 1, 1, 17, HIDDEN, generator=generator)
    latents = torch.zeros(1, 1, 4, 8, 8)
    told = Directions(intensity=torch.tensor([15.0]), actions=("jumps",))
    shown = ShownWithLatents(sight=Sight(features=features), latents=latents, noise=latents[0], directions=told)
    noisy, timesteps = torch.randn(1, 4, 2, 8, 8, generator=generator), torch.tensor([400])
    path = video.cross_attention_paths()[0]
    attention, entered, asked = video.denoiser.get_submodule(path), [], []
    hooks = [
        attention.to_out[0].register_forward_hook(lambda module, inputs, output: entered.append(inputs[0])),
        attention.to_q.register_forward_hook(lambda module, inputs, output: asked.append(output)),
    ]
    video.predict(noisy, timesteps, adapter.conditioned(video, video.encode_prompt, ["the dog"], shown))
    video.predict(noisy, timesteps, video.encode_prompt(["the dog"]))
    for hook in hooks:
        hook.remove()
    content, name = adapter.content, adapter.identity_maps.names[path]
    own = content.identity(features[0, 0, 0, :1]).reshape(2, 16)
    read = torch.cat([content.patches(features[0, 0, 0, 1:]), own])
    found = looked(content.to_q(own), content.to_k(read), content.to_v(read), 2)
    tokens = content.norm(content.proj(found))
    intensity = adapter.intensity.net(torch.tensor([[0.75]]))
    parts = (
        (adapter.identity_maps, tokens, 0.5),
        (adapter.action_maps, video.encode_prompt(["jumps"]).states[0], 0.25),
        (adapter.intensity_maps, intensity, 0.25),
    )
    for frame in range(2):
        expected = sum(
            strength * looked(asked[0][frame], maps.keys[name](tokens), maps.values[name](tokens), attention.heads)  # type: ignore[operator]
            for maps, tokens, strength in parts
        )
        torch.testing.assert_close(entered[0][frame] - entered[1][frame], expected, atol=1e-5, rtol=1e-4)


def test_motioncharacters_losses_count_what_moves_and_who_it_is(video: AnimateDiffBackbone, eye: Path) -> None:
    adapter, encoder = tiny_clip_system("motioncharacter", video, eye)
    speed = torch.zeros(2, 3, 8, 8)
    speed[0, 1, 2, 3], speed[0, 0, 0, 0] = 8.0, 2.0
    weights = adapter.weights(Directions(speed=speed))
    assert weights is not None
    assert weights.shape == (2, 1, 3, 8, 8)
    assert (float(weights[0, 0, 1, 2, 3]), float(weights[0, 0, 0, 0, 0])) == (2.0, 1.25)
    assert torch.equal(weights[1], torch.ones(1, 3, 8, 8)), "a still clip counts everywhere alike"
    loss = ClipIdentityLoss(weight=0.5, below=0.5, frames=2)
    estimate = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    shown = torch.randn(2, 1, 1, 17, HIDDEN, generator=torch.Generator().manual_seed(1))
    value = loss(video, encoder, estimate, torch.tensor([900, 100]), Shown(sight=Sight(features=shown)))
    with torch.no_grad():
        drawn = encoder(video.decode_latents(estimate[1][:, [0, 2]].transpose(0, 1)))[:, -1, 0]
        cosines = F.cosine_similarity(drawn, shown[1, 0, 0, :1], dim=-1)
    torch.testing.assert_close(value.detach(), 0.5 * (1 - cosines.mean()))
    (gradient,) = torch.autograd.grad(value, estimate)
    assert [bool(part.any()) for part in (gradient[0], gradient[1, :, 0], gradient[1, :, 1])] == [False, True, False]


@torch.no_grad()
def test_videoassemblers_pyramid_enters_beside_the_latents_and_numbers_weigh_text_and_picture(
    video: AnimateDiffBackbone, eye: Path
) -> None:
    """conv([z, r]) = conv(z) + conv(r), and out = a_text text + a_image image, written out for one layer."""
    adapter, _ = tiny_clip_system("videoassembler", video, eye)
    assert isinstance(adapter, VideoAssembler)
    generator = torch.Generator().manual_seed(0)
    path = video.cross_attention_paths()[0]
    name = adapter.maps.names[path]
    assert (float(adapter.text_weight[name]), float(adapter.image_weight[name])) == (1.0, 1.5)
    for weights in adapter.image_weight.values():
        weights.zero_()
    features = torch.randn(1, 2, 17, HIDDEN, generator=generator)
    sizes = [torch.randn(1, 1, 4, side, side, generator=generator) for side in (8, 12, 10)]
    shown = ShownWithLatents(
        sight=Sight(features=features), latents=sizes[0], noise=sizes[0][:, 0], pyramid=tuple(sizes[1:])
    )
    noisy, timesteps = torch.randn(1, 4, 2, 8, 8, generator=generator), torch.tensor([400])
    with adapter.inserted(video):
        told = adapter.conditioned(video, video.encode_prompt, ["the dog"], shown)
        plain = video.predict(noisy, timesteps, video.encode_prompt(["the dog"]))
        assert torch.equal(video.predict(noisy, timesteps, told), plain), "a_image 0 and no pyramid is the base"
    at_random(adapter, video)
    attention, first = video.denoiser.get_submodule(path), video.denoiser.conv_in
    asked, entered, begun = [], [], []
    hooks = [
        attention.to_q.register_forward_hook(lambda module, inputs, output: asked.append(output)),
        # Forward hooks see what pre-hooks made of the inputs.
        attention.to_out[0].register_forward_hook(lambda module, inputs, output: entered.append(inputs[0])),
        video.denoiser.down_blocks[0].register_forward_pre_hook(
            lambda module, inputs, named: begun.append(named["hidden_states"]), with_kwargs=True
        ),
    ]
    with adapter.inserted(video):
        told = adapter.conditioned(video, video.encode_prompt, ["the dog"], shown)
        video.predict(noisy, timesteps, told)
    for hook in hooks:
        hook.remove()
    levels = [level(picture[:, 0]) for level, picture in zip(adapter.entity.levels, sizes, strict=True)]
    sized = torch.cat([F.interpolate(level, size=(8, 8), mode="area") for level in levels], 1)
    both = torch.cat([noisy[:, :, 0], sized], 1)
    joined = F.conv2d(both, torch.cat([first.weight, adapter.entity.entering.weight], 1), first.bias, padding=1)
    torch.testing.assert_close(begun[0][:1], joined, atol=1e-5, rtol=1e-4)
    assert (joined - first(noisy[:, :, 0])).abs().max() > 1e-2
    text = video.encode_prompt(["the dog"]).states[0]
    tokens = adapter.queries(features[0]).flatten(0, 1)
    keys, values = (maps[name](tokens) for maps in (adapter.maps.keys, adapter.maps.values))  # type: ignore[operator]
    for frame in range(2):
        query = asked[0][frame]
        of_text = looked(query, attention.to_k(text), attention.to_v(text), attention.heads)
        of_image = looked(query, keys, values, attention.heads)
        expected = adapter.text_weight[name] * of_text + adapter.image_weight[name] * of_image
        torch.testing.assert_close(entered[0][frame], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_gen_1s_content_stands_in_the_prompts_place_and_structure_beside_the_latents(
    video: AnimateDiffBackbone, eye: Path
) -> None:
    adapter, _ = tiny_clip_system("gen-1", video, eye)
    assert isinstance(adapter, Gen1)
    at_random(adapter, video)
    adapter.eval()
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1, 3, 2, 32, 32, generator=generator) * 2 - 1
    embedding = torch.randn(1, 1, 16, generator=generator)
    noisy, timesteps = torch.randn(1, 4, 2, 8, 8, generator=generator), torch.tensor([400])
    entered, found = [], []
    path = video.cross_attention_paths()[0]
    attention = video.denoiser.get_submodule(path)
    hooks = [
        video.denoiser.down_blocks[0].register_forward_pre_hook(
            lambda module, inputs, named: entered.append(named["hidden_states"]), with_kwargs=True
        ),
        attention.to_out[0].register_forward_hook(lambda module, inputs, output: found.append(inputs[0])),
    ]
    with adapter.inserted(video):
        first = video.denoiser.conv_in
        told = adapter.conditioned(
            video, video.encode_prompt, ["the dog"], drawn_over(embedding, maps, coarseness=torch.tensor([1]))
        )
        video.predict(noisy, timesteps, told)
        coarse = coarser(maps, 1)
        beside = torch.cat([video.encode_clips(coarse), torch.full((1, 1, 2, 8, 8), 0.5)], 1)
        weight = torch.cat([first.weight, adapter.entering.weight], 1)
        for frame in range(2):
            both = torch.cat([noisy[:, :, frame], beside[:, :, frame]], 1)
            expected = F.conv2d(both, weight, first.bias, padding=1)
            torch.testing.assert_close(entered[0][frame : frame + 1], expected, atol=1e-5, rtol=1e-4)
        # One token that stands in all places is found as one token is.
        value = attention.to_v(adapter.content(embedding[0]))
        torch.testing.assert_close(found[0], value.expand_as(found[0]), atol=1e-5, rtol=1e-4)
    for hook in hooks:
        hook.remove()


def drawn_over(embedding: Tensor, maps: Tensor, **told: Any) -> ShownWithLatents:
    """A photo and the maps of a clip; it is seen in the last row."""
    nothing = torch.zeros(len(maps), 1, 4, 8, 8)
    seen = torch.arange(len(maps)) == len(maps) - 1
    return ShownWithLatents(
        sight=Sight(features=embedding.expand(len(maps), -1, -1)), latents=nothing, noise=nothing[:, 0], seen=seen,
        directions=Directions(maps=maps, **told),
    )  # fmt: skip


@torch.no_grad()
def test_gen_1s_temporal_guidance_goes_away_from_frames_one_by_one(video: AnimateDiffBackbone, eye: Path) -> None:
    """m_frames(0, s) + w_t (m(0, s) - m_frames(0, s)) + w (m(c, s) - m(0, s)); at w_t = 1 plain guidance."""
    adapter, _ = tiny_clip_system("gen-1", video, eye)
    at_random(adapter, video)
    adapter.eval()
    generator = torch.Generator().manual_seed(0)
    maps = (torch.rand(1, 3, 2, 32, 32, generator=generator) * 2 - 1).expand(2, -1, -1, -1, -1)
    embedding = torch.randn(1, 1, 16, generator=generator)
    noisy, timesteps = torch.randn(1, 4, 2, 8, 8, generator=generator), torch.tensor([400])

    def predicted(weight: float) -> Tensor:
        shown = drawn_over(embedding, maps, temporal_guidance=weight)
        told = adapter.conditioned(video, video.encode_prompt, ["", "the dog"], shown)
        return video.predict(noisy.repeat(2, 1, 1, 1, 1), timesteps.repeat(2), told)

    with adapter.inserted(video):
        nothing, content = predicted(1.0).chunk(2)
        with video.frame_by_frame():
            apart = predicted(1.0).chunk(2)[0]
        negative, positive = predicted(1.5).chunk(2)
    guided = combine_guidance(negative, positive, 3.0)
    expected = apart + 1.5 * (nothing - apart) + 3.0 * (content - nothing)
    torch.testing.assert_close(guided, expected, atol=5e-5, rtol=1e-3)
    assert (nothing - apart).abs().max() > 1e-3


def test_gen_1_learns_from_frames_and_clips_and_how_coarse_their_maps_are(
    video: AnimateDiffBackbone, eye: Path
) -> None:
    config = Gen1Config(structure="edges", halvings=3, still_share=0.5)
    adapter = build_clip_adapter(config, video, Reading(sees="embedding", width=16))
    maps = torch.zeros(3, 5, 32, 32, dtype=torch.uint8)
    data = ClipData(
        latents=torch.zeros(2, 4, 8, 8), features=torch.zeros(2, 16), captions=[("",)] * 2,
        groups=torch.arange(2).reshape(2, 1).unbind(0), clips=[torch.zeros(4, 5, 8, 8)] * 2, told=["a dog"] * 2,
        owners=[0, 1], places=[(-1, -1)] * 2, frames=3, tracks=[ClipTrack(maps=maps)] * 2,
    )  # fmt: skip
    settings = ClipReferenceTraining(batch_size=4, drop_image=0.0, drop_text=0.0, drop_both=0.0, frames=3)
    loss = ClipReferenceLoss(video, adapter, data, settings, Sight(features=torch.zeros(16)))
    drawn = [loss._drawn(torch.Generator().manual_seed(seed)) for seed in range(40)]
    frames = [pairs.latents.shape[2] if pairs.latents.dim() == 5 else 1 for pairs in drawn]
    assert 10 < frames.count(1) < 30
    assert set(frames) == {1, 3}
    for count, pairs in zip(frames, drawn, strict=True):
        assert pairs.shown.directions.maps.shape[2] == count  # type: ignore[attr-defined]
    levels = {int(level) for pairs in drawn for level in pairs.shown.directions.coarseness}  # type: ignore[attr-defined]
    assert levels == {0, 1, 2, 3}


@torch.no_grad()
def test_dreamovings_controlnet_leads_every_frame_as_diffusers_has_it_and_its_frames_see_each_other(
    video: AnimateDiffBackbone, eye: Path
) -> None:
    adapter, _ = tiny_clip_system("dreamoving", video, eye)
    assert isinstance(adapter, DreaMoving)
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1, 3, 2, 32, 32, generator=generator) * 2 - 1
    features = torch.randn(1, 2, 1, 17, HIDDEN, generator=generator)
    noisy, timesteps = torch.randn(1, 4, 2, 8, 8, generator=generator), torch.tensor([400])

    def told(seen: bool = False, directed: Tensor = maps) -> Conditioning:
        nothing = torch.zeros(1, 2, 4, 8, 8)
        shown = ShownWithLatents(
            sight=Sight(features=features), latents=nothing, noise=nothing[:, 0], seen=torch.tensor([seen]),
            directions=Directions(maps=directed),
        )  # fmt: skip
        return adapter.conditioned(video, video.encode_prompt, ["the dog"], shown)

    plain = video.encode_prompt(["the dog"])
    with adapter.inserted(video):
        assert torch.equal(video.predict(noisy, timesteps, told()), video.predict(noisy, timesteps, plain)), (
            "nothing yet"
        )
    at_random(adapter, video)
    control: Any = adapter.control.net
    with adapter.inserted(video):
        led = video.predict(noisy, timesteps, told())
        with video.frame_by_frame():
            clip = video.predict(noisy, timesteps, told())
        for frame in range(2):
            own = noisy[:, :, frame]
            down, middle = control(own, timesteps, encoder_hidden_states=plain.states,
                                   controlnet_cond=(maps[:, :, frame] + 1) / 2, return_dict=False)  # fmt: skip
            expected = video.denoiser(
                own, timesteps, encoder_hidden_states=plain.states, down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample  # fmt: skip
            torch.testing.assert_close(clip[:, :, frame], expected, atol=2e-5, rtol=1e-4)
        states = plain.states.expand(2, -1, -1)
        flat, flat_maps = noisy[0].transpose(0, 1), maps[0].transpose(0, 1)
        other = torch.cat([flat_maps[:1], -flat_maps[1:]])
        both = [adapter.control(video, flat, timesteps.expand(2), states, one, 2)[1][0] for one in (flat_maps, other)]
        assert not torch.allclose(*both, atol=1e-4), "a frame's part depends on the other frame's map"
    assert not torch.allclose(led, clip, atol=1e-3)


@torch.no_grad()
def test_dreamovings_guider_adds_a_look_at_the_face_and_one_at_the_clothes(
    video: AnimateDiffBackbone, eye: Path
) -> None:
    config = DreaMovingConfig(structure="edges", face_tokens=2, cloth_tokens=2, inner=16, heads=1, depth=1,
                              face_strength=0.5, cloth_strength=0.25)  # fmt: skip
    adapter = build_clip_adapter(config, video, Reading(sees="layers", width=HIDDEN, layers=1))
    assert isinstance(adapter, DreaMoving)
    at_random(adapter, video)
    adapter.begin_stage("content")
    features = torch.randn(1, 2, 1, 17, HIDDEN, generator=torch.Generator().manual_seed(0))
    told = adapter.conditioned(video, video.encode_prompt, ["the dog"], Shown(sight=Sight(features=features)))
    path = video.cross_attention_paths()[0]
    parts = (
        (adapter.face_maps, adapter.face(features[:, 0, 0, 0]), 0.5),
        (adapter.cloth_maps, adapter.cloth(features[:, 1, 0, 1:]), 0.25),
    )
    for source, (maps, tokens, strength) in zip(told.decoupled, parts, strict=True):
        name = maps.names[path]
        torch.testing.assert_close(source.pairs[path][0], tokens @ maps.keys[name].weight.T)  # type: ignore[operator, union-attr]
        torch.testing.assert_close(source.pairs[path][1], strength * tokens @ maps.values[name].weight.T)  # type: ignore[operator, union-attr]
    stages = [(stage.name, stage.trains, stage.still) for stage in adapter.stages]
    assert stages == [
        ("content", ("content",), True), ("motion", ("base",), False), ("control", ("control",), False),
        ("expression", ("base",), False),
    ]  # fmt: skip
    with adapter.inserted(video):
        trained = {id(parameter) for parameter in adapter.groups()["base"]}
        assert trained == {id(parameter) for parameter in video.motion.parameters()}
