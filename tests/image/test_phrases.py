"""Words among tokens, by hand."""

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import EmbeddingConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.phrases import align, phrase_positions


def test_a_phrase_is_looked_for_behind_a_beginning(sd: AbstractBackbone) -> None:
    text = "a dog on a dog"
    assert phrase_positions(sd, text, "dog") == (2,)
    assert phrase_positions(sd, text, "dog", behind="a dog on") == (5,)
    with pytest.raises(UsageError, match="'on' does not stand in the prompt"):
        phrase_positions(sd, text, "on", behind="a dog on")


def test_phrases_are_found_by_tokens(sd: AbstractBackbone) -> None:
    assert phrase_positions(sd, "a red dog on the beach", "dog") == (3,)
    assert phrase_positions(sd, "a red dog on the beach", "red dog") == (2, 3)
    split = phrase_positions(sd, "a zebra in the snow", "zebra")  # no word of the tiny tokenizer
    assert len(split) > 1
    assert split[0] == 2
    word = build_adapter("word", EmbeddingConfig(placeholder="<rex>", num_vectors=3))
    with injected(sd, word):
        assert phrase_positions(sd, "a photo of <rex> in the snow", "<rex>") == (4, 5, 6)
    for phrase in ("cat", ""):
        with pytest.raises(UsageError, match=f"{phrase!r} does not stand in the prompt"):
            phrase_positions(sd, "a red dog", phrase)
    with pytest.raises(UsageError, match="stands behind the 22 tokens"):
        phrase_positions(sd, "red " * 22 + "dog", "dog")


def test_alignment_keeps_rows_and_gives_new_words_the_old_ones_place(sd: AbstractBackbone) -> None:
    alignment = align(sd, "a dog on the beach", "a sks cat on the beach")
    assert alignment.source.tolist()[:7] == [0, 1, 2, 3, 4, 5, 6]  # start, a, dog, on, the, beach, end
    assert alignment.target.tolist()[:8] == [0, 1, 2, 2, 3, 4, 5, 6]
    source, target = (torch.rand(2, 3, 5, 24, generator=torch.Generator().manual_seed(i)).softmax(-1) for i in (0, 1))
    moved = alignment.move(source, target)
    torch.testing.assert_close(moved.sum(-1), torch.ones(2, 3, 5))
    torch.testing.assert_close(moved[..., :2], source[..., :2])
    torch.testing.assert_close(moved[..., 2] + moved[..., 3], source[..., 2])
    torch.testing.assert_close(moved[..., 2] / moved[..., 3], target[..., 2] / target[..., 3])
    torch.testing.assert_close(moved[..., 4:8], source[..., 3:7])
    inserted = align(sd, "a dog", "a red dog")
    assert inserted.target.tolist()[:5] == [0, 1, 2, 2, 3]
    shorter = align(sd, "a red dog", "a dog")
    for alignment in (inserted, shorter):
        torch.testing.assert_close(alignment.move(source, target).sum(-1), torch.ones(2, 3, 5))
    same = align(sd, "a dog", "a dog")
    torch.testing.assert_close(same.move(source, target)[..., :4], source[..., :4])
