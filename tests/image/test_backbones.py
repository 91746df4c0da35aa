"""Folders and single files of the real layouts become backbones that compute what diffusers computes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from pcs_ext.config_io import read_json
from pcs_ext.errors import ModelError, ResourceError, UsageError
from pcs_ext.image.adapters import LowRankConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones import single_file
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.types import Conditioning
from tests.support.tiny import tiny_folder


def inputs(backbone: AbstractBackbone) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    return latents, torch.tensor([10, 700]), backbone.encode_prompt(["a red dog", "a cat in snow"])


def test_predict_equals_diffusers(sd: AbstractBackbone) -> None:
    latents, timesteps, conditioning = inputs(sd)
    unet = UNet2DConditionModel.from_pretrained(Path(sd.name) / "unet")
    expected = unet(latents, timesteps, encoder_hidden_states=conditioning.states).sample  # type: ignore[union-attr]
    torch.testing.assert_close(sd.predict(latents, timesteps, conditioning), expected, atol=1e-5, rtol=1e-5)


def test_everything_is_frozen_and_images_keep_gradients(sd: AbstractBackbone) -> None:
    for module in sd.components().values():
        assert not any(parameter.requires_grad for parameter in module.parameters())
    images = torch.zeros(1, 3, 32, 32, requires_grad=True)
    sd.encode_images(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_latents_round_trip_shapes_and_posterior(sd: AbstractBackbone) -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    mean = sd.encode_images(images)
    drawn = sd.encode_images(images, torch.Generator().manual_seed(0))
    assert mean.shape == (2, 4, 8, 8)
    assert not torch.equal(mean, drawn)
    assert sd.decode_latents(mean).shape == images.shape
    with pytest.raises(AssertionError, match="no multiple of 4"):
        sd.encode_images(torch.zeros(1, 3, 30, 32))


def test_the_autoencoder_keeps_its_precision_in_the_middle_of_a_training_step(sd: AbstractBackbone) -> None:
    """SDXL's overflows in half precision and is kept in float32 for that."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    latents, deviation = sd.encode_posterior(images)
    decoded = sd.decode_latents(latents)
    with torch.autocast("cpu", torch.bfloat16):
        for found, wanted in zip(sd.encode_posterior(images), (latents, deviation), strict=True):
            assert torch.equal(found, wanted)
        assert torch.equal(sd.decode_latents(latents), decoded)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_per_layer_conditioning_with_equal_entries_changes_nothing(family: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(family)
    latents, timesteps, plain = inputs(backbone)
    asked: list[str] = []

    def per_layer(t: torch.Tensor, path: str) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(path)
        return plain.states, plain.states

    import dataclasses

    layered = dataclasses.replace(plain, per_layer=per_layer)
    with injected(backbone, build_adapter("lora", LowRankConfig(rank=2))):
        assert torch.equal(backbone.predict(latents, timesteps, plain), backbone.predict(latents, timesteps, layered))
    assert tuple(asked) == backbone.cross_attention_paths()
    assert [path.split(".")[0] for path in asked] == sorted(
        [path.split(".")[0] for path in asked], key=["down_blocks", "mid_block", "up_blocks"].index
    )


def test_bytes_that_are_no_text_are_refused_in_prompts(sd: AbstractBackbone) -> None:
    with pytest.raises(UsageError, match=r"'a \\udcff dog' has bytes that are no UTF-8 text"):
        sd.encode_prompt(["a dog", "a \udcff dog"])


def test_key_and_value_states_reach_their_projections(sd: AbstractBackbone) -> None:
    latents, timesteps, plain = inputs(sd)
    import dataclasses

    zero = torch.zeros_like(plain.states)
    keys_only = dataclasses.replace(plain, per_layer=lambda t, path: (zero, plain.states))
    values_only = dataclasses.replace(plain, per_layer=lambda t, path: (plain.states, zero))
    results = [sd.predict(latents, timesteps, c) for c in (plain, keys_only, values_only)]
    assert not torch.allclose(results[0], results[1])
    assert not torch.allclose(results[0], results[2])
    assert not torch.allclose(results[1], results[2])


def test_conditioning_can_be_stacked_and_picked(sdxl: AbstractBackbone) -> None:
    parts = [sdxl.encode_prompt(["a dog"]), sdxl.encode_prompt(["a cat", "a toy"])]
    whole = Conditioning.cat(parts)
    assert whole.batch_size == 3
    assert whole.pooled is not None
    picked = whole[1:]
    assert torch.equal(picked.states, parts[1].states)
    assert torch.equal(whole.pooled[[0]], whole[[0]].pooled)  # type: ignore[arg-type]


def test_fingerprint_follows_the_weights(sd: AbstractBackbone, tmp_path: Path) -> None:
    again = load_backbone(sd.name, device="cpu")
    assert again.fingerprint == sd.fingerprint
    other = tmp_path / "other"
    shutil.copytree(sd.name, other)
    file = other / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["conv_in.weight"] += 1
    save_file(state, file)
    assert load_backbone(str(other), device="cpu").fingerprint != sd.fingerprint


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (lambda f: shutil.rmtree(f / "vae"), "has no folder vae/"),
        (lambda f: (f / "model_index.json").unlink(), "model_index.json was looked for"),
        (lambda f: (f / "model_index.json").write_text("{"), "not valid JSON"),
        (lambda f: [p.unlink() for p in (f / "tokenizer").glob("*.json")], "holds no CLIP tokenizer"),
        (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "no .safetensors file"),
        (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 40), "is damaged"),
    ],
)
def test_incomplete_folders_say_what_is_missing(tmp_path: Path, breakage, message: str) -> None:
    folder = tiny_folder(tmp_path / "model")
    breakage(folder)
    with pytest.raises(ModelError, match=message):
        load_backbone(str(folder), device="cpu")


def test_unknown_names_pickles_and_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="was not found.*toybox"):
        load_backbone("no such/model/anywhere", device="cpu")
    with pytest.raises(ModelError, match="neither a local folder nor in the hub cache"):
        load_backbone("nobody/nothing", device="cpu")
    with pytest.raises(ModelError, match="is a pickle.*Convert it"):
        load_backbone(str(tmp_path / "model.ckpt"), device="cpu")
    with pytest.raises(ModelError, match="was looked for and is not there"):
        load_backbone(str(tmp_path / "model.safetensors"), device="cpu")
    with pytest.raises(UsageError, match="is unknown; expected one of auto"):
        load_backbone("toybox", device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="use --device cpu"):
            load_backbone("toybox", device="cuda")


@pytest.mark.parametrize("version", ["sd1", "sd2", "sd2-v", "sdxl"])
def test_shipped_configs_have_the_published_sizes(version: str) -> None:
    config = read_json(Path(single_file.__file__).parent / "configs" / f"{version}.json")
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config["unet"])
        vae = AutoencoderKL(**config["vae"])
        text = CLIPTextModel(CLIPTextConfig(**config["text_encoder"]))
    count = {name: sum(p.numel() for p in m.parameters()) for name, m in (("unet", unet), ("vae", vae), ("text", text))}
    unets = {"sd1": 859_520_964, "sd2": 865_910_724, "sd2-v": 865_910_724, "sdxl": 2_567_463_684}
    texts = {"sd1": 123_060_480, "sd2": 340_387_840, "sd2-v": 340_387_840, "sdxl": 123_060_480}
    assert count == {"unet": unets[version], "vae": 83_653_863, "text": texts[version]}


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    save_file({"lora.down": torch.zeros(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="no Stable Diffusion checkpoint in the original layout"):
        load_backbone(str(tmp_path / "lora.safetensors"), device="cpu")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10" + b"\0" * 7 + json.dumps({}).encode())
    with pytest.raises(ModelError, match="damaged"):
        load_backbone(str(tmp_path / "cut.safetensors"), device="cpu")


def test_images_are_drawn_from_the_posterior(sd: AbstractBackbone) -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        mean, deviation = sd.encode_posterior(images)
        drawn = sd.encode_images(images, torch.Generator().manual_seed(3))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(drawn, mean + deviation * noise)
    expected = sd.vae.encode(images).latent_dist.std * sd.vae.config["scaling_factor"]
    assert torch.allclose(deviation, expected)


def test_sdxl_is_told_nothing_by_zeros_row_by_row(sdxl: AbstractBackbone) -> None:
    mixed, plain = sdxl.encode_negative(["", "a cat"]), sdxl.encode_prompt(["", "a cat"])
    assert plain.pooled is not None
    assert mixed.pooled is not None
    assert not mixed.states[0].any()
    assert not mixed.pooled[0].any()
    assert plain.states[0].any()
    assert torch.equal(mixed.states[1], plain.states[1])
    assert torch.equal(mixed.pooled[1], plain.pooled[1])
    sdxl.zeros_for_nothing = False  # type: ignore[attr-defined]
    assert torch.equal(sdxl.encode_negative([""]).states, plain.states[:1])
