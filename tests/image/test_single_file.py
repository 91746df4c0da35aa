"""Files of the original key layouts, written by these tests, load as the models they were written from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from pcs_ext.config_io import read_json
from pcs_ext.errors import ModelError
from pcs_ext.image.backbones import single_file
from pcs_ext.image.backbones.load import load_backbone
from tests.support.original_layout import clip_file, open_clip_file, unet_file, vae_file
from tests.support.tiny import tiny_tokenizer

CONFIGS = Path(single_file.__file__).parent / "configs"
VERSIONS = {"sd1": "model", "sd2": "model", "sd2-v": "model-768-v", "sdxl": "model"}


def _shrunk(version: str, vocabulary: int) -> dict[str, Any]:
    """The shipped config with everything that sets the size made small and everything else as it is."""
    config = read_json(CONFIGS / f"{version}.json")
    unet, text = config["unet"], config["text_encoder"]
    levels = len(unet["block_out_channels"])
    unet |= {"block_out_channels": [32, 32, 64, 64][:levels], "cross_attention_dim": 32, "sample_size": 8}
    unet["attention_head_dim"] = [4, 4, 8, 8][:levels] if isinstance(unet["attention_head_dim"], list) else 4
    config["vae"] |= {"block_out_channels": [32, 32, 32, 32], "sample_size": 64}
    small = {"vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    small |= {"num_hidden_layers": 2, "max_position_embeddings": 24, "projection_dim": 32}
    text |= small
    if version == "sdxl":
        config["text_encoder_2"] |= small
        unet |= {"cross_attention_dim": 64, "transformer_layers_per_block": [1, 1, 2]}
        unet |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32 + 6 * 8}
    return config


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """A file of a version, and the modules it was written from."""
    version: str = request.param
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    if version == "sdxl":
        tiny_tokenizer(tmp_path / "tokenizer_2")
    config = _shrunk(version, len(tokenizer))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / f"{version}.json").write_text(json.dumps(config))
    monkeypatch.setattr(single_file, "_CONFIGS", tmp_path / "configs")
    torch.manual_seed(0)
    modules: dict[str, Any] = {
        "unet": UNet2DConditionModel(**config["unet"]),
        "vae": AutoencoderKL(**config["vae"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**config["text_encoder"])),
    }
    state = {**unet_file(modules["unet"]), **vae_file(modules["vae"])}
    if version == "sd1":
        state |= clip_file(modules["text_encoder"])
    elif version.startswith("sd2"):
        state |= open_clip_file(modules["text_encoder"], "cond_stage_model.model.")
    else:
        modules["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**config["text_encoder_2"]))
        state |= clip_file(modules["text_encoder"], "conditioner.embedders.0.transformer.")
        state |= open_clip_file(modules["text_encoder_2"], "conditioner.embedders.1.model.")
    # Real files carry training buffers as well.
    state |= {"betas": torch.linspace(0, 1, 1000), "model_ema.decay": torch.tensor(0.9999)}
    path = tmp_path / f"{VERSIONS[version]}.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return version, path, modules


@pytest.mark.parametrize("written", VERSIONS, indirect=True)
def test_every_weight_arrives(written) -> None:
    version, path, modules = written
    backbone = load_backbone(str(path), device="cpu", precision="fp32")
    assert backbone.family == ("sdxl" if version == "sdxl" else "sd")
    assert backbone.schedule.prediction_type == ("v_prediction" if version == "sd2-v" else "epsilon")
    loaded = {"unet": backbone.denoiser, "vae": backbone.vae, "text_encoder": backbone.text_encoders[0]}
    if version == "sdxl":
        loaded["text_encoder_2"] = backbone.text_encoders[1]
    for name, module in modules.items():
        expected, got = module.state_dict(), loaded[name].state_dict()
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected), name


@pytest.mark.parametrize("written", ["sd1"], indirect=True)
def test_an_incomplete_file_names_what_is_missing(written) -> None:
    _, path, _ = written
    state = load_file(path)
    del state["model.diffusion_model.out.2.weight"]
    save_file(state, path)
    with pytest.raises(ModelError, match=r"does not fit UNet2DConditionModel: 1 weights missing \(conv_out\.weight\)"):
        load_backbone(str(path), device="cpu")


@pytest.mark.parametrize("written", ["sd1"], indirect=True)
def test_without_a_tokenizer_the_file_says_where_to_put_one(written, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path, _ = written
    (path.parent / "tokenizer").rename(path.parent / "elsewhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"put the folder tokenizer/ of a diffusers model beside it"):
        load_backbone(str(path), device="cpu")
