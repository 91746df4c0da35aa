"""Emu2: the regression by hand, pictures told word by word, and a decoder of what the encoder sees."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.language_model import PICTURE, Read
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.emu2 import AveragedPatches, Emu2, regression
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.image.types import Conditioning
from tests.image.reference.test_kinds import bright_and_dark, latents, opposite, predicted
from tests.support.tiny_reference import HIDDEN, at_random, drawn, tiny_system


def emu(sd: AbstractBackbone, eye: Path) -> tuple[Emu2, Any]:
    adapter, encoder = tiny_system("emu2", sd, eye)
    assert isinstance(adapter, Emu2)
    at_random(adapter, sd)
    return adapter, encoder


@torch.no_grad()
def test_patches_are_averaged_to_a_grid_without_the_class_token() -> None:
    words = AveragedPatches(3, 5, 2)
    patches = drawn(2, 17, 3)
    grid = patches[:, 1:].unflatten(1, (4, 4))
    by_hand = torch.stack(
        [grid[:, y : y + 2, x : x + 2].flatten(1, 2).mean(1) for y in (0, 2) for x in (0, 2)], dim=1
    )  # fmt: skip
    torch.testing.assert_close(words.averaged(patches), by_hand)
    torch.testing.assert_close(words(patches), words.up(by_hand))
    torch.testing.assert_close(AveragedPatches(3, 5, 8).averaged(patches), patches[:, 1:])
    torch.testing.assert_close(
        words.averaged(patches[:, 1:]), by_hand, msg="a convolutional network has no class token"
    )


def test_each_word_of_a_picture_is_told_by_the_place_before_it() -> None:
    """A row "x <2> <1>" and a row "<1>", of pictures of two words: errors by hand."""
    ids = torch.tensor(
        [[5, 6, -1, PICTURE, PICTURE, -1, -1, PICTURE, PICTURE, -1], [5, -1, PICTURE, PICTURE, *[-1] * 6]]
    )
    told = torch.zeros(2, 10, 1)
    told[0, [2, 3, 6, 7], 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    told[1, [1, 2], 0] = torch.tensor([5.0, 6.0])
    pictures = torch.tensor([[[0.0, 0.0], [10.0, 10.0]], [[1.0, 1.0], [0.0, 0.0]]])[..., None]
    read = Read(states=told, there=ids != 0, ids=ids)
    prompts = [["x", 1, 0], [0]]
    every = [(1 - 10) ** 2, (2 - 10) ** 2, 3**2, 4**2, (5 - 1) ** 2, (6 - 1) ** 2]
    assert float(regression(told, read, prompts, pictures, last=False)) == pytest.approx(sum(every) / 6)
    assert float(regression(told, read, prompts, pictures, last=True)) == pytest.approx(sum(every[2:]) / 4)


@torch.no_grad()
def test_a_picture_is_told_word_by_word_as_it_was_learned(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = emu(sd, eye)
    adapter.eval()
    features = drawn(3, 1, 16, HIDDEN)
    prompts: list[list[Any]] = [["a photo of", 0, "on grass"], ["the dog"], ["a photo of", 0, "on grass"]]
    told = adapter.imagined(prompts, features)
    assert told.shape == (3, 4, HIDDEN)
    for row, prompt in enumerate(prompts):
        start, _ = adapter.model.rows([prompt], features[row : row + 1])[0]
        words: list[Tensor] = []
        for _ in range(4):  # all is read anew for every word
            text = torch.cat([start, adapter.model.opens, *(adapter._words.up(word) for word in words)])
            states = adapter.model.language(text[None], torch.ones(1, len(text), dtype=torch.bool))
            words.append(adapter.down(states[:, -1]))
        torch.testing.assert_close(told[row], torch.cat(words), atol=1e-4, rtol=1e-4)
    assert (told[0] - told[2]).abs().max() > 1e-3, "what is shown matters"


@torch.no_grad()
def test_the_decoder_reads_the_picture_in_the_texts_place(
    sd: AbstractBackbone, sdxl: AbstractBackbone, eye: Path
) -> None:
    for backbone in (sd, sdxl):
        adapter, _ = emu(backbone, eye)
        adapter.eval()
        features = drawn(2, 1, 16, HIDDEN)
        shown = Shown(sight=Sight(features=features), nouns=(("dog",),) * 2)
        told = adapter.imagined([["the dog", 0], ["red dog", 0, "on grass"]], features)
        plain = backbone.encode_prompt(["the dog", "red dog on grass"])
        pooled = None if adapter.pool is None else adapter.pool(told.mean(1))
        assert (pooled is None) == (plain.pooled is None)
        alone = Conditioning(states=adapter.project(told), pooled=pooled, time_ids=plain.time_ids)
        with adapter.inserted(backbone):
            expected = backbone.predict(*latents(), alone)
        found = predicted(backbone, adapter, shown, prompts=["the dog", "red dog on grass"])
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_parts_of_the_training_teach_what_they_are_for(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = emu(sd, eye)
    sight = opposite(Sight(features=drawn(1, 16, HIDDEN)))
    settings = ReferenceTraining(batch_size=8, drop_image=0.0, drop_text=0.0, drop_both=0.3)
    loss = ReferenceLoss(sd, adapter, bright_and_dark(sight), settings, sight.map(lambda x: 0 * x[0]), encoder=encoder)
    adapter.train()
    reads = {"language", "pictures", "told"}
    taught = {
        "decoder": ({"denoising"}, {"decoder", "base"}),
        "language": ({"language", "regression"}, reads),
        "instruct": ({"regression"}, reads),
    }
    with adapter.inserted(sd):
        own = {name: group for name, group in adapter.groups().items() if group}
        for stage in adapter.stages:
            adapter.begin_stage(stage.name)
            terms, groups = taught[stage.name]
            found = loss(0, 0, torch.Generator().manual_seed(0))
            assert found.terms.keys() == terms
            assert set(stage.trains) == groups
            for name, parameters in own.items():
                gradients = torch.autograd.grad(found.total, parameters, retain_graph=True, allow_unused=True)
                assert all((gradient is not None) == (name in groups) for gradient in gradients), (stage.name, name)
    pairs = loss._drawn(torch.Generator().manual_seed(0))
    assert set(pairs.captions) == {"a photo of the dog <1> <2>", "a photo of the <1> <2>", "<2>"}
    rows = dict(zip(pairs.captions, pairs.shown.rows, strict=True))
    assert rows == {caption: caption != "<2>" for caption in rows}
    adapter.begin_stage("language")
    loss.settings = ReferenceTraining(batch_size=64, drop_image=0.0, drop_text=0.0, drop_both=0.0)
    captions = loss._drawn(torch.Generator().manual_seed(0)).captions
    counts = {caption: captions.count(caption) for caption in set(captions)}
    assert counts.keys() == {
        "<2> a photo of the dog", "a photo of the dog <2>", "a photo of the dog <1> <2>", "a photo of the <1> <2>"
    }  # fmt: skip
    assert 12 < counts["<2> a photo of the dog"] < 32
    assert 12 < counts["a photo of the dog <2>"] < 32
