"""Encoders: the folder decides, embeddings are unit vectors, batching and order change nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pcs_ext.errors import ModelError
from pcs_ext.image.evaluate.encoders import Preprocessing, load_image_encoder, load_image_text_encoder


@pytest.fixture(params=["clip_folder", "dino_folder", "vit_folder", "resnet_folder"])
def encoder(request: pytest.FixtureRequest):
    return load_image_encoder(request.getfixturevalue(request.param))


def test_embeddings_are_unit_vectors_whatever_the_batch(encoder, pictures):
    together = encoder.encode_images(pictures)
    one_by_one = torch.cat([encoder.encode_images(picture[None]) for picture in pictures])
    assert together.dtype == torch.float32
    assert torch.allclose(together.norm(dim=1), torch.ones(6), atol=1e-5)
    assert torch.allclose(together, one_by_one, atol=1e-5)
    # A constant encoder would pass all of the above.
    assert (together @ together.T).min() < 0.9999


def test_images_get_gradients(encoder, pictures):
    images = pictures.clone().requires_grad_(True)
    encoder.encode_images(images)[:, 0].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_the_class_token_is_the_models_own(dino_folder, pictures):
    from transformers import AutoModel

    encoder = load_image_encoder(dino_folder)
    pixels = encoder.preprocessing(pictures)
    expected = AutoModel.from_pretrained(dino_folder)(pixel_values=pixels).pooler_output
    expected = torch.nn.functional.normalize(expected, dim=-1)
    assert torch.allclose(encoder.encode_images(pictures), expected, atol=1e-5)


def test_clip_agrees_with_transformers_own_logits(clip_folder, pictures):
    encoder = load_image_text_encoder(clip_folder)
    texts = ["a red dog", "cat", "on the beach at night with far more letters than fit"]
    tokens = encoder.tokenizer(texts, padding="max_length", max_length=20, truncation=True, return_tensors="pt")
    outputs = encoder.model(pixel_values=encoder.preprocessing(pictures), **tokens)
    ours = encoder.encode_images(pictures) @ encoder.encode_texts(texts).T
    assert torch.allclose(ours * encoder.model.logit_scale.exp(), outputs.logits_per_image, atol=1e-4)


def test_the_id_names_folder_kind_and_weights(dino_folder, tmp_path):
    first = load_image_encoder(dino_folder).id
    assert first.startswith("dino (dinov2, ")
    other = tmp_path / "dino"
    shutil.copytree(dino_folder, other)
    assert load_image_encoder(other).id == first
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (other / "model.safetensors").write_bytes(bytes(data))
    assert load_image_encoder(other).id != first


def test_preprocessing_matches_pillow():
    steps = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)
    image = Image.fromarray(steps).resize((96, 144), Image.Resampling.BICUBIC)
    preprocessing = Preprocessing(resize=32, crop=(32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    expected = np.asarray(image.resize((32, 48), Image.Resampling.BICUBIC).crop((0, 8, 32, 40))) / 255
    difference = (preprocessing(tensor)[0].permute(1, 2, 0).numpy() - expected).__abs__().max()
    # Pillow rounds to 8 bits between its two passes.
    assert difference < 1.5 / 255


def test_a_fixed_size_is_not_cropped_and_a_small_image_is_padded():
    fixed = Preprocessing.from_config({"size": {"height": 24, "width": 16}, "do_normalize": False}, "here")
    assert fixed(torch.zeros(1, 3, 50, 70)).shape == (1, 3, 24, 16)
    padded = Preprocessing(resize=None, crop=(8, 8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))(torch.ones(1, 3, 4, 4))
    assert padded.sum() == 3 * 16
    assert padded[0, 0, 2:6, 2:6].min() == 1


def test_a_combined_processor_file_is_read(dino_folder, tmp_path, pictures):
    other = tmp_path / "dino"
    shutil.copytree(dino_folder, other)
    inner = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").unlink()
    (other / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    same = load_image_encoder(dino_folder).encode_images(pictures)
    assert torch.equal(load_image_encoder(other).encode_images(pictures), same)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "config.json does not exist"),
        ("preprocessor_config.json", None, "preprocessor_config.json does not exist"),
        ("config.json", {"model_type": "bert"}, "model_type is 'bert'; expected one of clip, vit"),
        ("preprocessor_config.json", {"resample": 5}, "resample is 5"),
        ("preprocessor_config.json", {"size": 32}, "expected image_mean"),
        ("preprocessor_config.json", {"size": {"edge": 3}, "do_normalize": False}, "size is {'edge': 3}"),
    ],
)
def test_a_wrong_folder_says_what_was_expected(dino_folder: Path, tmp_path, file, content, message):
    folder = tmp_path / "dino"
    shutil.copytree(dino_folder, folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message.replace("(", r"\(").replace("{", r"\{")):
        load_image_encoder(folder)


def test_an_encoder_of_pickles_alone_is_refused(dino_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dino"
    shutil.copytree(dino_folder, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickles \(pytorch_model.bin\)"):
        load_image_encoder(folder)


def test_shards_may_be_called_anything_their_index_says(dino_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dino"
    shutil.copytree(dino_folder, folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"part-{index % 2}.safetensors" for index, name in enumerate(sorted(state))}
    for file in sorted(set(places.values())):
        save_file({name: state[name] for name in state if places[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    expected = load_image_encoder(dino_folder).encode_images(pictures)
    assert torch.equal(load_image_encoder(folder).encode_images(pictures), expected)
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks part-1\.safetensors; the weights were fetched in part"):
        load_image_encoder(folder)


def test_only_clip_encodes_texts(dino_folder):
    with pytest.raises(ModelError, match="expected clip"):
        load_image_text_encoder(dino_folder)


@pytest.mark.parametrize(
    ("settings", "processor"),
    [
        ({"size": {"shortest_edge": 28}, "crop_pct": 0.875}, "ConvNextImageProcessor"),
        ({"size": {"shortest_edge": 400}, "crop_pct": 0.875}, "ConvNextImageProcessor"),
        ({"size": 24, "feature_extractor_type": "ViTFeatureExtractor"}, "ViTImageProcessor"),
        ({"size": 24, "crop_size": 20, "do_center_crop": True}, "CLIPImageProcessor"),
    ],
)
def test_sizes_are_those_of_the_processor_that_wrote_the_file(settings, processor):
    """What transformers makes of the same file: of a number, and of ConvNeXT's and ResNet's share of the picture."""
    import transformers

    told = {"do_normalize": False, "resample": 3, **settings}
    steps = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)
    image = Image.fromarray(steps).resize((40, 60), Image.Resampling.BICUBIC)
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    got = Preprocessing.from_config(told, "here")(tensor)
    expected = getattr(transformers, f"{processor}Pil")(**told)(images=image, return_tensors="pt")["pixel_values"]
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) < 3 / 255


def test_settings_that_are_no_object_are_named(dino_folder, tmp_path):
    other = tmp_path / "dino"
    shutil.copytree(dino_folder, other)
    for name in ("preprocessor_config.json", "config.json"):
        (other / name).write_text("[1]")
        with pytest.raises(ModelError, match=f"{name} holds a list, expected the settings"):
            load_image_encoder(other)
