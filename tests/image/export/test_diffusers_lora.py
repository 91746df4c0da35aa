"""The file as stock diffusers loads it: same weights, same images."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import CrossAttentionConfig, EmbeddingConfig, LowRankConfig
from pcs_ext.image.export import ExportOptions, export_diffusers_lora

BOTH = ("denoiser", "text_encoder")
FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture
def pipeline(sd):
    return StableDiffusionPipeline(
        vae=sd.vae,
        text_encoder=sd.text_encoders[0],
        tokenizer=sd.tokenizers[0],
        unet=sd.denoiser,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )


def image(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    return pipeline("a photo of sks dog", num_inference_steps=3, output_type="pt", generator=generator).images


@pytest.mark.parametrize(
    "config",
    [
        LowRankConfig(rank=4, alpha=1.0, components=BOTH),
        LowRankConfig(rank=2, alpha=8.0, components=("text_encoder",), use_rslora=True),
        LowRankConfig(rank=4, alpha=2.0, targets="all_linear_conv"),
        LowRankConfig(method="dora", rank=4, alpha=2.0),
        LowRankConfig(method="dora", rank=4, alpha=2.0, targets="all_linear_conv", components=BOTH),
    ],
    ids=["lora", "rslora", "conv", "dora", "dora-conv"],
)
@pytest.mark.parametrize("with_header", [True, False], ids=["header", "no-header"])
def test_the_pipeline_makes_the_same_image(config, with_header, sd, pipeline, learn, applied, tmp_path):
    data = learn(sd, layers=config)
    plain = image(pipeline)
    with applied(sd, data):
        expected = image(pipeline)
    assert float((expected - plain).abs().max()) > 1e-3
    file = export_diffusers_lora(data, tmp_path)
    assert file == tmp_path / FILE
    if with_header:
        pipeline.load_lora_weights(str(tmp_path), weight_name=FILE)
    else:  # as versions before the header was introduced
        pipeline.load_lora_weights(load_file(file))
    torch.testing.assert_close(image(pipeline), expected, rtol=0, atol=2e-6)


def test_sdxl_keys_and_header(sdxl, learn, tmp_path):
    components = (*BOTH, "text_encoder_2")
    data = learn(sdxl, layers=LowRankConfig(rank=2, alpha=6.0, components=components))
    with safe_open(export_diffusers_lora(data, tmp_path / "rex.safetensors"), framework="pt") as handle:
        header, keys = handle.metadata(), list(handle.keys())
    assert header.keys() == {"format", "lora_adapter_metadata"}
    settings = json.loads(header["lora_adapter_metadata"])
    assert {key.partition(".")[0] for key in settings} == {"unet", "text_encoder", "text_encoder_2"}
    assert settings["unet.r"] == settings["unet.lora_alpha"] == 2
    assert {key.partition(".")[0] for key in keys} == {"unet", "text_encoder", "text_encoder_2"}
    for prefix in ("text_encoder", "text_encoder_2"):
        assert f"{prefix}.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight" in keys
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight" in keys


def test_the_second_text_encoder_is_loaded_by_diffusers(sdxl, learn, applied, tmp_path):
    data = learn(sdxl, layers=LowRankConfig(rank=2, alpha=6.0, components=("text_encoder", "text_encoder_2")))
    with applied(sdxl, data), torch.no_grad():
        expected = sdxl.encode_prompt(["a photo of sks dog"])
    state = load_file(export_diffusers_lora(data, tmp_path))
    for prefix, encoder in zip(("text_encoder", "text_encoder_2"), sdxl.text_encoders, strict=True):
        StableDiffusionPipeline.load_lora_into_text_encoder(dict(state), None, encoder, prefix=prefix)
    with torch.no_grad():
        got = sdxl.encode_prompt(["a photo of sks dog"])
    torch.testing.assert_close(got.states, expected.states, rtol=0, atol=2e-6)
    torch.testing.assert_close(got.pooled, expected.pooled, rtol=0, atol=2e-6)


def test_two_adapters_of_different_rank_in_one_component(sd, pipeline, learn, applied, tmp_path):
    data = learn(
        sd,
        queries=LowRankConfig(rank=2, alpha=4.0, targets=(r"attn\d\.to_q$",)),
        keys=LowRankConfig(rank=5, alpha=1.0, targets=(r"attn\d\.to_k$",)),
    )
    with applied(sd, data):
        expected = image(pipeline)
    export_diffusers_lora(data, tmp_path)
    pipeline.load_lora_weights(str(tmp_path), weight_name=FILE)
    torch.testing.assert_close(image(pipeline), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LowRankConfig(method="loha", rank=4), "peft, kohya, diffusers-model"),
        (LowRankConfig(method="oft", rank=4), "peft, diffusers-model"),
        (CrossAttentionConfig(), "kohya, diffusers-model"),
        (EmbeddingConfig(placeholder="<rex>", initializer="dog"), "textual-inversion"),
    ],
)
def test_what_it_cannot_hold_is_an_error_that_names_a_format(config, message, sd, learn, tmp_path):
    with pytest.raises(UsageError, match=message):
        export_diffusers_lora(learn(sd, layers=config), tmp_path)


def test_lora_and_dora_do_not_share_a_component(sd, learn, tmp_path):
    data = learn(
        sd,
        one=LowRankConfig(rank=2, targets=(r"to_q$",)),
        two=LowRankConfig(method="dora", rank=2, targets=(r"to_k$",)),
    )
    with pytest.raises(UsageError, match="cannot share"):
        export_diffusers_lora(data, tmp_path)


def test_an_existing_file_is_kept_unless_told(sd, learn, tmp_path):
    data = learn(sd, layers=LowRankConfig(rank=2))
    (tmp_path / FILE).write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already"):
        export_diffusers_lora(data, tmp_path)
    assert (tmp_path / FILE).read_bytes() == b"mine"
    export_diffusers_lora(data, tmp_path, ExportOptions(overwrite=True, precision="fp16"))
    assert {t.dtype for t in load_file(tmp_path / FILE).values()} == {torch.float16}
