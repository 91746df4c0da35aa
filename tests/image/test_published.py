"""Folders laid out as the published ones are open, compute what diffusers computes, or say what is missing."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionInpaintPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from pcs_ext.errors import ModelError
from pcs_ext.image.backbones import single_file
from pcs_ext.image.backbones.hub import is_sdxl, model_folder, needed_files
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.learn import preset_of
from pcs_ext.image.sample import SampleConfig, sample
from tests.support.published import Kind, published_config, published_file, published_folder

PROMPT, SIDE = "a photo of a red dog! on the beach", 64


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Narrow models of the published depth, each once; do not change them."""
    folder = tmp_path_factory.mktemp("published")
    for kind in ("sd15", "sd15-inpainting", "sd21", "sdxl"):
        published_folder(folder / kind, kind, share=20, cells=SIDE // 8)
    return folder


def stock(folder: Path) -> Any:
    """diffusers' own pipeline, sampling as `SampleConfig(scheduler="ddim")` does."""
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    pipeline.set_progress_bar_config(disable=True)
    options = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": False}
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **options)
    return pipeline


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl", "sd15-inpainting"])
def test_pictures_are_those_of_the_published_pipelines(models: Path, kind: Kind) -> None:
    backbone = load_backbone(models / kind, device="cpu", precision="fp32")
    assert backbone.schedule.prediction_type == ("v_prediction" if kind == "sd21" else "epsilon")
    assert backbone.resolution == SIDE
    pipeline = stock(models / kind)
    noise = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(3))
    asked = {"latents": noise, "num_inference_steps": 2, "guidance_scale": 5.0, "output_type": "pt"}
    if isinstance(pipeline, StableDiffusionInpaintPipeline):
        white, gray = Image.new("L", (SIDE, SIDE), 255), Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
        asked |= {"image": gray, "mask_image": white, "height": SIDE, "width": SIDE, "strength": 1.0}
        # Of its own the pipeline draws from the posterior; the mean has no luck in it.
        with torch.no_grad():
            blank = pipeline.vae.encode(torch.zeros(1, 3, SIDE, SIDE)).latent_dist.mean
        asked |= {"masked_image_latents": blank * pipeline.vae.config.scaling_factor}
    with torch.no_grad():
        made: Any = pipeline(PROMPT, **asked)
        ours = sample(backbone, [PROMPT], seeds=[3], config=SampleConfig(scheduler="ddim", num_inference_steps=2,
                                                                         guidance_scale=5.0))  # fmt: skip
    torch.testing.assert_close(ours, made.images.float() * 2 - 1, atol=5e-3, rtol=0)


def test_half_precision_files_and_shards_are_the_same_model(models: Path, tmp_path: Path) -> None:
    plain = load_backbone(models / "sd15", device="cpu", precision="bf16")
    for name, options in {"half": {"variant": "fp16"}, "parts": {"shards": 3}}.items():
        folder = published_folder(tmp_path / name, "sd15", share=20, cells=SIDE // 8, **options)
        other = load_backbone(folder, device="cpu", precision="bf16")
        assert other.fingerprint == plain.fingerprint
        for ours, theirs in zip(other.denoiser.parameters(), plain.denoiser.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=2**-7)
    both = tmp_path / "half"
    for part in ("unet", "vae", "text_encoder"):
        shutil.copytree(models / "sd15" / part, both / part, dirs_exist_ok=True)
    assert load_backbone(both, device="cpu", precision="fp32").denoiser.conv_in.weight.unique().numel() > 500


def _only_pickles(unet: Path) -> None:
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / "diffusion_pytorch_model.bin")


def _git_note(unet: Path) -> None:
    note = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3438167540\n"
    (unet / "diffusion_pytorch_model.safetensors").write_text(note)


def _cut_off(unet: Path) -> None:
    file = unet / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _one_shard_of_two(unet: Path) -> None:
    file = unet / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    file.unlink()
    places = dict.fromkeys(state, "diffusion_pytorch_model-00001-of-00002.safetensors")
    places["conv_in.bias"] = "diffusion_pytorch_model-00002-of-00002.safetensors"
    save_file({key: value for key, value in state.items() if key != "conv_in.bias"}, unet / places["conv_in.weight"])
    (unet / f"{file.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _of_other_shapes(unet: Path) -> None:
    config = json.loads((unet / "config.json").read_text())
    (unet / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 40}))


def _of_depth(unet: Path) -> None:
    file = unet / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["conv_in.weight"] = torch.zeros(32, 5, 3, 3)
    save_file(state, file)
    config = json.loads((unet / "config.json").read_text())
    (unet / "config.json").write_text(json.dumps(config | {"in_channels": 5}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_only_pickles, r"only pickles \(diffusion_pytorch_model.bin\).*torch.load\(weights_only=True\)"),
        (_git_note, "note of Git LFS in place of the weights; run `git lfs pull`"),
        (_cut_off, "is damaged or was fetched in part"),
        (_one_shard_of_two, "lacks diffusion_pytorch_model-00002-of-00002.safetensors; .* goes on where it stopped"),
        (_of_other_shapes, "does not load as UNet2DConditionModel"),
        (_of_depth, "takes 5 channels where its autoencoder makes 4"),
        (lambda unet: (unet / "diffusion_pytorch_model.safetensors").unlink(), "holds config.json.*fetched in part"),
        (lambda unet: (unet / "config.json").unlink(), "config.json was looked for and is not there"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(models: Path, tmp_path: Path, change: Any, message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models / "sd15", folder)
    change(folder / "unet")
    with pytest.raises(ModelError, match=message):
        load_backbone(folder, device="cpu", precision="fp32")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]},
            "is a FluxPipeline",
        ),
        ({"unet": ["diffusers", "UNet3DConditionModel"]}, "makes clips, which is what `pcs-ext video` is"),
    ],
)
def test_pipelines_of_other_kinds_are_named(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps(parts))
    with pytest.raises(ModelError, match=message):
        load_backbone(tmp_path, device="cpu")


def test_the_hubs_cache_is_read_by_name_and_by_folder(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    cached = tmp_path / "hub" / "models--org--sd-2.1"
    shutil.copytree(models / "sd15", cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert model_folder("org/sd-2.1") == cached / "snapshots" / commit
    assert model_folder(cached) == cached / "snapshots" / commit
    assert not is_sdxl("org/sd-2.1")
    by_name, by_folder = (load_backbone(base, device="cpu") for base in ("org/sd-2.1", str(cached)))
    assert by_name.fingerprint == by_folder.fingerprint
    next((cached / "snapshots").rglob("vae/*.safetensors")).unlink()
    with pytest.raises(ModelError, match="vae has no .safetensors file .*was fetched in part"):
        load_backbone("org/sd-2.1", device="cpu")
    with pytest.raises(ModelError, match=r"did you mean .*sd15\?"):
        load_backbone(str(models / "sd1.5"), device="cpu")


def test_the_family_shows_without_loading(models: Path, tmp_path: Path) -> None:
    assert preset_of(str(models / "sdxl")) == "sdxl"
    shutil.copytree(models / "sd15", tmp_path / "not-xl")
    assert preset_of(str(tmp_path / "not-xl")) == "sd"
    save_file({"conditioner.embedders.1.model.logit_scale": torch.zeros(1)}, tmp_path / "juggernaut.safetensors")
    assert preset_of(str(tmp_path / "juggernaut.safetensors")) == "sdxl"
    assert preset_of("nobody/some-xl-base-1.0") == "sdxl"


def test_a_repository_is_fetched_once_not_in_all_its_copies() -> None:
    weights = "diffusion_pytorch_model"
    names = [
        ".gitattributes", "README.md", "model_index.json", "v1-5-pruned-emaonly.safetensors", "v1-5-pruned.ckpt",
        "safety_checker/config.json", "safety_checker/model.safetensors", "safety_checker/pytorch_model.bin",
        "text_encoder/config.json", "text_encoder/model.safetensors", "text_encoder/model.fp16.safetensors",
        "text_encoder/pytorch_model.bin", "tokenizer/merges.txt", "tokenizer/vocab.json", "unet/config.json",
        f"unet/{weights}.safetensors", f"unet/{weights}.fp16.safetensors", f"unet/{weights}.non_ema.safetensors",
        f"unet/{weights}.bin", f"vae/{weights}.fp16.safetensors", "vae/config.json",
    ]  # fmt: skip
    wanted = needed_files(names)
    assert [name for name in wanted if name.endswith(".safetensors")] == [
        "text_encoder/model.safetensors", f"unet/{weights}.safetensors", f"vae/{weights}.fp16.safetensors",
    ]  # fmt: skip
    assert {"model_index.json", "tokenizer/merges.txt", "tokenizer/vocab.json", "vae/config.json"} < set(wanted)
    assert needed_files(["config.json", "model.safetensors", "open_clip_model.safetensors"]) == [
        "config.json", "model.safetensors", "open_clip_model.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["sd15-inpainting", "sd21"])
def test_single_files_hold_more_than_is_read_and_half_as_wide(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = published_file(tmp_path / "model-768.safetensors", kind, share=20)
    with pytest.raises(ModelError, match="is of a model of other sizes than Stable Diffusion"):
        load_backbone(file, device="cpu")
    (tmp_path / "configs").mkdir()
    for name in ("sd1", "sd2-v"):
        (tmp_path / "configs" / f"{name}.json").write_text(json.dumps(published_config(kind, share=20, cells=8)))
    monkeypatch.setattr(single_file, "_CONFIGS", tmp_path / "configs")
    backbone = load_backbone(file, device="cpu", precision="fp32")
    first = load_file(file)["model.diffusion_model.input_blocks.0.0.weight"]
    assert first.dtype == torch.float16
    assert torch.equal(backbone.denoiser.conv_in.weight, first.float())
    assert backbone.schedule.prediction_type == ("v_prediction" if kind == "sd21" else "epsilon")
    with torch.no_grad():
        told = backbone.encode_prompt(["a dog"])
        assert backbone.predict(torch.zeros(1, 4, 8, 8), torch.tensor([9]), told).isfinite().all()
