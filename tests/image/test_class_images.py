"""Class images are made once, and only those that are missing."""

from pathlib import Path

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.class_images import ClassImages
from pcs_ext.image.rare_tokens import check_rare_token, is_single_token, pick_rare_tokens
from pcs_ext.image.sample import SampleConfig

CONFIG = SampleConfig(num_inference_steps=2)


def make(backbone: AbstractBackbone, folder: Path, count: int, prompt: str = "a photo of a dog") -> ClassImages:
    return ClassImages.generate(backbone, prompt=prompt, count=count, config=CONFIG, folder=folder)


def test_a_larger_count_keeps_what_is_there_and_another_prompt_does_not_share(
    sd: AbstractBackbone, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    two = make(sd, folder, 2)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    four = make(sd, folder, 4)
    assert torch.equal(two.images, four.images[:2])
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    make(sd, folder, 1, "a photo of a cat")
    assert len(list(folder.iterdir())) == 2


def test_a_set_half_made_is_completed_to_the_same_images(sd: AbstractBackbone, tmp_path: Path) -> None:
    whole = make(sd, tmp_path / "a", 3)
    make(sd, tmp_path / "b", 3)
    next((tmp_path / "b").rglob("00001.png")).unlink()
    # A missing image is sampled in another batch than before: equal up to one level of rounding.
    assert (whole.images - make(sd, tmp_path / "b", 3).images).abs().max() <= 1.01 / 127.5


def test_batches_are_marked_as_prior(sd: AbstractBackbone, tmp_path: Path) -> None:
    batch = make(sd, tmp_path, 2).batch(5, torch.Generator().manual_seed(0))
    assert batch.is_prior is not None
    assert batch.is_prior.all()
    assert batch.captions == ("a photo of a dog",) * 5
    assert batch.keys is not None
    assert set(batch.keys) <= {"class/0", "class/1"}


def test_rare_words_are_single_tokens_with_neighbours(sd: AbstractBackbone) -> None:
    tokenizer = sd.tokenizers[0]
    table = sd.text_encoders[0].get_input_embeddings().weight
    found = pick_rare_tokens(tokenizer, table, count=5)
    assert {token.word for token in found} == {"bqx", "xzv"}
    assert all(is_single_token(tokenizer, token.word) and len(token.neighbours) == 5 for token in found)
    check_rare_token(tokenizer, "bqx")
    with pytest.raises(UsageError, match="is 7 tokens in this base.*Try one of: "):
        check_rare_token(tokenizer, "zyxwvut")
