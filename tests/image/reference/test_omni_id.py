"""Omni-ID: a code of one size, few pictures that tell many, and a decoder to which nearly all is hidden."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.masked_decoder import MaskedDecoder, cut, places, visible
from pcs_ext.image.reference.pairs import PairData
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.omni_id import OmniID, OmniIDConfig, hidden_error
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from tests.support.tiny_reference import HIDDEN, at_random, drawn, tiny_system


def ready(sd: AbstractBackbone, eye: Path) -> OmniID:
    adapter, _ = tiny_system("omni-id", sd, eye)
    assert isinstance(adapter, OmniID)
    at_random(adapter, sd)
    return adapter


def numbered(pictures: int = 5) -> PairData:
    """Two subjects whose pictures are told apart by their numbers, in latents and features."""
    count = torch.arange(2.0 * pictures)
    return PairData(
        latents=(count[:, None, None, None] / 10).expand(-1, 4, 8, 8).clone(),
        features=count[:, None, None].expand(-1, 17, HIDDEN).clone(),
        captions=[("the dog",)] * (2 * pictures),
        groups=torch.arange(2 * pictures).reshape(2, pictures).unbind(0),
    )


@torch.no_grad()
def test_the_code_has_one_size_and_forgets_order_and_repetition(sd: AbstractBackbone, eye: Path) -> None:
    encoder, photos = ready(sd, eye).encoder, drawn(1, 4, 17, HIDDEN)
    codes = {count: encoder(photos[:, :count]) for count in (1, 2, 4)}
    assert {tuple(code.shape) for code in codes.values()} == {(1, 3, 16)}
    assert (codes[4] - codes[2]).abs().max() > 1e-3, "more photos tell nothing more"
    torch.testing.assert_close(encoder(photos[:, [2, 0, 3, 1]]), codes[4], atol=1e-5, rtol=1e-4)
    # Twice the same photos: every weight of the softmax is halved and counted twice.
    torch.testing.assert_close(encoder(photos[:, [0, 1, 0, 1]]), codes[2], atol=1e-5, rtol=1e-4)
    # Not the mean of the photos' codes: queries ask all photos together.
    apart = torch.stack([encoder(photos[:, [index]]) for index in range(4)]).mean(0)
    assert (codes[4] - apart).abs().max() > 1e-3


def test_few_pictures_are_shown_and_many_told() -> None:
    pairs = numbered().draw(8, torch.Generator().manual_seed(3), photos=3, targets=4)
    told, shown = (10 * pairs.latents[:, 0, 0, 0]).round(), pairs.shown.sight.features[:, :, 0, 0]
    for rows in (slice(0, 4), slice(4, 8)):
        assert len(set(told[rows].tolist())) == 4, "the same picture is told twice"
        assert (shown[rows] == shown[rows][:1]).all(), "the rows of a subject are shown other pictures"
        assert (told[rows] // 5 == shown[rows][0, 0] // 5).all()
    assert pairs.subjects is not None
    assert (pairs.subjects == (told // 5)).all()
    # More than there are: each once before one comes again; a batch that they do not fill is cut.
    many = numbered(3).draw(5, torch.Generator().manual_seed(0), targets=4)
    counts = (10 * many.latents[:4, 0, 0, 0]).round().unique(return_counts=True)[1]
    assert sorted(counts.tolist()) == [1, 1, 2]
    assert len(many.captions) == len(many.latents) == 5


def test_latents_are_cut_into_patches_and_hidden() -> None:
    cells = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    patches, grid = cut(cells, 2)
    assert grid == (2, 2)
    assert patches[0, 1].tolist() == [2, 3, 6, 7, 18, 19, 22, 23]
    assert patches[0, 2].tolist() == [8, 9, 12, 13, 24, 25, 28, 29]
    with pytest.raises(ArtifactError, match="cannot be cut into patches of 3 x 3"):
        cut(cells, 3)
    kept = visible(500, 64, 0.95, torch.Generator().manual_seed(0))
    assert set(kept.sum(1).tolist()) == {3}
    assert kept.any(0).all(), "some places are never seen"
    assert torch.equal(kept, visible(500, 64, 0.95, torch.Generator().manual_seed(0)))
    # Rows in the first half, columns in the second; the first of two frequencies is 1, the other 1/100.
    told = places(2, 3, 8)
    assert told.shape == (6, 8)
    expected = torch.tensor([1.0, 0.01, 2.0, 0.02])
    torch.testing.assert_close(told[5, [0, 1]], expected[:2].sin())
    torch.testing.assert_close(told[5, [2, 3]], expected[:2].cos())
    torch.testing.assert_close(told[5, [4, 5, 6, 7]], torch.cat([expected[2:].sin(), expected[2:].cos()]))
    # |1 - 3| and |2 - 1| are hidden, |9 - 0| is not asked.
    told, true = torch.tensor([[[1.0], [2.0], [9.0]]]), torch.tensor([[[3.0], [1.0], [0.0]]])
    assert float(hidden_error(told, true, torch.tensor([[False, False, True]]))) == 1.5


@torch.no_grad()
def test_the_masked_decoder_reads_visible_patches_and_the_code_alone() -> None:
    torch.manual_seed(0)
    decoder = MaskedDecoder(8, 16, width=16, depth=1, heads=2)
    patches, code = drawn(1, 4, 8), drawn(1, 3, 16, seed=1)
    kept = torch.tensor([[True, False, False, False]])
    told = decoder(patches, kept, code, (2, 2))
    other = patches.clone()
    other[:, 1:] = 7.0
    assert torch.equal(decoder(other, kept, code, (2, 2)), told), "hidden patches are read"
    assert not torch.allclose(decoder(patches + 1, kept, code, (2, 2)), told)
    assert not torch.allclose(decoder(patches, kept, -code, (2, 2)), told)
    assert not torch.allclose(told[:, 1], told[:, 2]), "hidden patches do not know their places"


def test_the_masked_part_needs_no_denoiser_and_the_generator_keeps_the_code(sd: AbstractBackbone, eye: Path) -> None:
    adapter = ready(sd, eye).train()
    settings = ReferenceTraining(batch_size=4, drop_image=0.25, drop_text=0.0, drop_both=0.0, photos=2)
    blank = Sight(features=torch.zeros(17, HIDDEN))
    asked: list[int] = []
    handle = sd.denoiser.register_forward_hook(lambda *_: asked.append(1))
    losses = {}
    with adapter.inserted(sd):
        for stage in adapter.stages:
            adapter.begin_stage(stage.name)
            for name, group in adapter.groups().items():
                for parameter in group:
                    parameter.grad = None
                    parameter.requires_grad_(name in stage.trains)
            loss = ReferenceLoss(sd, adapter, numbered(), settings, blank)
            terms = loss(0, 0, torch.Generator().manual_seed(5))
            again = loss(0, 0, torch.Generator().manual_seed(5)).total
            assert torch.equal(terms.total, again), "not repeatable"
            terms.total.backward()
            learned = {
                name for name, group in adapter.groups().items() if all(p.grad is not None for p in group)
            }  # fmt: skip
            losses[stage.name] = (set(terms.terms), learned, len(asked))
            asked.clear()
    handle.remove()
    assert losses == {
        "masked": ({"masked"}, {"encoder", "masked"}, 0),
        "diffusion": ({"denoising"}, {"encoder", "generator"}, 2),  # asked twice, to see that it repeats
        "generator": ({"denoising"}, {"generator"}, 2),
    }
    assert [stage.share for stage in adapter.stages] == pytest.approx([0.5, 0.25, 0.25])
    assert adapter.targets == 1, "the generator is taught with many of one subject"


@torch.no_grad()
def test_the_generator_reads_the_code_beside_the_text(sd: AbstractBackbone, eye: Path) -> None:
    adapter = ready(sd, eye).eval()
    photos = Sight(features=drawn(2, 2, 17, HIDDEN))
    told = adapter.conditioned(sd, sd.encode_prompt, ["the dog", "a toy"],
                               Shown(sight=photos, seen=torch.tensor([True, False])), scale=0.5)  # fmt: skip
    path = sd.cross_attention_paths()[0]
    keys, values = told.decoupled[0].pairs[path]
    read = adapter.project(adapter.encoder(photos.features))
    torch.testing.assert_close(keys, adapter.maps.keys[path.replace(".", "_")](read))
    torch.testing.assert_close(values[0], 0.5 * adapter.maps.values[path.replace(".", "_")](read)[0])
    assert values[1].abs().max() == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"heads": 7},
        {"decoder_width": 20},
        {"targets": 0},
        {"masked": 0.0},
        {"masked_share": 0.9, "diffusion_share": 0.2},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Omni-ID|masked_share"):
        OmniIDConfig(**wrong)
