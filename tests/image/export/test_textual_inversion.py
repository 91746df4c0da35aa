"""One file, three readers, each written from its own rules."""

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import EmbeddingConfig, LowRankConfig
from pcs_ext.image.export import ExportOptions, export_textual_inversion
from pcs_ext.image.export.files import read_header
from pcs_ext.image.export.textual_inversion import file_name


def read_as_a1111(file):
    """Exactly one tensor of any key; the word is the file's name."""
    state = load_file(file)
    assert len(state) == 1
    (rows,) = state.values()
    return file.stem, rows.unsqueeze(0) if rows.dim() == 1 else rows


def read_as_comfyui(file, clip="clip_l"):
    """`string_to_param`, else the encoder's own key, else the first value."""
    state = load_file(file)
    assert "string_to_param" not in state
    return state[clip] if clip in state else next(iter(state.values()))


@pytest.mark.parametrize("vectors", [1, 3])
def test_three_readers_get_the_same_rows(vectors, sd, learn, applied, tmp_path):
    config = EmbeddingConfig(placeholder="<rex>", num_vectors=vectors, initializer="dog")
    data = learn(sd, words=config)
    rows = data.tensors_of("words")["text_encoder.weight"]
    (file,) = export_textual_inversion(data, tmp_path)
    word, got = read_as_a1111(file)
    assert word == "rex"
    assert torch.equal(got, rows)
    assert got.dtype == torch.float32
    assert torch.equal(read_as_comfyui(file), rows)
    with applied(sd, data), torch.no_grad():
        expected = sd.encode_prompt(["a photo of <rex> on the beach"]).states
    pipeline = StableDiffusionPipeline(
        vae=sd.vae,
        text_encoder=sd.text_encoders[0],
        tokenizer=sd.tokenizers[0],
        unet=sd.denoiser,
        scheduler=DDIMScheduler(),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.load_textual_inversion(str(tmp_path), weight_name=file.name, use_safetensors=True)
    prompt = pipeline.maybe_convert_prompt("a photo of <rex> on the beach", pipeline.tokenizer)
    ids = pipeline.tokenizer(prompt, padding="max_length", max_length=20, return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(pipeline.text_encoder(ids).last_hidden_state, expected[:1], rtol=0, atol=1e-6)


def test_sdxl_has_one_tensor_per_encoder(sdxl, learn, tmp_path):
    data = learn(sdxl, words=EmbeddingConfig(placeholder="my-rex", num_vectors=2, initializer="dog"))
    (file,) = export_textual_inversion(data, tmp_path)
    assert file.name == "my-rex.safetensors"
    state = load_file(file)
    assert {key: tuple(t.shape) for key, t in state.items()} == {"clip_l": (2, 16), "clip_g": (2, 24)}
    assert torch.equal(read_as_comfyui(file, "clip_g"), data.tensors_of("words")["text_encoder_2.weight"])


def test_every_token_gets_its_file_and_layers_do_not_stand_in_the_way(sd, learn, tmp_path):
    data = learn(
        sd,
        one=EmbeddingConfig(placeholder="<rex>", initializer="dog"),
        two=EmbeddingConfig(placeholder="<tom>", initializer="cat"),
        layers=LowRankConfig(rank=2),
    )
    files = export_textual_inversion(data, tmp_path)
    assert [(f.name, list(load_file(f))) for f in files] == [
        ("rex.safetensors", ["<rex>"]),
        ("tom.safetensors", ["<tom>"]),
    ]
    header = read_header(files[1])
    assert header["modelspec.trigger_phrase"] == "<tom>"
    assert header["modelspec.architecture"].endswith("/textual-inversion")


def test_errors(sd, learn, tmp_path):
    with pytest.raises(UsageError, match="no learned token"):
        export_textual_inversion(learn(sd, layers=LowRankConfig(rank=2)), tmp_path)
    one = EmbeddingConfig(placeholder="<rex>", initializer="dog")
    data = learn(sd, words=one)
    export_textual_inversion(data, tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        export_textual_inversion(data, tmp_path)
    export_textual_inversion(data, tmp_path, ExportOptions(overwrite=True))
    same = EmbeddingConfig(placeholder="[rex]", initializer="dog")
    with pytest.raises(UsageError, match="same file name"):
        export_textual_inversion(learn(sd, words=one, more=same), tmp_path / "other")


@pytest.mark.parametrize(
    ("token", "name"),
    [("<my-dog>", "my-dog"), ("sks", "sks"), ("<>", "token"), ("a/../b", "a..b"), ("../x", "x"), ("<Rex_2>", "Rex_2")],
)
def test_file_names_are_usable_everywhere(token, name):
    assert file_name(token) == f"{name}.safetensors"
