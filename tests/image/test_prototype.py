"""The prototype of a subject: a mean of what CLIP sees and reads, against CLIP asked directly."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from pcs_ext.errors import ConfigError, ModelError
from pcs_ext.image.adapters import EmbeddingConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import Concept
from pcs_ext.image.evaluate.encoders import load_image_text_encoder
from pcs_ext.image.objectives import DenoisingObjective, ObjectiveConfig
from pcs_ext.image.prototype import Prototype
from pcs_ext.image.types import Batch
from tests.support.encoders import tiny_clip


def test_against_clip(sd: AbstractBackbone, tmp_path: Path) -> None:
    folder = tiny_clip(tmp_path / "clip", width=16)
    clip = load_image_text_encoder(folder)
    word = build_adapter("word", EmbeddingConfig(placeholder="<r>", initializer="cat"))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    masks = torch.zeros(2, 1, 32, 32)
    masks[:, :, 4:20] = 1
    concept = Concept(class_noun="dog", mode="learned", token="<r>", with_noun=False)
    with injected(sd, word):

        def read(text: str) -> torch.Tensor:
            ids = sd.tokenizers[0](text, padding="max_length", max_length=24, return_tensors="pt").input_ids
            pooled = sd.text_encoders[0](ids).pooler_output
            return normalize(clip.model.text_projection(pooled), dim=-1)[0]

        prototype = Prototype(sd, concept, str(folder))
        batch = Batch(images=images, captions=("a photo of a <r>",) * 2, masks=masks)
        alone = torch.where(masks.bool(), images, torch.tensor(-1.0))
        wanted = (clip.encode_images(images) + clip.encode_images(alone) + read("a photo of a dog")) / 3
        expected = (1 - normalize(wanted, dim=-1) @ read("a photo of a <r>")).mean()
        found = prototype(batch)
        torch.testing.assert_close(found, expected)
        whole = (clip.encode_images(images) + read("a photo of a dog")) / 2
        expected = (1 - normalize(whole, dim=-1) @ read("a photo of a <r>")).mean()
        torch.testing.assert_close(prototype(dataclasses.replace(batch, masks=None)), expected)
        found.backward()
        (row,) = word.parameters()["embedding"]
        assert row.grad is not None
        assert row.grad.any()
    with pytest.raises(ModelError, match="projects texts of width 32"):
        Prototype(sd, concept, str(tiny_clip(tmp_path / "other", width=32)))


def test_without_denoising_the_denoiser_is_not_asked(sd: AbstractBackbone) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("the denoiser was asked")

    vars(sd)["predict"] = refuse
    objective = DenoisingObjective(ObjectiveConfig(denoising_weight=0.0, prototype_weight=1.0))
    batch = Batch(images=torch.zeros(1, 3, 32, 32), captions=("a dog",))
    terms = objective(sd, batch, torch.zeros(1, 4, 8, 8), sd.encode_prompt(["a dog"]), torch.Generator())
    assert not terms.terms
    for weight in (0.0, 1.0):
        with pytest.raises(ConfigError, match="without denoising needs a term or a prototype"):
            ObjectiveConfig(denoising_weight=0.0, prior_loss_weight=weight, prototype_weight=weight)
