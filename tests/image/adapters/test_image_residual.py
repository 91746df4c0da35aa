"""A vector per photo: its formula, the loss around it, and that pictures are made without it."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ConfigError, ModelError
from pcs_ext.image.adapters import ImageResidualConfig, build_adapter, injected
from pcs_ext.image.adapters.image_residual import ImageMapper, ImageResidualAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import SubjectDataset, find_photos
from pcs_ext.image.objectives import DenoisingObjective, ObjectiveConfig
from pcs_ext.image.photo_reader import PhotoReader
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.terms import DisentangleConfig
from pcs_ext.image.terms.disentangle import alikeness
from pcs_ext.image.types import Batch


def test_the_mapper_is_its_formula() -> None:
    mapper, features = ImageMapper(4, 4, 0), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    kept = 0.5 * features  # sigmoid(0)
    down, up = mapper.down, mapper.up
    expected = kept + (kept @ down.weight.T + down.bias).clamp_min(0) @ up.weight.T + up.bias
    torch.testing.assert_close(mapper(features), expected)
    assert ImageMapper(6, 4, 0)(torch.ones(2, 6)).shape == (2, 4)


def test_three_terms_against_separate_passes(sd: AbstractBackbone) -> None:
    adapter = build_adapter("photo", ImageResidualConfig(width=6))
    assert isinstance(adapter, ImageResidualAdapter)
    captions = ("a photo of a dog", "a cat")
    features = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    batch = Batch(images=torch.zeros(2, 3, 32, 32), captions=captions, features=features)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    config = DisentangleConfig(weak_weight=0.5, cosine_weight=0.25)
    with injected(sd, adapter), torch.no_grad():
        text = sd.encode_prompt(captions)
        objective = DenoisingObjective(ObjectiveConfig(terms=(config,)), {"photo": adapter})
        got = objective(sd, batch, latents, text, torch.Generator().manual_seed(3))
        told = adapter.told(text, batch)
        vectors = adapter.vectors(batch)
        torch.testing.assert_close(told.states, text.states + vectors[:, None])
        plain = DenoisingObjective(ObjectiveConfig())
        with_photo = plain(sd, batch, latents, told, torch.Generator().manual_seed(3)).total
        without = plain(sd, batch, latents, text, torch.Generator().manual_seed(3)).total
        torch.testing.assert_close(got.terms["denoising"], with_photo)
        expected = 0.5 * without + 0.25 * alikeness(text.states, vectors)
        torch.testing.assert_close(got.terms["disentangle"], expected)
        by_itself = dataclasses.replace(config, sample_weight=2.0)
        objective = DenoisingObjective(ObjectiveConfig(terms=(by_itself,)), {"photo": adapter})
        third = objective(sd, batch, latents, text, torch.Generator().manual_seed(3)).terms["disentangle"]
        speechless = dataclasses.replace(text, states=vectors[:, None].expand_as(text.states))
        alone = plain(sd, batch, latents, speechless, torch.Generator().manual_seed(3)).total
        torch.testing.assert_close(third, expected + 2 * alone)
    means = text.states.mean(1)
    cosine = (means * vectors).sum(-1) / (means.norm(dim=-1) * vectors.norm(dim=-1))
    torch.testing.assert_close(alikeness(text.states, vectors), cosine.mean())


def test_features_are_read_once_and_have_the_width_that_is_said(photos: Path) -> None:
    recipe = RECIPES["disenbooth"].build("dog", "toybox")
    config = recipe.adapters["photo"]
    assert isinstance(config, ImageResidualConfig)
    reader = PhotoReader(config.encoder, config.width, torch.device("cpu"))
    data = SubjectDataset(find_photos(photos), recipe.concept, resolution=32, augmentation=recipe.augmentation)
    batch = data.batch(3, torch.Generator().manual_seed(0))
    first = reader(batch)
    assert first.shape == (3, config.width)
    assert torch.equal(first, reader(batch))
    assert first.norm(dim=-1).std() > 0, "before they are normalised"
    with pytest.raises(ConfigError, match="have width 192; the adapter's width is 7"):
        PhotoReader("toybox", 7, torch.device("cpu"))
    with pytest.raises(ModelError, match="looks at photos with no/such.*neither a folder nor in the hub cache"):
        PhotoReader("no/such", 192, torch.device("cpu"))
