import json

import pytest
import torch
from peft import PeftModel

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import CrossAttentionConfig, LowRankConfig
from pcs_ext.image.export import ExportOptions, export_peft

# peft asks transformers for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
BOTH = ("denoiser", "text_encoder")


@pytest.mark.parametrize(
    "config",
    [
        LowRankConfig(rank=4, alpha=1.0, components=BOTH),
        LowRankConfig(rank=4, alpha=1.0, use_rslora=True, targets="all_linear_conv", components=BOTH),
        LowRankConfig(method="dora", rank=4, alpha=2.0, components=BOTH),
        LowRankConfig(method="loha", rank=2, alpha=1.0, targets="all_linear_conv", components=BOTH),
        LowRankConfig(method="lokr", rank=1, alpha=2.0, lokr_decompose_both=True, lokr_factor=4, components=BOTH),
        LowRankConfig(method="oft", rank=4, components=BOTH),
        LowRankConfig(method="oft", rank=4, oft_eps=0.01, components=BOTH),
    ],
    ids=["lora", "rslora", "dora", "loha", "lokr", "oft", "coft"],
)
def test_peft_loads_the_folders_and_computes_the_same(config, backbone, learn, applied, run, tmp_path):
    data = learn(backbone, layers=config)
    with torch.no_grad():
        plain = run(backbone)
        with applied(backbone, data):
            expected = run(backbone)
        assert float((expected - plain).abs().max()) > 1e-3
        folders = export_peft(data, tmp_path)
        assert [folder.name for folder in folders] == ["unet", "text_encoder"]
        first = backbone.text_encoders[0]
        text = PeftModel.from_pretrained(first, str(tmp_path / "text_encoder")).eval()
        PeftModel.from_pretrained(backbone.denoiser, str(tmp_path / "unet")).eval()
        assert text.base_model.model is first
        torch.testing.assert_close(run(backbone), expected, rtol=0, atol=2e-6)


def test_the_second_encoder_of_sdxl(sdxl, learn, applied, tmp_path):
    data = learn(sdxl, layers=LowRankConfig(rank=4, alpha=1.0, components=("text_encoder_2",)))
    with torch.no_grad():
        with applied(sdxl, data):
            expected = sdxl.encode_prompt(["a dog"]).states
        (folder,) = export_peft(data, tmp_path)
        assert folder == tmp_path / "text_encoder_2"
        PeftModel.from_pretrained(sdxl.text_encoders[1], str(folder)).eval()
        torch.testing.assert_close(sdxl.encode_prompt(["a dog"]).states, expected, rtol=0, atol=2e-6)


def test_the_settings_are_the_true_ones(sd, learn, tmp_path):
    export_peft(learn(sd, layers=LowRankConfig(rank=4, alpha=3.0)), tmp_path)
    settings = json.loads((tmp_path / "unet" / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 4, 3.0)
    assert not settings["base_model_name_or_path"]


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ({"a": CrossAttentionConfig()}, "kohya, diffusers-model"),
        (
            {"a": LowRankConfig(rank=2, targets=(r"to_q$",)), "b": LowRankConfig(rank=4, targets=(r"to_k$",))},
            "different settings",
        ),
        ({"a": LowRankConfig(method="oft", rank=32, targets="attention+ff")}, "blocks of different sizes"),
        ({"a": LowRankConfig(method="oft", rank=4, targets="all_linear_conv")}, "convolutions"),
    ],
)
def test_what_it_cannot_hold_is_an_error_that_names_a_format(configs, message, sd, learn, tmp_path):
    with pytest.raises(UsageError, match=message):
        export_peft(learn(sd, **configs), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folders_are_replaced_only_when_told_and_only_peft_folders(sd, learn, tmp_path):
    data = learn(sd, layers=LowRankConfig(rank=2))
    export_peft(data, tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        export_peft(data, tmp_path)
    export_peft(data, tmp_path, ExportOptions(overwrite=True))
    (tmp_path / "unet" / "adapter_config.json").unlink()
    with pytest.raises(UsageError, match="not a peft folder"):
        export_peft(data, tmp_path, ExportOptions(overwrite=True))
