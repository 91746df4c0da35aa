"""A part by itself: the masked latents, the caption of the word alone, and no mask."""

import dataclasses

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import EmbeddingConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.terms import RegionConfig, build_term
from pcs_ext.image.types import Batch
from tests.image.terms.test_context_term import step_of


def test_against_a_pass_of_its_own(sd: AbstractBackbone) -> None:
    word = build_adapter("word", EmbeddingConfig(placeholder="<r>", initializer="dog"))
    masks = torch.zeros(2, 1, 32, 32)
    masks[0, :, :16], masks[1, :, :, 4:8] = 1, 1
    with injected(sd, word), torch.no_grad():
        step = step_of(sd, {"word": word})
        asked = step.asked()
        term = build_term(RegionConfig(template="a {subject}", weight=0.25))
        assert term(step) == 0, "photos without masks"
        cells = torch.zeros(2, 1, 8, 8)
        cells[0, :, :4], cells[1, :, :, 1] = 1, 1
        prediction = sd.predict(cells * asked.latents, asked.timesteps, sd.encode_prompt(["a <r>"] * 2))
        expected = 0.25 * (prediction - asked.target).square().mean()
        batch = Batch(images=step.batch.images, captions=step.batch.captions, masks=masks)
        torch.testing.assert_close(term(dataclasses.replace(step, batch=batch)), expected)
    with pytest.raises(ConfigError, match="where the word goes"):
        RegionConfig(template="a photo")
