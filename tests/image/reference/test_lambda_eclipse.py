"""lambda-ECLIPSE: the contrast by hand, what the prior reads, and a decoder of embeddings alone."""

from pathlib import Path

import torch

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.albums import read_subjects
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.encoder import open_encoder
from pcs_ext.image.reference.files import reading_of
from pcs_ext.image.reference.kinds import build_adapter
from pcs_ext.image.reference.nouns import noun_positions
from pcs_ext.image.reference.pairs import encode_subjects
from pcs_ext.image.reference.prior import text_contrast
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.lambda_eclipse import LambdaEclipse
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.reporter import SilentReporter
from tests.image.reference.test_kinds import bright_and_dark, opposite
from tests.support.encoders import tiny_clip
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import TINY, WIDTH, at_random, drawn, nothing_denoised, tiny_system

PROMPT = "the dog and a cat"


def test_an_embedding_is_told_from_other_texts() -> None:
    """Cosines 1 and 0 with the own and the other text, and 0.6 and 0.8: over a temperature of 1/2."""
    embeddings, texts = torch.tensor([[2.0, 0.0], [0.8, 0.6]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    first = torch.tensor([2.0, 0.0]).logsumexp(0) - 2.0
    second = torch.tensor([1.6, 1.2]).logsumexp(0) - 1.2
    torch.testing.assert_close(text_contrast(embeddings, texts, 0.5), (first + second) / 2)


@torch.no_grad()
def test_the_prior_reads_pictures_in_their_words_places(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("lambda-eclipse", sd, eye)
    assert isinstance(adapter, LambdaEclipse)
    at_random(adapter, sd)
    sight = Sight(features=drawn(1, 2, WIDTH))
    read: list[tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor]] = []
    handle = adapter.prior.register_forward_pre_hook(lambda module, inputs: read.append(inputs))  # type: ignore[arg-type]
    adapter.eval()
    told = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], Shown(sight=sight, nouns=(("dog", "cat"),)))
    handle.remove()
    states, (rows, tokens), embeddings = read[0]
    assert torch.equal(states, sd.encode_prompt([PROMPT]).states)
    assert rows.tolist() == [0, 0]
    assert tokens.tolist() == [noun_positions(sd, PROMPT, noun)[0] for noun in ("dog", "cat")]
    assert torch.equal(embeddings, sight.features[0])
    # The decoder knows the embedding alone: the words are gone.
    torch.testing.assert_close(told.states, sd.encode_prompt([""]).states)
    keys, _ = next(iter(told.decoupled[0].pairs.values()))
    path = next(iter(told.decoupled[0].pairs))
    tokens_of = adapter.project(adapter.prior(states, (rows, tokens), embeddings))
    torch.testing.assert_close(keys, adapter.maps(tokens_of)[path][0])


def test_the_decoder_learns_from_the_picture_itself_and_the_prior_without_the_denoiser(
    sd: AbstractBackbone, tmp_path: Path
) -> None:
    encoder = open_encoder(tiny_clip(tmp_path / "clip"), "embedding")
    assert encoder.texts is not None
    adapter = build_adapter(TINY["lambda-eclipse"], sd, reading_of(encoder), seed=0)
    assert isinstance(adapter, LambdaEclipse)
    at_random(adapter, sd)
    sight = opposite(Sight(features=drawn(1, encoder.width)))
    settings = ReferenceTraining(batch_size=4, drop_image=0.0, drop_text=0.0, drop_both=0.0)
    loss = ReferenceLoss(sd, adapter, bright_and_dark(sight), settings, sight.map(lambda x: 0 * x[0]), encoder=encoder)
    adapter.train()
    with adapter.inserted(sd):
        groups = adapter.groups()
        adapter.begin_stage("decoder")
        terms = loss(0, 0, torch.Generator().manual_seed(0)).terms
        assert terms.keys() == {"denoising"}
        assert all(g is not None for g in torch.autograd.grad(terms["denoising"], groups["decoder"], allow_unused=True))
        adapter.begin_stage("prior")
        pairs = loss._drawn(torch.Generator().manual_seed(0))
        with nothing_denoised(sd):
            terms = loss(0, 0, torch.Generator().manual_seed(0)).terms
        assert terms.keys() == {"projection", "contrast"}
        target = pairs.shown.target
        assert target is not None
        asked = Asked(backbone=sd, encode=sd.encode_prompt, prompts=pairs.captions, shown=pairs.shown)
        told = adapter.embeddings(asked)
        torch.testing.assert_close(terms["projection"], (told - target[:, 0]).square().mean())
        texts = encoder.texts(["a photo of the dog"] * 4)
        contrast = 0.2 * text_contrast(told, texts, 0.07)
        torch.testing.assert_close(terms["contrast"], contrast)


def test_targets_are_seen_whole_where_several_subjects_are_shown(
    sd: AbstractBackbone, eye: Path, tmp_path: Path
) -> None:
    pairs, encoder = albums(tmp_path / "pairs", couples=1), open_encoder(eye, "embedding")
    subjects = read_subjects(pairs, asks_noun=True, several=True)
    data = encode_subjects(subjects, sd, encoder, SilentReporter(), whole=True)
    drawn_pairs = data.draw(3, torch.Generator().manual_seed(0), target=True)
    target = drawn_pairs.shown.target
    assert target is not None
    assert target.shape == (3, 1, WIDTH)
    own = next(own for own in subjects if len(own.nouns) == 2)
    assert data.whole is not None
    row = [photo.path for album in subjects for photo in album.photos].index(own.photos[0].path)
    torch.testing.assert_close(data.whole[row].float(), encoder(own.photos[0].image[None])[0], atol=1e-2, rtol=1e-2)
    assert drawn_pairs.shown.sight.features.shape[:2] == (3, 2)
