"""Language models from folders and our own: what they read, learn and store."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pcs_ext.errors import ArtifactError, ConfigError, ModelError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.attentive_pooling import AttentivePooling
from pcs_ext.image.reference.language_model import (
    PICTURE,
    LanguageConfig,
    LanguageModel,
    build_language_model,
    next_word_loss,
)
from pcs_ext.image.reference.multimodal import MultimodalModel
from tests.support.tiny_language import tiny_language_model
from tests.support.tiny_reference import TINY_LANGUAGE, drawn


@pytest.mark.parametrize("kind", ["llama", "gpt2", "llava"])
@torch.no_grad()
def test_a_folders_model_says_what_transformers_says(kind: str, sd: AbstractBackbone, tmp_path: Path) -> None:
    folder, theirs = tiny_language_model(tmp_path / "lm", kind)
    ours = build_language_model(LanguageConfig(folder=str(folder)), sd)
    ids = [ours.first, *ours.ids("a photo of the dog"), ours.last]
    table = torch.tensor([ids])
    model = MultimodalModel(ours, nn.Identity())
    read = model([["a photo", "of the dog"]], torch.zeros(1, 1, 2, 8), whole=True)
    assert read.ids.tolist() == [ids]
    torch.testing.assert_close(ours.logits(read.states), theirs(input_ids=table).logits)
    if kind != "llava":  # which would look for its pictures
        torch.testing.assert_close(next_word_loss(ours, read), theirs(input_ids=table, labels=table).loss)
    language = (
        [*theirs.model.language_model.parameters(), theirs.lm_head.weight] if kind == "llava" else theirs.parameters()
    )
    assert sum(own.numel() for own in ours.own) == sum(own.numel() for own in language)


@torch.no_grad()
def test_pictures_stand_among_the_words_and_are_not_told(sd: AbstractBackbone) -> None:
    torch.manual_seed(0)
    language = build_language_model(TINY_LANGUAGE, sd)
    model = MultimodalModel(language, nn.Linear(6, 16))
    features = drawn(2, 2, 3, 6)
    words, more = language.ids("the dog"), language.ids("on grass and")
    read = model([["the dog", 1, "on grass and"], ["the dog"]], features)
    expected = [language.first, *words, -1, PICTURE, PICTURE, PICTURE, -1, *more]
    assert read.ids.tolist() == [expected, [language.first, *words, *[-1] * (5 + len(more))]]
    assert read.there.sum(1).tolist() == [len(expected), 1 + len(words)]
    picture = [model.opens, model.pictures(features[0, 1]), model.ends]
    row = torch.cat([language.embed([language.first, *words]), *picture, language.embed(more)])
    states = language.body(inputs_embeds=row[None]).last_hidden_state[0]
    torch.testing.assert_close(read.states[0], states)
    # What is padded counts for nothing.
    alone = model([["the dog"]], features[1:])
    torch.testing.assert_close(read.states[1, : 1 + len(words)], alone.states[0])
    # The word after a picture is told from the vector that ends it; no place of the picture is told.
    logs = F.log_softmax(language.logits(states), -1)
    asked = [(place, expected[place + 1]) for place in range(len(expected) - 1) if expected[place + 1] >= 0]
    single = model([["the dog", 1, "on grass and"]], features[:1])
    torch.testing.assert_close(
        next_word_loss(language, single), -torch.stack([logs[place, word] for place, word in asked]).mean()
    )
    assert (len(words) + 5, more[0]) in asked


@torch.no_grad()
def test_pooling_is_one_attention_of_queries_to_patches_and_themselves() -> None:
    torch.manual_seed(0)
    pooling = AttentivePooling(6, 8, 3, 1)
    patches = drawn(2, 5, 6)
    told = torch.cat([pooling.enter(patches), pooling.queries.expand(2, -1, -1)], dim=1)
    attention = pooling.attention
    ask, key, value = attention.in_proj_weight.chunk(3)
    scores = (pooling.queries @ ask.T) @ (told @ key.T).transpose(1, 2) / 8**0.5
    torch.testing.assert_close(pooling(patches), attention.out_proj(scores.softmax(-1) @ (told @ value.T)))


def test_one_that_stays_is_not_stored_and_must_be_the_same(sd: AbstractBackbone, tmp_path: Path) -> None:
    folder, _ = tiny_language_model(tmp_path / "lm")
    kept = build_language_model(LanguageConfig(folder=str(folder), trains=False), sd)
    assert kept.own == ()
    assert not any(parameter.requires_grad for parameter in kept.parameters())
    state = {f"model.language.{key}": value for key, value in kept.state_dict().items()}
    assert list(kept.without_weights(state, "model.language.")) == ["model.language.known"]
    kept.check_known(state["model.language.known"].half())
    with pytest.raises(ArtifactError, match="was trained with a language model 00000000"):
        kept.check_known(torch.zeros(4))
    learns = build_language_model(LanguageConfig(folder=str(folder)), sd)
    assert learns.without_weights(state, "model.language.") == state


def test_words_of_learned_subjects_are_left_out(sd: AbstractBackbone) -> None:
    language = build_language_model(TINY_LANGUAGE, sd)
    plain = language.ids("a dog")
    sd.tokenizers[0].add_tokens("<rex>")
    assert language.ids("a <rex> dog") == plain


def test_folders_that_hold_no_language_model_are_refused(sd: AbstractBackbone, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no language model"):
        build_language_model(LanguageConfig(folder=str(tmp_path)), sd)
    folder, _ = tiny_language_model(tmp_path / "lm")
    shutil.copytree(folder, tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="could not be read as a language model"):
        build_language_model(LanguageConfig(folder=str(tmp_path / "cut")), sd)
    with pytest.raises(ConfigError, match="random weights must learn"):
        LanguageConfig(trains=False)
    with pytest.raises(ConfigError, match="even multiple of heads"):
        LanguageConfig(width=6, heads=2)
    assert isinstance(build_language_model(LanguageConfig(folder=str(folder)), sd), LanguageModel)
