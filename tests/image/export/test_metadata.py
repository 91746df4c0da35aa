import base64
import dataclasses
import hashlib
import io
import json
import struct

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save

from pcs_ext.config_io import to_jsonable
from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.adapters import CrossAttentionConfig, EmbeddingConfig, LowRankConfig
from pcs_ext.image.export import ExportOptions, advice, export_artifact, export_kohya
from pcs_ext.image.export.files import read_header

ALWAYS = {
    "format",
    "modelspec.architecture",
    "modelspec.hash_sha256",
    "modelspec.implementation",
    "modelspec.resolution",
    "modelspec.sai_model_spec",
    "modelspec.title",
    "modelspec.trigger_phrase",
    "ss_base_model_version",
    "ss_network_alpha",
    "ss_network_args",
    "ss_network_dim",
    "ss_network_module",
    "ss_v2",
    "sshs_legacy_hash",
    "sshs_model_hash",
}
TRAINING = {
    "modelspec.date",
    "ss_dataset_dirs",
    "ss_learning_rate",
    "ss_lr_scheduler",
    "ss_max_train_steps",
    "ss_num_reg_images",
    "ss_num_train_images",
    "ss_optimizer",
    "ss_output_name",
    "ss_prior_loss_weight",
    "ss_resolution",
    "ss_sd_model_name",
    "ss_seed",
    "ss_session_id",
    "ss_steps",
    "ss_tag_frequency",
    "ss_text_encoder_lr",
    "ss_training_comment",
    "ss_unet_lr",
}


def header(data, tmp_path, **options):
    return read_header(export_kohya(data, tmp_path / "rex", ExportOptions(overwrite=True, **options)))


def test_snapshot_of_the_names_and_of_the_values_users_see(sd, learn, tmp_path):
    got = header(learn(sd, layers=LowRankConfig(rank=4, alpha=2.0)), tmp_path, author="Ann")
    assert got.keys() == ALWAYS | TRAINING | {"modelspec.author"}
    expected = {
        "modelspec.title": "rex",
        "modelspec.author": "Ann",
        "modelspec.trigger_phrase": "sks dog",
        "modelspec.resolution": "512x512",
        "modelspec.architecture": "sd-16/lora",
        "modelspec.sai_model_spec": "1.0.1",
        "ss_v2": "False",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "2.0",
        "ss_network_args": "{}",
        "ss_sd_model_name": "tiny",
        "ss_num_train_images": "1",
        "ss_num_reg_images": "20",
        "ss_steps": "300",
        "ss_unet_lr": "0.0001",
        "ss_text_encoder_lr": "5e-06",
        "ss_lr_scheduler": "cosine",
        "ss_seed": "7",
        "ss_resolution": "(512, 512)",
    }
    assert {key: got[key] for key in expected} == expected
    assert json.loads(got["ss_tag_frequency"]) == {"sks dog": {"sks dog": 1}}
    assert json.loads(got["ss_dataset_dirs"]) == {"sks dog": {"n_repeats": 1, "img_count": 1}}


def test_without_training_metadata_only_what_readers_need_is_left(sd, learn, tmp_path):
    assert header(learn(sd, layers=LowRankConfig(rank=4)), tmp_path, training_metadata=False).keys() == ALWAYS


def test_no_path_and_no_photo_name_is_told(sd, learn, tmp_path):
    content = json.dumps(header(learn(sd, layers=LowRankConfig(rank=4)), tmp_path))
    assert "alice" not in content
    assert "/home" not in content


@pytest.mark.parametrize("size", [2, 400], ids=["small", "above-1-MiB"])
def test_hashes_are_those_that_interfaces_compute(size, sd, learn, tmp_path):
    file = export_kohya(learn(sd, layers=LowRankConfig(rank=size)), tmp_path / "rex")
    content, got = file.read_bytes(), read_header(file)
    (length,) = struct.unpack("<Q", content[:8])
    assert got["sshs_model_hash"] == hashlib.sha256(content[8 + length :]).hexdigest()
    assert got["modelspec.hash_sha256"] == "0x" + got["sshs_model_hash"]
    training_only = save(load_file(file), {k: v for k, v in got.items() if k.startswith("ss_")})
    legacy = hashlib.sha256(training_only[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
    assert got["sshs_legacy_hash"] == legacy
    assert (len(training_only) > 0x100000) == (size > 2)


@pytest.mark.parametrize(
    ("config", "module", "arguments"),
    [
        (LowRankConfig(rank=4, targets="all_linear_conv"), "networks.lora", {"conv_dim": 4}),
        (
            LowRankConfig(method="dora", rank=4),
            "lycoris.kohya",
            {"algo": "lora", "dora_wd": True, "wd_on_output": True},
        ),
        (LowRankConfig(method="loha", rank=4), "lycoris.kohya", {"algo": "loha"}),
        (LowRankConfig(method="lokr", rank=4, lokr_factor=4), "lycoris.kohya", {"algo": "lokr", "factor": 4}),
        (CrossAttentionConfig(), "lycoris.kohya", {"algo": "full"}),
    ],
)
def test_network_module_and_arguments(config, module, arguments, sd, learn, tmp_path):
    got = header(learn(sd, layers=config), tmp_path)
    assert got["ss_network_module"] == module
    assert json.loads(got["ss_network_args"]) == arguments


def test_different_ranks_are_dynamic(sd, learn, tmp_path):
    data = learn(sd, a=LowRankConfig(rank=4), b=LowRankConfig(rank=2, components=("text_encoder",)))
    got = header(data, tmp_path)
    assert got["ss_network_dim"] == got["ss_network_alpha"] == "Dynamic"


def test_sdxl_base(sdxl, learn, tmp_path):
    training = {"prediction_type": "epsilon"}
    got = header(learn(sdxl, fields={"training": training}, layers=LowRankConfig(rank=4)), tmp_path)
    assert got["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert got["ss_base_model_version"] == "sdxl_base_v1-0"
    assert got["modelspec.resolution"] == "1024x1024"
    assert got["modelspec.prediction_type"] == "epsilon"


def test_the_preview_becomes_a_small_thumbnail(sd, learn, tmp_path):
    buffer = io.BytesIO()
    Image.effect_noise((1500, 900), 80).convert("RGBA").save(buffer, format="PNG")
    data = learn(sd, fields={"preview": buffer.getvalue()}, layers=LowRankConfig(rank=4))
    kind, _, content = header(data, tmp_path)["modelspec.thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert picture.format == "JPEG"
        assert max(picture.size) == 256


def test_a_header_over_one_mebibyte_is_refused(sd, learn, tmp_path):
    data = learn(sd, layers=LowRankConfig(rank=4))
    with pytest.raises(UsageError, match="header"):
        header(data, tmp_path, description="x" * (1 << 20))
    assert list(tmp_path.iterdir()) == []


def test_unreadable_settings_are_named(sd, learn, tmp_path):
    data = learn(sd, layers=LowRankConfig(rank=4), fields={"concept": {"noun": "dog"}})
    with pytest.raises(ArtifactError, match="noun"):
        header(data, tmp_path)
    data.adapters["layers"]["rnak"] = 3
    with pytest.raises(ArtifactError, match="rnak"):
        header(data, tmp_path)


@pytest.mark.parametrize(
    ("format", "names"),
    [("diffusers", ["pytorch_lora_weights.safetensors"]), ("peft", ["unet"]), ("diffusers-model", ["unet"])],
)
def test_export_by_name(format, names, sd, learn, tmp_path):
    data = learn(sd, layers=LowRankConfig(rank=4))
    paths = export_artifact(data, format, tmp_path, backbone=sd)
    assert [path.name for path in paths] == names


def test_export_by_unknown_name_or_without_the_base(sd, learn, tmp_path):
    data = learn(sd, layers=LowRankConfig(rank=4))
    with pytest.raises(UsageError, match=r"'onnx' is unknown; expected one of diffusers, peft, kohya"):
        export_artifact(data, "onnx", tmp_path)
    with pytest.raises(UsageError, match="needs the base"):
        export_artifact(data, "diffusers-model", tmp_path)


def test_advice_tells_the_words_and_what_is_left_out(sd, learn, tmp_path):
    from pcs_ext.image.adapters import EmbeddingConfig

    layers = learn(sd, LowRankConfig(rank=2))
    assert advice(layers, "kohya", [tmp_path / "a.safetensors"]) == ['prompts write "sks dog" where the subject goes']
    toy = dataclasses.replace(layers, base_name="toybox")
    assert "fits no other" in advice(toy, "kohya", [])[-1]
    word = {"word": to_jsonable(EmbeddingConfig(placeholder="<rex>", initializer="dog"))}
    concept = {"class_noun": "dog", "mode": "learned", "token": "<rex>"}
    tensors = {**layers.tensors, "word": {"text_encoder.weight": torch.zeros(1, 8)}}
    both = dataclasses.replace(layers, adapters={**layers.adapters, **word}, tensors=tensors, concept=concept)
    said = advice(both, "kohya", [tmp_path / "a.safetensors"])
    assert said[0] == 'prompts write "<rex> dog" where the subject goes'
    assert said[1].startswith("learned words (<rex>) cannot be in this format and must be exported, too")
    trained = {"layers": to_jsonable(LowRankConfig(rank=2)), **word}
    beside = dataclasses.replace(both, adapters=trained)
    words, missing = advice(beside, "textual-inversion", [tmp_path / "rex.safetensors"])
    assert "(rex)" in words
    assert missing.startswith("the words alone are in it; what else was learned (lora) is not: export them beside it")
    away = dataclasses.replace(both, concept={**concept, "negative": "<rex>"})
    assert "<rex> belongs in the negative prompt" in advice(away, "textual-inversion", [])


@pytest.mark.parametrize("decomposed", [False, True])
def test_lokr_tells_the_width_of_the_text_it_reads(decomposed, sd, learn, tmp_path):
    config = LowRankConfig(method="lokr", rank=1 if decomposed else 64, lokr_factor=2, lokr_decompose_both=decomposed)
    data = learn(sd, layers=config)
    has = {key.rpartition(".")[2] for key in data.tensors["layers"]}
    assert any(key.endswith("_b") for key in has) == decomposed
    assert header(data, tmp_path)["modelspec.architecture"] == "sd-16/lora"


def test_learning_rates_are_those_of_what_is_in_the_file(sd, learn, tmp_path):
    configs = {
        "word": EmbeddingConfig(placeholder="<rex>", initializer="dog"),
        "text": LowRankConfig(rank=2, components=("text_encoder",)),
        "layers": LowRankConfig(rank=2),
    }
    rates = {"word": 1e-3, "text": 1e-5, "layers": 1e-4}
    phase = {"learning_rates": rates, "fit": {"steps": 3, "optimizer": "sgd"}}
    recipe = {"id": "mix-of-show", "phases": [phase]}
    got = header(learn(sd, fields={"recipe": recipe}, **configs), tmp_path)
    assert (got["ss_unet_lr"], got["ss_text_encoder_lr"], got["ss_learning_rate"]) == ("0.0001", "1e-05", "0.0001")
    assert got["ss_optimizer"] == "torch.optim.sgd.SGD"


@pytest.mark.parametrize("format", ["kohya", "diffusers", "peft"])
def test_weights_that_do_not_fit_the_precision_are_refused(format, sd, learn, tmp_path):
    data = learn(sd, size=1e6, layers=LowRankConfig(rank=2))
    with pytest.raises(UsageError, match=r"does not fit into fp16, .* export with --precision bf16 or fp32"):
        export_artifact(data, format, tmp_path / "rex", ExportOptions(precision="fp16"))
    export_artifact(data, format, tmp_path / "rex", ExportOptions(precision="bf16"))
