"""What single systems promise beyond the contract: where a photo enters a clip model, and by how much."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.attention import self_attention_paths
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.reference.base import Reading
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.backbones.inflated import InflatedBackbone
from pcs_ext.video.reference.base import ShownWithLatents, clip_model, frames_beside
from pcs_ext.video.reference.clips import ClipData
from pcs_ext.video.reference.kinds import build_clip_adapter
from pcs_ext.video.reference.systems.id_animator import IDAnimator
from pcs_ext.video.reference.systems.stylecrafter import StyleCrafter
from pcs_ext.video.reference.systems.videobooth import VideoBooth
from pcs_ext.video.reference.training import ClipReferenceTraining
from tests.support.tiny_clip_reference import TINY_CLIP_SYSTEMS, tiny_clip_system
from tests.support.tiny_reference import HIDDEN, at_random, tiny_vision
from tests.support.tiny_video import tiny_motion_adapter
from tests.support.written_out import looked


@pytest.fixture
def eye(tmp_path: Path) -> Path:
    return tiny_vision(tmp_path / "eye")


@pytest.fixture
def video(sd: AbstractUnetBackbone) -> AnimateDiffBackbone:
    return AnimateDiffBackbone(sd, tiny_motion_adapter(), name="tiny")


def numbered_clips(photos: bool) -> ClipData:
    """Two subjects of one clip each, whose latents tell the frame; a picture's features tell which one it is."""
    frames = torch.arange(6.0)
    places = [(-1, -1)] * 4 if photos else [(0, 0), (0, 5), (1, 0), (1, 3)]
    return ClipData(
        latents=torch.zeros(4, 1, 1, 1), features=torch.arange(4.0)[:, None], captions=[("",)] * 4,
        groups=torch.arange(4).reshape(2, 2).unbind(0), nouns=[("dog",), ("cat",)],
        clips=[(100 * clip + frames)[None, :, None, None] for clip in range(2)], told=["the dog", "the cat"],
        owners=[0, 1], places=places, frames=3,
    )  # fmt: skip


def test_the_picture_that_is_shown_is_another_one_than_those_that_are_drawn() -> None:
    data = numbered_clips(photos=False)
    drawn = data.draw(400, torch.Generator().manual_seed(0))
    first, last = drawn.latents[:, 0, 0, 0, 0], drawn.latents[:, 0, -1, 0, 0]
    assert torch.equal(last, first + 2)
    assert isinstance(drawn.shown, ShownWithLatents)
    seen = set()
    pictures = drawn.shown.sight.features.flatten().tolist()
    for begin, picture, noun in zip(first.tolist(), pictures, drawn.shown.nouns, strict=True):
        clip, frame = data.places[int(picture)]
        assert (clip, noun) == (int(begin) // 100, (("dog",), ("cat",))[clip])
        assert not begin % 100 <= frame <= begin % 100 + 2
        seen.add((int(begin) % 100, int(picture)))
    # Of the second subject only frame 0 is free where its other picture, frame 3, is drawn, and the reverse.
    assert {start for start, picture in seen if picture == 2} == {1, 2, 3}
    assert {start for start, picture in seen if picture == 3} == {0}
    photos = numbered_clips(photos=True).draw(400, torch.Generator().manual_seed(0), photos=2)
    assert set(photos.shown.sight.features.flatten().tolist()) == {0.0, 1.0, 2.0, 3.0}
    with pytest.raises(ConfigError, match="frozen must be a share"):
        ClipReferenceTraining(frozen=1.5)


@torch.no_grad()
def test_id_animators_photos_stand_beside_the_text_of_every_frame_alike(video: AnimateDiffBackbone, eye: Path) -> None:
    """Frame by frame the clip model gives what the image model gives; several photos are averaged tokens."""
    adapter, _ = tiny_clip_system("id-animator", video, eye)
    assert isinstance(adapter, IDAnimator)
    at_random(adapter, video)
    adapter.eval()
    features = torch.randn(1, 2, 17, HIDDEN, generator=torch.Generator().manual_seed(1))
    tokens = adapter.tokens(Shown(sight=Sight(features=features)))
    single = [adapter.queries(features[:, index]) for index in range(2)]
    torch.testing.assert_close(tokens, (single[0] + single[1]) / 2)
    noisy, timesteps = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([500])
    with adapter.inserted(video), video.frame_by_frame():
        told = adapter.conditioned(video, video.encode_prompt, ["the dog"], Shown(sight=Sight(features=features)))
        clip = video.predict(noisy, timesteps, told)
        for frame in range(3):
            picture = video.image.predict(noisy[:, :, frame], timesteps, told)
            torch.testing.assert_close(clip[:, :, frame], picture, atol=2e-5, rtol=0)
    keys, values = next(iter(told.decoupled[0].pairs.values()))
    path = next(iter(adapter.maps.names))
    torch.testing.assert_close(keys, tokens @ adapter.maps.keys[adapter.maps.names[path]].weight.T)  # type: ignore[operator, union-attr]
    assert values.shape == keys.shape


@torch.no_grad()
@pytest.mark.parametrize("inflated", [True, False])
def test_videobooths_first_frame_looks_at_the_photo_and_passes_on_what_it_finds(
    inflated: bool, sd: AbstractUnetBackbone
) -> None:
    """The update of the first frame's values and the attention of all frames, written out for one layer."""
    video: Any = InflatedBackbone(sd) if inflated else AnimateDiffBackbone(sd, tiny_motion_adapter())
    adapter = build_clip_adapter(TINY_CLIP_SYSTEMS["videobooth"], video, Reading(sees="layers", width=8, layers=2))
    assert isinstance(adapter, VideoBooth)
    path = self_attention_paths(video)[0]
    network: Any = adapter.passing[adapter.names[path]]
    attention = sd.denoiser.get_submodule(path)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    width = attention.to_q.weight.shape[1]
    frames, photo = torch.randn(1, 3, 4, width, generator=generator), torch.randn(1, 4, width, generator=generator)
    found = network(attention, frames, photo, "sparse-causal" if inflated else None)[0]
    query = [attention.to_q(frames[0, f]) for f in range(3)]
    keys = [frames[0, f] @ (attention.to_k.weight + network.frame_keys.weight).T for f in range(3)]
    values = [frames[0, f] @ (attention.to_v.weight + network.frame_values.weight).T for f in range(3)]
    photo_keys = photo[0] @ (attention.to_k.weight + network.photo_keys.weight).T
    photo_values = photo[0] @ (attention.to_v.weight + network.photo_values.weight).T
    values[0] = looked(
        query[0], torch.cat([photo_keys, keys[0]]), torch.cat([photo_values, values[0]]), attention.heads
    )
    for f in range(3):
        other = max(f - 1, 0) if inflated else f
        mixed = looked(
            query[f], torch.cat([keys[0], keys[other]]), torch.cat([values[0], values[other]]), attention.heads
        )
        torch.testing.assert_close(found[f], attention.to_out[0](mixed), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_videobooths_words_stand_for_the_noun_and_the_photo_is_read_in_the_second_stage(
    video: AnimateDiffBackbone, eye: Path
) -> None:
    adapter, encoder = tiny_clip_system("videobooth", video, eye)
    assert isinstance(adapter, VideoBooth)
    at_random(adapter, video)
    adapter.eval()
    assert encoder.layers == (2, 1)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 1, 2, 17, HIDDEN, generator=generator)
    texts: list[str] = []

    def encode(prompts: Any, *, size: Any = None) -> Conditioning:
        texts.extend(prompts)
        return video.encode_prompt(prompts, size=size)

    noisy, timesteps = torch.randn(1, 4, 3, 8, 8, generator=generator), torch.tensor([400])
    noise = torch.randn(1, 4, 8, 8, generator=generator)

    def drawn(photo: float) -> Tensor:
        latents = torch.full((1, 1, 4, 8, 8), photo)
        shown = ShownWithLatents(sight=Sight(features=features), nouns=(("dog",),), latents=latents, noise=noise)
        return video.predict(noisy, timesteps, adapter.conditioned(video, encode, ["the dog on beach"], shown))

    with adapter.inserted(video):
        adapter.begin_stage("coarse")
        assert torch.equal(drawn(0.5), drawn(-0.5)), "words alone"
        adapter.begin_stage("fine")
        assert (drawn(0.5) - drawn(-0.5)).abs().amax((1, 3, 4)).min() > 1e-4, "the photo reaches every frame"
    assert set(texts) == {"the <reference>_1 <reference>_2 on beach"}
    groups = {stage.name: stage.trains for stage in adapter.stages}
    assert groups == {"coarse": ("words", "base"), "fine": ("words", "base", "fine")}


@torch.no_grad()
def test_stylecrafters_layers_add_a_normalised_look_times_a_predicted_number(
    video: AnimateDiffBackbone, eye: Path
) -> None:
    adapter, _ = tiny_clip_system("stylecrafter", video, eye)
    assert isinstance(adapter, StyleCrafter)
    at_random(adapter, video)
    adapter.train()  # without guidance
    generator = torch.Generator().manual_seed(0)
    shown = Shown(sight=Sight(features=torch.randn(1, 1, 1, 17, HIDDEN, generator=generator)))
    noisy, timesteps = torch.randn(1, 4, 2, 8, 8, generator=generator), torch.tensor([400])
    path = video.cross_attention_paths()[0]
    attention, entered, asked = video.denoiser.get_submodule(path), [], []
    hooks = [
        attention.to_out[0].register_forward_hook(lambda module, inputs, output: entered.append(output)),
        attention.to_q.register_forward_hook(lambda module, inputs, output: asked.append(output)),
    ]
    with adapter.inserted(video):
        told = adapter.conditioned(video, video.encode_prompt, ["the dog"], shown)
        video.predict(noisy, timesteps, told)
        video.predict(noisy, timesteps, video.encode_prompt(["the dog"]))
    for hook in hooks:
        hook.remove()
    tokens = adapter.style_tokens(shown.sight.features[:, :, 0])
    strengths = adapter.strengths(told.states, tokens)
    assert strengths.shape == (1, len(video.cross_attention_paths()))
    assert strengths.min() > 0
    assert strengths.max() < 2
    name = adapter.maps.names[path]
    norm: Any = adapter.norms[name]
    keys, values = (maps[name](tokens)[0] for maps in (adapter.maps.keys, adapter.maps.values))  # type: ignore[operator]
    for frame in range(2):
        look = looked(asked[0][frame], keys, values, attention.heads)
        added = strengths[0, 0] * F.layer_norm(look, look.shape[-1:], norm.weight, norm.bias)
        difference = entered[0][frame] - entered[1][frame]
        torch.testing.assert_close(difference, added @ attention.to_out[0].weight.T, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_stylecrafters_guidance_is_that_of_text_and_that_of_style(video: AnimateDiffBackbone, eye: Path) -> None:
    """eps_0 + l_t (eps_t - eps_0) + l_s (eps_ts - eps_t) with l_t = 15 and l_s = 7.5."""
    adapter, _ = tiny_clip_system("stylecrafter", video, eye)
    at_random(adapter, video)
    generator = torch.Generator().manual_seed(0)
    shown = Shown(sight=Sight(features=torch.randn(1, 1, 1, 17, HIDDEN, generator=generator)))
    noisy, timesteps = torch.randn(1, 4, 2, 8, 8, generator=generator), torch.tensor([400])
    with adapter.inserted(video):
        nothing, text = video.encode_prompt([""]), video.encode_prompt(["the dog"])
        both = adapter.conditioned(video, video.encode_prompt, ["the dog"], shown)
        eps_0, eps_t = (video.predict(noisy, timesteps, told) for told in (nothing, text))
        adapter.train()
        eps_ts = video.predict(noisy, timesteps, both)
        adapter.eval()
        rows = Conditioning.cat([nothing, both])
        negative, positive = video.predict(noisy.repeat(2, 1, 1, 1, 1), timesteps.repeat(2), rows).chunk(2)
    expected = eps_0 + 15 * (eps_t - eps_0) + 7.5 * (eps_ts - eps_t)
    torch.testing.assert_close(combine_guidance(negative, positive, 15.0), expected, atol=5e-4, rtol=1e-3)
    assert (eps_ts - eps_t).abs().max() > 1e-3


def test_stylecrafters_second_stage_trains_the_temporal_attention_alone(video: AnimateDiffBackbone, eye: Path) -> None:
    adapter, _ = tiny_clip_system("stylecrafter", video, eye)
    assert [(stage.name, stage.trains, stage.still) for stage in adapter.stages] == [  # type: ignore[attr-defined]
        ("style", ("reference",), True), ("motion", ("base",), False),
    ]  # fmt: skip
    with adapter.inserted(video):
        trained = {id(parameter) for parameter in adapter.groups()["base"]}
        places = [name for name, parameter in video.motion.named_parameters() if id(parameter) in trained]
        assert not any(id(parameter) in trained for parameter in video.denoiser.parameters())
    temporal = [name for name, _ in video.motion.named_parameters() if ".attn1.to_" in name or ".attn2.to_" in name]
    assert places == temporal


@torch.no_grad()
def test_videomakers_frames_and_photo_attend_to_each_other_and_to_no_one_else(
    video: AnimateDiffBackbone, eye: Path
) -> None:
    """One self-attention written out: each frame with the photo behind it; the photo's own result is their mean."""
    adapter, _ = tiny_clip_system("videomaker", video, eye)
    assert not list(adapter.parameters()), "nothing is added"
    generator = torch.Generator().manual_seed(0)
    path = self_attention_paths(video)[0]
    attention, text = video.denoiser.get_submodule(path), video.denoiser.get_submodule(path.replace("attn1", "attn2"))
    passed: dict[str, Tensor] = {}
    noisy, timesteps = torch.randn(1, 4, 2, 8, 8, generator=generator), torch.tensor([400])
    shown = ShownWithLatents(
        sight=Sight(features=torch.zeros(1, 1, 16)), latents=torch.randn(1, 1, 4, 8, 8, generator=generator),
        noise=torch.randn(1, 4, 8, 8, generator=generator),
    )  # fmt: skip
    adapter.eval()
    with adapter.inserted(video):
        told = adapter.conditioned(video, video.encode_prompt, ["the dog"], shown)
        # What the block's next layers are handed is what the hooks made of the attentions' outputs.
        block = video.denoiser.get_submodule(path.removesuffix(".attn1"))
        hooks = [
            attention.register_forward_pre_hook(lambda module, inputs: passed.update(into=inputs[0])),
            block.register_forward_pre_hook(lambda module, inputs: passed.update(before=inputs[0])),
            block.norm2.register_forward_pre_hook(lambda module, inputs: passed.update(after=inputs[0])),
            block.norm3.register_forward_pre_hook(lambda module, inputs: passed.update(told=inputs[0])),
        ]
        video.predict(noisy, timesteps, told)
        for hook in hooks:
            hook.remove()
    assert text is not attention
    frames, photo = passed["into"][:2], passed["into"][2]
    found = []
    for frame in frames:
        both = torch.cat([frame, photo])
        query, key, value = (layer(both) for layer in (attention.to_q, attention.to_k, attention.to_v))
        found.append(attention.to_out[0](looked(query, key, value, attention.heads)).split(len(frame)))
    change = passed["after"] - passed["before"]
    for index in range(2):
        torch.testing.assert_close(change[index], found[index][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(change[2], (found[0][1] + found[1][1]) / 2, atol=1e-5, rtol=1e-4)
    assert torch.equal(passed["told"][2], passed["after"][2]), "the photo does not look at the text"
    assert not torch.equal(passed["told"][0], passed["after"][0])


@torch.no_grad()
def test_a_picture_beside_a_clip_changes_nothing_in_it_by_itself(video: AnimateDiffBackbone) -> None:
    generator = torch.Generator().manual_seed(0)
    noisy, pictures = torch.randn(2, 4, 3, 8, 8, generator=generator), torch.randn(2, 4, 8, 8, generator=generator)
    timesteps, early, told = torch.tensor([500, 20]), torch.tensor([5, 0]), video.encode_prompt(["the dog", "a cat"])
    clips, seen = video.predict_beside(noisy, pictures, timesteps, early, told)
    torch.testing.assert_close(clips, video.predict(noisy, timesteps, told), atol=2e-5, rtol=0)
    alone = video.predict(pictures, early, video.encode_prompt(["", ""]))
    torch.testing.assert_close(seen, alone, atol=2e-5, rtol=0)


def test_a_clip_model_of_one_piece_is_refused_and_frames_are_counted(video: AnimateDiffBackbone) -> None:
    with pytest.raises(UsageError, match="made of an image model"):
        clip_model(video.image)
    told = video.encode_prompt(["a", "b"])
    assert frames_beside(torch.zeros(2, 4, 3, 8, 8), told) == 3
    assert frames_beside(torch.zeros(2, 4, 8, 8), told) == 1
    assert frames_beside(torch.zeros(1, 4, 2, 8, 8), told) == 1
