import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import CrossAttentionConfig, EmbeddingConfig, FullConfig, LowRankConfig
from pcs_ext.image.export import ExportOptions, export_diffusers_model
from pcs_ext.image.learn import learn as learn_subject
from pcs_ext.image.recipes import RECIPES
from tests.support.command_line import run

BOTH = ("denoiser", "text_encoder")


@pytest.mark.parametrize(
    "configs",
    [
        {"a": LowRankConfig(rank=4, alpha=1.0, targets="all_linear_conv", components=BOTH)},
        {"a": LowRankConfig(method="dora", rank=4, targets="all_linear_conv", components=BOTH)},
        {"a": LowRankConfig(method="loha", rank=4, alpha=1.0, components=BOTH)},
        {"a": LowRankConfig(method="lokr", rank=4, alpha=1.0, components=BOTH)},
        {"a": LowRankConfig(method="oft", rank=4, targets="all_linear_conv", components=BOTH)},
        {"a": FullConfig(components=BOTH)},
        {"a": CrossAttentionConfig(), "b": LowRankConfig(rank=4, components=BOTH)},
        {"a": FullConfig(components=BOTH), "b": LowRankConfig(method="oft", rank=4), "c": LowRankConfig(rank=2)},
        {"a": LowRankConfig(rank=2), "b": LowRankConfig(method="dora", rank=4, components=BOTH)},
    ],
    ids=["lora", "dora", "loha", "lokr", "oft", "full", "kv+lora", "full+oft+lora", "lora+dora"],
)
def test_the_merged_components_load_and_compute_the_same(configs, sd, learn, applied, run, snapshot, tmp_path):
    data = learn(sd, size=0.05, **configs)
    with torch.no_grad():
        plain = run(sd)
        with applied(sd, data):
            expected = run(sd)
        before = snapshot(sd)
        folders = export_diffusers_model(data, sd, tmp_path)
        assert snapshot(sd) == before
        assert [folder.name for folder in folders] == ["unet", "text_encoder"]
        sd.denoiser = UNet2DConditionModel.from_pretrained(tmp_path / "unet").eval()
        text = CLIPTextModel.from_pretrained(tmp_path / "text_encoder").eval()
        sd.text_encoders = (text, *sd.text_encoders[1:])
        got = run(sd)
    assert float((expected - plain).abs().max()) > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-5)


def test_the_second_encoder_of_sdxl(sdxl, learn, applied, tmp_path):
    data = learn(sdxl, layers=LowRankConfig(rank=4, components=("text_encoder_2",)))
    with torch.no_grad():
        with applied(sdxl, data):
            expected = sdxl.encode_prompt(["a dog"])
        export_diffusers_model(data, sdxl, tmp_path)
        second = CLIPTextModelWithProjection.from_pretrained(tmp_path / "text_encoder_2").eval()
        sdxl.text_encoders = (sdxl.text_encoders[0], second)
        torch.testing.assert_close(sdxl.encode_prompt(["a dog"]).pooled, expected.pooled, rtol=1e-4, atol=1e-5)


def test_tokens_only_and_existing_folders_are_refused(sd, learn, tmp_path):
    words = EmbeddingConfig(placeholder="<rex>", initializer="dog")
    with pytest.raises(UsageError, match="tokens only"):
        export_diffusers_model(learn(sd, words=words), sd, tmp_path)
    data = learn(sd, words=words, layers=LowRankConfig(rank=2))
    (unet,) = export_diffusers_model(data, sd, tmp_path, ExportOptions(precision="fp16"))
    assert UNet2DConditionModel.from_pretrained(unet, torch_dtype=torch.float16).dtype == torch.float16
    with pytest.raises(UsageError, match="exists already"):
        export_diffusers_model(data, sd, tmp_path)
    (unet / "config.json").unlink()
    with pytest.raises(UsageError, match="not a model folder"):
        export_diffusers_model(data, sd, tmp_path, ExportOptions(overwrite=True))


def test_the_command_merges_into_the_base_as_it_is_on_disk(tiny_sd_path, photos, tmp_path, monkeypatch, capsys):
    """Where bfloat16 is fast, bases are loaded in it: what is exported must not be rounded on the way."""
    recipe, base = RECIPES["custom-diffusion"].build("dog", "toybox").with_steps(1), str(tiny_sd_path)
    learn_subject(photos, noun="dog", recipe=recipe, output=tmp_path / "rex", base=base, device="cpu", precision="fp32")
    monkeypatch.setattr("pcs_ext.runtime._cpu_multiplies_bf16", lambda: True)
    flags = ("--format", "diffusers-model", "--precision", "fp32")
    code, _, err = run("export", tmp_path / "rex", "-o", tmp_path / "out", *flags, capture=capsys)
    assert code == 0, err
    name = "diffusion_pytorch_model.safetensors"
    before, after = load_file(tiny_sd_path / "unet" / name), load_file(tmp_path / "out" / "unet" / name)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if "attn2.to_" not in key)
