"""Wan's transformer on tiny weights: parity with diffusers, what adapters touch, learning, and odd folders."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from torch import nn

from pcs_ext.errors import ModelError, UsageError
from pcs_ext.image.adapters import build_adapter
from pcs_ext.image.adapters.base import injected
from pcs_ext.image.evaluate.encoders import load_image_encoder
from pcs_ext.image.inversion import invert
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbone import LayerKind
from pcs_ext.video.backbones import load as loading
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.backbones.wan import WanBackbone
from pcs_ext.video.identity import IdentityConfig, IdentityLoss
from pcs_ext.video.learn import learn_motion
from pcs_ext.video.objectives import clip_loss
from pcs_ext.video.recipes import MOTIONS, LayersConfig
from pcs_ext.video.sample import ClipConfig, sample_clips, starting_noise
from tests.support.command_line import run
from tests.support.encoders import tiny_clip
from tests.support.tiny_wan import TOKENS, tiny_wan

OPTIONS: Any = {"device": "cpu", "precision": "fp32"}
PROMPT = "a red dog walks"
CONFIG = SampleConfig(scheduler="euler", num_inference_steps=4, guidance_scale=5.0, height=64, width=64)
CLIP = ClipConfig(frames=9)
KINDS = {
    "spatial": r"blocks\.\d+\.(attn1|ffn)\.",
    "spatial_self": r"blocks\.\d+\.attn1\.",
    "cross_attention": r"blocks\.\d+\.attn2\.",
    "temporal": r"blocks\.\d+\.(attn1|ffn)\.",
    "temporal_weights": r"blocks\.\d+\.(attn1|ffn)\.",
    "temporal_attention": r"blocks\.\d+\.attn1\.",
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan(tmp_path_factory.mktemp("wan") / "model")


@pytest.fixture
def wan(folder: Path) -> WanBackbone:
    backbone = load_video_backbone(folder, **OPTIONS)
    assert isinstance(backbone, WanBackbone)
    return backbone


def moving_square(frames: int = 17) -> torch.Tensor:
    picture = torch.full((3, frames, 32, 32), -0.5)
    for index in range(frames):
        picture[:, index, 8:20, index : index + 8] = 0.8
    return picture


def latents(frames: int = 3, clips: int = 1) -> torch.Tensor:
    return torch.randn(clips, 4, frames, 4, 4, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_sampling_equals_the_pipeline_of_diffusers(folder: Path, wan: WanBackbone) -> None:
    pipeline: Any = WanPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    noise = starting_noise(wan, [3], CONFIG, CLIP)
    assert noise.shape == (1, 4, 3, 8, 8)
    theirs = pipeline(
        prompt=PROMPT,
        negative_prompt="blue  cat &amp; snow",
        height=64,
        width=64,
        num_frames=9,
        num_inference_steps=4,
        guidance_scale=5.0,
        latents=noise,
        max_sequence_length=TOKENS,
        output_type="pt",
    ).frames
    negatives = ["blue  cat &amp; snow"]
    ours = sample_clips(wan, [PROMPT], seeds=[3], config=CONFIG, clip=CLIP, negative_prompts=negatives)
    assert ours.shape == (1, 3, 9, 64, 64)
    assert ours.std() > 0.05
    torch.testing.assert_close(ours.transpose(1, 2), 2 * theirs - 1, atol=2e-5, rtol=0)
    unguided = SampleConfig(**{**vars(CONFIG), "guidance_scale": 1.0})
    assert not torch.allclose(ours, sample_clips(wan, [PROMPT], seeds=[3], config=unguided, clip=CLIP), atol=1e-3)


@torch.no_grad()
def test_clips_of_a_batch_do_not_meet(wan: WanBackbone) -> None:
    together = sample_clips(wan, [PROMPT, "a cat"], seeds=[3, 4], config=CONFIG, clip=CLIP, batch_size=2)
    alone = sample_clips(wan, ["a cat"], seeds=[4], config=CONFIG, clip=CLIP)
    torch.testing.assert_close(together[1:], alone, atol=2e-5, rtol=0)


def test_clips_go_through_the_autoencoder_and_gradients_come_back(wan: WanBackbone) -> None:
    clips = moving_square(9)[None].requires_grad_()
    encoded = wan.encode_clips(clips)
    assert encoded.shape == (1, 4, 3, 4, 4)
    mean, deviation = (torch.tensor(wan.vae.config[key]) for key in ("latents_mean", "latents_std"))
    raw = wan.vae.encode(clips).latent_dist.mean
    shaped = (1, -1, 1, 1, 1)
    torch.testing.assert_close(encoded, (raw - mean.view(shaped)) / deviation.view(shaped))
    decoded = wan.decode_clips(encoded)
    assert decoded.shape == clips.shape
    torch.testing.assert_close(decoded, wan.vae.decode(raw).sample, atol=1e-5, rtol=0)
    decoded.square().mean().backward()
    assert clips.grad is not None
    assert clips.grad.abs().sum() > 0
    with torch.no_grad():
        picture = clips[:, :, 0]
        # Causal: the first latent knows the first frame alone.
        torch.testing.assert_close(wan.encode_images(picture), encoded[:, :, 0])
        assert wan.decode_latents(encoded[:, :, 0]).shape == picture.shape
        drawn = [wan.encode_clips(clips, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@torch.no_grad()
def test_the_autoencoder_ignores_autocast(wan: WanBackbone) -> None:
    clips = torch.rand(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = wan.encode_clips(clips)
        decoded = wan.decode_clips(latents)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(wan.encode_clips(clips), latents)
            assert torch.equal(wan.decode_clips(latents), decoded)


def test_frame_by_frame_every_latent_is_a_picture(wan: WanBackbone) -> None:
    noisy, timesteps, prompt = latents(3, 2), torch.tensor([100.5, 800.0]), wan.encode_prompt([PROMPT, "a cat"])
    whole = wan.predict(noisy, timesteps, prompt)
    with wan.frame_by_frame():
        apart = wan.predict(noisy, timesteps, prompt)
    pictures = [wan.predict(noisy[:, :, index], timesteps, prompt) for index in range(3)]
    torch.testing.assert_close(apart, torch.stack(pictures, 2), atol=1e-6, rtol=1e-5)
    assert (whole - apart).abs().max() > 1e-3
    assert torch.equal(wan.predict(noisy, timesteps, prompt), whole)


@torch.no_grad()
def test_states_by_layer_reach_their_layer(wan: WanBackbone) -> None:
    noisy, timesteps = latents(), torch.tensor([500.0])
    plain, other = wan.encode_prompt([PROMPT]), wan.encode_prompt(["blue cat"])

    def predicted(paths: tuple[str, ...]) -> torch.Tensor:
        def by_layer(timesteps: torch.Tensor, path: str) -> tuple[torch.Tensor, torch.Tensor]:
            states = (other if path in paths else plain).states
            return states, states

        return wan.predict(noisy, timesteps, Conditioning(states=plain.states, per_layer=by_layer))

    torch.testing.assert_close(predicted(()), wan.predict(noisy, timesteps, plain))
    torch.testing.assert_close(predicted(wan.cross_attention_paths()), wan.predict(noisy, timesteps, other))
    first, second = (predicted((path,)) for path in wan.cross_attention_paths())
    assert not torch.allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("kind", get_args(LayerKind))
def test_adapters_touch_the_declared_layers_and_nothing_else(wan: WanBackbone, kind: LayerKind) -> None:
    frozen = {name: value.clone() for name, value in wan.denoiser.state_dict().items()}
    noisy, prompt, timesteps = latents(), wan.encode_prompt([PROMPT]), torch.tensor([500.0])
    before = wan.predict(noisy, timesteps, prompt).detach()
    adapter = build_adapter("motion", LayersConfig(layers=kind, rank=2).adapter(wan))
    paths = {name for name, module in wan.denoiser.named_modules() if isinstance(module, nn.Linear)}
    with injected(wan, adapter):
        torch.testing.assert_close(wan.predict(noisy, timesteps, prompt), before)
        changed = {path for path in paths if not isinstance(wan.denoiser.get_submodule(path), nn.Linear)}
        parameters = [p for group in adapter.parameters().values() for p in group]
        for parameter in parameters:
            parameter.requires_grad_(True)
        wan.predict(noisy, timesteps, prompt).square().mean().backward()
        # Zero updates pass gradient to one of their two factors, all of them.
        assert sum(p.grad is not None and bool(p.grad.any()) for p in parameters) == len(parameters) // 2
        assert all(p.grad is None for p in wan.denoiser.parameters() if not p.requires_grad)
    pattern = re.compile(KINDS[kind] + r"(to_q|to_k|to_v|to_out\.0|net\.0\.proj|net\.2)$")
    assert changed == {path for path in paths if pattern.match(path)}
    assert changed
    after = wan.denoiser.state_dict()
    assert frozen.keys() == after.keys()
    assert all(torch.equal(frozen[name], after[name]) for name in frozen)


def test_full_size_layers_are_counted() -> None:
    with torch.device("meta"):
        denoiser = WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=30)
    linear = [name for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)]
    counts = {}
    for kind in get_args(LayerKind):
        patterns = WanBackbone.targets(None, kind).patterns  # pyright: ignore[reportArgumentType]
        counts[kind] = sum(any(re.search(pattern, name) for pattern in patterns) for name in linear)
    assert counts == {
        "spatial": 180,
        "spatial_self": 120,
        "cross_attention": 120,
        "temporal": 180,
        "temporal_attention": 120,
        "temporal_weights": 180,
    }


@pytest.mark.parametrize("id", ["motion-director", "temporal-lora", "vmc", "customize-a-video"])
def test_recipes_learn_save_load_and_leave(id: str, wan: WanBackbone, tmp_path: Path) -> None:
    noisy, prompt, timesteps = latents(), wan.encode_prompt([PROMPT]), torch.tensor([500.0])
    before = wan.predict(noisy, timesteps, prompt)
    motion = learn_motion([moving_square()], [PROMPT], tmp_path / "motion", backbone=wan, recipe=id, steps=2)
    assert torch.isfinite(torch.tensor(motion.data.training["losses"])).all()
    assert torch.equal(wan.predict(noisy, timesteps, prompt), before)
    with motion.applied(wan):
        assert not torch.equal(wan.predict(noisy, timesteps, prompt), before)
    assert torch.equal(wan.predict(noisy, timesteps, prompt), before)


def test_activations_computed_again_teach_the_same(wan: WanBackbone, tmp_path: Path) -> None:
    how: Any = {"backbone": wan, "recipe": "temporal-lora", "steps": 2}
    plain, again = (
        learn_motion([moving_square()], [PROMPT], tmp_path / str(saved), checkpoint_activations=saved, **how).data
        for saved in (False, True)
    )
    assert again.training["losses"] == pytest.approx(plain.training["losses"], rel=1e-5)
    for key, tensor in plain.tensors_of("motion").items():
        torch.testing.assert_close(again.tensors_of("motion")[key], tensor, atol=1e-5, rtol=1e-3)


def test_a_motion_lora_lowers_the_error_of_its_clip(wan: WanBackbone, tmp_path: Path) -> None:
    def error() -> float:
        generator, errors = torch.Generator().manual_seed(1), []
        with torch.no_grad():
            clean, prompt = wan.encode_clips(moving_square()[None]), wan.encode_prompt([PROMPT])
            for timesteps in torch.linspace(50, 950, 16):
                noise, level = torch.randn(clean.shape, generator=generator), timesteps[None]
                prediction = wan.predict(wan.schedule.add_noise(clean, noise, level), level, prompt)
                errors.append(clip_loss(prediction, wan.schedule.target(clean, noise, level)))
        return float(torch.stack(errors).mean())

    before, recipe = error(), MOTIONS["temporal-lora"].build("sd")
    motion = learn_motion([moving_square()], [PROMPT], tmp_path / "motion", backbone=wan, recipe=recipe, steps=80)
    with motion.applied(wan):
        after = error()
    assert after < 0.97 * before


def test_what_a_flow_cannot_do_is_said_before_it_is_loaded(
    folder: Path,
    clip: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def loaded(*arguments: object) -> WanBackbone:
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr(loading, "load_wan", loaded)
    flow, out = ("--base", folder, "--device", "cpu"), ("-o", tmp_path / "new")
    code, _, err = run("video", "make", "a dog", "--reference", clip, *flow, *out, capture=capsys)
    assert (code, "follows a flow, where no clip can be inverted; leave out --reference" in err) == (2, True), err
    code, _, err = run("video", "make", "a dog", "--refine", "1", *flow, *out, capture=capsys)
    assert (code, "follows a flow, and --refine mixes the noise of a schedule anew" in err) == (2, True), err
    learn = ("video", "learn", photos, "--noun", "dog", "--recipe", "personalvideo")
    code, _, err = run(*learn, *flow, *out, capture=capsys)
    assert (code, "personalvideo samples clips by DDIM while it learns" in err) == (2, True), err


def test_what_does_not_fit_is_said(wan: WanBackbone, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="follows a flow, which is sampled with scheduler 'euler'; got 'ddim'"):
        sample_clips(wan, [PROMPT], seeds=[0], config=SampleConfig(scheduler="ddim", height=64, width=64), clip=CLIP)
    with pytest.raises(UsageError, match="follows a flow; only models with a noise schedule are inverted"):
        invert(wan, latents(), [PROMPT], config=CONFIG)
    with pytest.raises(UsageError, match="follows a flow; an identity is learned where DDIM samples clips"):
        IdentityLoss(wan, {}, load_image_encoder(tiny_clip(tmp_path / "clip"), wan.device), [], [], IdentityConfig())
    with pytest.raises(UsageError, match="a multiple of 4 frames and one more, got 8; take 5"):
        sample_clips(wan, [PROMPT], seeds=[0], config=CONFIG, clip=ClipConfig(frames=8))
    with pytest.raises(UsageError, match="got 8; cut the clip to 5"):
        wan.encode_clips(torch.zeros(1, 3, 8, 32, 32))
    prompt = wan.encode_prompt([PROMPT])
    with pytest.raises(UsageError, match=r"multiples of \(16, 16\) pixels"):
        wan.predict(torch.zeros(1, 4, 1, 3, 4), torch.tensor([1.0]), prompt)
    with pytest.raises(UsageError, match="takes one prompt per clip, got 1 for 2 clips"):
        wan.predict(latents(3, 2), torch.tensor([1.0, 2.0]), prompt)
    assert wan.token_count("  a red\ndog ") == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer": ["diffusers", "LTXVideoTransformer3DModel"]}, "has LTXVideoTransformer3DModel as transformer"),
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "is a Wan 2.2 model"),
        ({"expand_timesteps": True}, "is a Wan 2.2 model"),
    ],
)
def test_other_transformers_are_named(folder: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | change))
    with pytest.raises(ModelError, match=message):
        load_video_backbone(other, **OPTIONS)


def test_incomplete_and_foreign_parts_are_named(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    scheduler = other / "scheduler" / "scheduler_config.json"
    before = scheduler.read_text()
    scheduler.write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    with pytest.raises(ModelError, match="scheduler DDIMScheduler is no flow-matching one"):
        load_video_backbone(other, **OPTIONS)
    scheduler.write_text(before)
    weights = other / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"not tensors at all")
    with pytest.raises(ModelError, match="safetensors is damaged or was fetched in part"):
        load_video_backbone(other, **OPTIONS)
    weights.unlink()
    with pytest.raises(ModelError, match=r"transformer has no \.safetensors file"):
        load_video_backbone(other, **OPTIONS)
    shutil.rmtree(other / "tokenizer")
    with pytest.raises(ModelError, match="has no folder tokenizer/"):
        load_video_backbone(other, **OPTIONS)
