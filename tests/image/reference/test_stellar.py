"""StellarNet: a word told by the subject cut out, in every text encoder, and nothing else of the photo."""

from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.stellar import StellarNet, StellarNetConfig
from pcs_ext.image.reference.words import noun_rows
from pcs_ext.image.types import Conditioning
from tests.support.tiny_reference import WIDTH, at_random, drawn, tiny_system


@torch.no_grad()
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_the_word_is_of_what_was_cut_out_in_every_text_encoder(
    family: str, eye: Path, request: pytest.FixtureRequest
) -> None:
    backbone: AbstractBackbone = request.getfixturevalue(family)
    adapter, _ = tiny_system("stellar", backbone, eye)
    assert isinstance(adapter, StellarNet)
    at_random(adapter, backbone)
    adapter.eval()
    whole, cut = drawn(1, 2, WIDTH), drawn(1, 2, WIDTH, seed=1)
    shown = Shown(sight=Sight(features=whole, cut=cut), nouns=(("dog", "dog"),))
    texts: list[str] = []
    meant: list[torch.Tensor] = []

    def encode(prompts, *, size=None) -> Conditioning:
        texts.extend(prompts)
        meant.extend(rows.current for rows in adapter.seen_words.rows())  # type: ignore[attr-defined]
        return backbone.encode_prompt(prompts, size=size)

    with adapter.inserted(backbone):
        adapter.conditioned(backbone, encode, ["the dog on beach"], shown)
        adapter.conditioned(backbone, encode, ["the dog on beach"], shown, scale=0.5)
    assert texts == ["the <reference>_1 on beach"] * 2
    word = adapter.mapper(cut[0]).mean(0)
    count = len(backbone.text_encoders)
    made = torch.cat([rows[0, 1] for rows in meant[:count]])
    torch.testing.assert_close(made, word)
    half = torch.cat([rows[0, 1] for rows in meant[count:]])
    torch.testing.assert_close(half, (word + torch.cat(noun_rows(backbone, "dog"))) / 2)
    pairs = Pairs(latents=torch.zeros(1, 4, 8, 8), captions=("the dog",), shown=shown, weights=None)
    with adapter.watching(backbone, pairs) as terms:
        torch.testing.assert_close(terms()["words"], 0.01 * word.abs().mean())
    with pytest.raises(ConfigError, match="must be at least 1"):
        StellarNetConfig(rank=0)
