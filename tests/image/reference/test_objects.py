"""What single systems promise beyond the contract: contrasts, styles, mixed predictions, second denoisers."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import ModelError
from pcs_ext.image.attention import path_level
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.contrasting import contrasted
from pcs_ext.image.reference.encoder import open_encoder, scramble
from pcs_ext.image.reference.latents import LatentEncoder
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.prior import text_contrast
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.artadapter import ArtAdapter
from pcs_ext.image.reference.systems.bootpig import BootPIG, timestep_noise
from pcs_ext.image.reference.systems.customcontrast import CustomContrast, contrasts
from pcs_ext.image.reference.systems.domain_agnostic import neighbour_contrast
from pcs_ext.image.reference.systems.kim_sod_cnn import KimSodCnn, _patches
from pcs_ext.image.reference.systems.retrinet import RetriNet
from pcs_ext.image.reference.systems.styleadapter import StyleAdapter
from pcs_ext.image.reference.systems.umm_diffusion import UMMDiffusion
from pcs_ext.image.terms.steering import info_nce
from pcs_ext.image.types import Conditioning
from tests.support.encoders import tiny_resnet
from tests.support.tiny_reference import HIDDEN, WIDTH, at_random, drawn, layers, tiny_system

PROMPT = "the dog on beach"


def latents() -> tuple[Tensor, Tensor]:
    return drawn(1, 4, 8, 8, seed=4), torch.tensor([300])


def test_contrasts_are_info_nce_of_every_anchor() -> None:
    anchors, others = drawn(5, 6), drawn(5, 6, seed=1)
    subjects = torch.tensor([0, 0, 1, 2, 2])
    alike = subjects[:, None] == subjects[None]
    each = [info_nce(anchors[i], others[alike[i]], others[~alike[i]], 0.2) for i in range(5)]
    torch.testing.assert_close(contrasted(anchors, others, alike, 0.2), torch.stack(each).mean())
    # Against themselves, the third has no other picture of its subject and does not count.
    kept = [i for i in range(5) if i != 2]
    own = alike & ~torch.eye(5, dtype=torch.bool)
    each = [info_nce(anchors[i], anchors[own[i]], anchors[~alike[i]], 0.2) for i in kept]
    torch.testing.assert_close(contrasted(anchors, anchors, alike, 0.2, same=True), torch.stack(each).mean())
    assert contrasted(anchors[:1], anchors[:1], alike[:1, :1], 0.2, same=True) == 0
    # Two subjects at right angles, two pictures each: one positive with cosine 1 and two negatives with 0.
    crossed = torch.eye(4)[[0, 0, 1, 1]]
    crossmodal, multiscale = contrasts(crossed, [crossed, crossed], torch.tensor([0, 0, 1, 1]), 0.5)
    e = torch.tensor(2.0).exp()
    torch.testing.assert_close(crossmodal, -(2 * e / (2 * e + 2)).log())
    torch.testing.assert_close(multiscale, -(e / (e + 2)).log())


def test_contrasts_are_the_same_under_autocast() -> None:
    anchors, others = drawn(8, 32), drawn(8, 32) + 0.3 * drawn(8, 32, seed=1)
    alike, table = torch.eye(8, dtype=torch.bool), drawn(40, 32, seed=2)

    def losses() -> list[Tensor]:
        return [
            contrasted(anchors, others, alike, 0.07), text_contrast(anchors, others, 0.07),
            neighbour_contrast(anchors, table, 4, 0.1), info_nce(anchors[0], others[:1], others[1:], 0.07),
        ]  # fmt: skip

    plain = losses()
    with torch.autocast("cpu", torch.bfloat16):
        assert losses() == plain


def test_customcontrasts_terms_are_of_rows_that_see_pictures(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("customcontrast", sd, eye)
    assert isinstance(adapter, CustomContrast)
    features = drawn(3, 2, 2, 17, HIDDEN)

    def terms(seen: list[bool], features: Tensor) -> dict[str, float]:
        shown = Shown(sight=Sight(features=features), nouns=(("dog", "dog"),) * 3, seen=torch.tensor(seen))
        pairs = Pairs(
            latents=drawn(3, 4, 8, 8), captions=(PROMPT,) * 3, shown=shown, weights=None,
            subjects=torch.tensor([0, 1, 1]),
        )  # fmt: skip
        with adapter.watching(sd, pairs) as watched, torch.no_grad():
            return {name: float(value) for name, value in watched().items()}

    full = terms([True, True, True], features)
    assert set(full) == {"crossmodal", "multiscale"}
    assert min(full.values()) > 0
    changed = features.clone()
    changed[2] = 0
    assert terms([True, True, False], features) == terms([True, True, False], changed)
    assert terms([True, True, False], features) != full


def test_patches_out_of_order_are_patches_at_other_positions(eye: Path, tmp_path: Path) -> None:
    """Against the encoder with its position embeddings in the inverse order, and with loops."""
    plain, mixed = (open_encoder(eye, "layers", depths=(1.0,), scrambled=on) for on in (False, True))
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    cut = scramble(pictures, 8)
    for place, source in enumerate(order.tolist()):
        to, come = (slice(8 * (n // 4), 8 * (n // 4) + 8) for n in (place, source))
        across, beside = (slice(8 * (n % 4), 8 * (n % 4) + 8) for n in (place, source))
        assert torch.equal(cut[..., to, across], pictures[..., come, beside])
    positions = plain.model.vision_model.embeddings.position_embedding.weight
    expected = mixed(pictures)
    with torch.no_grad():
        positions[1 + order] = positions[1:].clone()
    moved = plain(pictures)
    torch.testing.assert_close(expected[:, :, 0], moved[:, :, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(expected[:, :, 1:], moved[:, :, 1 + order], atol=1e-5, rtol=1e-4)
    with pytest.raises(ModelError, match="a resnet has none"):
        open_encoder(tiny_resnet(tmp_path / "net"), "patches", scrambled=True)


@torch.no_grad()
def test_styleadapter_reads_no_class_token_and_balances_two_paths(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = tiny_system("styleadapter", sd, eye)
    assert isinstance(adapter, StyleAdapter)
    assert encoder.scrambled
    at_random(adapter, sd)
    sight = layers(2, 1)
    other = sight.features.clone()
    other[:, :, :, 0] += 5
    assert torch.equal(adapter.style(sight.features), adapter.style(other))
    assert adapter.style(sight.features).shape == (1, 2, adapter.context)
    noisy, timesteps = latents()
    shown = Shown(sight=sight, nouns=(("", ""),))
    plain = sd.predict(noisy, timesteps, sd.encode_prompt([PROMPT]))
    for balance in adapter.balance.values():
        balance.zero_()
    told = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], shown)
    assert torch.equal(sd.predict(noisy, timesteps, told), plain)
    next(iter(adapter.balance.values())).fill_(0.5)
    told = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], shown)
    assert (sd.predict(noisy, timesteps, told) - plain).abs().max() > 1e-4


@torch.no_grad()
def test_artadapter_takes_style_from_statistics_and_content_from_what_is_left(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = tiny_system("artadapter", sd, eye)
    assert isinstance(adapter, ArtAdapter)
    assert encoder.layers == (1, 2)
    at_random(adapter, sd)
    features = layers().features[0]
    shuffled = torch.cat([features[:, :, :1], features[:, :, 1:][:, :, torch.randperm(16)]], dim=2)
    torch.testing.assert_close(adapter.style(features), adapter.style(shuffled), atol=1e-5, rtol=1e-5)
    wide = features.clone()
    wide[:, :, 1:] += features[:, :, 1:] - features[:, :, 1:].mean(2, keepdim=True)
    assert (adapter.style(features) - adapter.style(wide)).abs().max() > 1e-3, "the spread counts"
    clean = drawn(1, 4, 8, 8)
    torch.testing.assert_close(
        adapter.content.content(clean), adapter.content.content(3 * clean + 1), atol=1e-4, rtol=1e-4
    )
    # The content is told inside `watching`, to rows that see a style, and nowhere else.
    noisy, timesteps = latents()
    told = sd.encode_prompt([PROMPT])
    plain = sd.predict(noisy, timesteps, told)
    for seen in (True, False):
        shown = Shown(sight=layers(), nouns=(("",),), seen=torch.tensor([seen]))
        pairs = Pairs(latents=clean, captions=(PROMPT,), shown=shown, weights=None)
        with adapter.watching(sd, pairs) as watched:
            inside = sd.predict(noisy, timesteps, told)
            assert not watched()
        assert torch.equal(inside, plain) == (not seen)
    assert torch.equal(sd.predict(noisy, timesteps, told), plain)


@torch.no_grad()
def test_kims_patches_are_those_of_a_square_behind_all_other_tokens() -> None:
    features = drawn(1, 2, 21, 8)
    assert torch.equal(_patches(features), features[..., 5:, :]), "a class token and four registers"
    assert torch.equal(_patches(features[..., 4:, :]), features[..., 5:, :])
    assert torch.equal(_patches(features[..., 5:, :]), features[..., 5:, :]), "a convolutional network has neither"


def test_kims_local_features_are_a_convolution_of_the_subject_alone(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("kim-sod-cnn", sd, eye)
    assert isinstance(adapter, KimSodCnn)
    adapter.eval()
    cover = torch.zeros(1, 1, 16)
    cover[..., [5, 6, 9, 10]] = 1
    features = drawn(1, 1, 17, HIDDEN)
    outside = features.clone()
    outside[:, :, 1:] += 9 * (1 - cover).unsqueeze(-1)
    local = [adapter.local(x[0, :, 1:], cover[0]) for x in (features, outside)]
    torch.testing.assert_close(local[0][0], local[1][0])
    # The middle of the grid, written out: what the second layer sums over its 3 x 3 neighbours of the first.
    grid = (features[0, 0, 1:] * cover[0, 0, :, None]).reshape(4, 4, HIDDEN)
    padded = F.pad(grid, (0, 0, 2, 2, 2, 2))
    first, second = adapter.local.first, adapter.local.second
    assert first.bias is not None
    assert second.bias is not None
    total = second.bias.clone()
    for dy in range(3):
        for dx in range(3):
            y, x = 1 + dy, 1 + dx  # of the first layer's output around cell (1, 1), 1 being the padding
            near = padded[y : y + 3, x : x + 3]
            hidden = F.gelu(torch.einsum("yxc,ocyx->o", near, first.weight) + first.bias)
            total += second.weight[:, :, dy, dx] @ hidden
    torch.testing.assert_close(local[0][0][0, 5], adapter.local.norm(total), atol=1e-4, rtol=1e-4)
    texts: list[str] = []

    def encode(prompts, *, size=None) -> Conditioning:
        texts.extend(prompts)
        return sd.encode_prompt(prompts, size=size)

    with adapter.inserted(sd):
        shown = Shown(sight=Sight(features=features, cut=features, cover=cover), nouns=(("dog",),))
        told = adapter.conditioned(sd, encode, [PROMPT], shown)
    assert texts == ["the <reference>_1 dog on beach"]
    keys, values = next(iter(told.decoupled[0].pairs.values()))
    off = cover[0, 0] == 0
    assert keys[0, off].abs().max() == values[0, off].abs().max() == 0
    assert keys[0, ~off].abs().amin(0).max() > 0


@torch.no_grad()
def test_umm_mixes_the_prediction_for_both_with_that_for_the_words(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("umm-diffusion", sd, eye)
    assert isinstance(adapter, UMMDiffusion)
    at_random(adapter, sd)
    sight = Sight(features=drawn(2, 1, WIDTH))
    shown = Shown(sight=sight, nouns=(("dog",),) * 2, seen=torch.tensor([True, False]))
    prompts, noisy, timesteps = [PROMPT, "a dog"], drawn(2, 4, 8, 8, seed=4), torch.tensor([300, 20])
    with adapter.inserted(sd):
        both = adapter.train().conditioned(sd, sd.encode_prompt, prompts, shown)
        alone = sd.predict(noisy, timesteps, sd.encode_prompt(prompts))
        pictured = sd.predict(noisy, timesteps, both)
        told = adapter.eval().conditioned(sd, sd.encode_prompt, prompts, shown)
        mixed = sd.predict(noisy, timesteps, told)
    assert torch.equal(told.states, both.states)
    torch.testing.assert_close(mixed[0], 0.7 * pictured[0] + 0.3 * alone[0], atol=1e-5, rtol=1e-5)
    assert (pictured[0] - alone[0]).abs().max() > 1e-3
    torch.testing.assert_close(mixed[1], alone[1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bootpig_looks_at_itself_twice_where_the_reference_is_what_is_drawn(sd: AbstractBackbone, eye: Path) -> None:
    """A reference as noisy as the picture, told the same words, holds the same cells: they say nothing new."""
    adapter, encoder = tiny_system("bootpig", sd, eye)
    assert isinstance(adapter, BootPIG)
    assert encoder.id == f"base ({sd.fingerprint[:8]})"
    adapter.eval()
    clean, timesteps, words = drawn(1, 4, 8, 8), torch.tensor([300]), "a photo of the dog"
    noisy = sd.schedule.add_noise(clean, timestep_noise(300, (4, 8, 8))[None], timesteps)
    plain = sd.predict(noisy, timesteps, sd.encode_prompt([words]))
    with adapter.inserted(sd):
        for pictures in (1, 2):
            shown = Shown(
                sight=Sight(features=clean[:, None].repeat(1, pictures, 1, 1, 1)), nouns=(("dog",) * pictures,)
            )
            told = adapter.conditioned(sd, sd.encode_prompt, [words], shown)
            torch.testing.assert_close(sd.predict(noisy, timesteps, told), plain, atol=1e-5, rtol=1e-5)
        other = Shown(sight=Sight(features=-clean[:, None]), nouns=(("dog",),))
        told = adapter.conditioned(sd, sd.encode_prompt, [words], other)
        answer = sd.predict(noisy, timesteps, told)
        assert (answer - plain).abs().max() > 1e-3
        between = sd.predict(noisy, torch.tensor([299.8]), told)  # as Euler asks
        torch.testing.assert_close(between, answer, atol=1e-2, rtol=0)
    names = set(adapter.reference.net.state_dict())
    assert "conv_in.weight" in names
    assert not any(name.startswith("conv_out") for name in names), "what no kept cell depends on is let go"


@torch.no_grad()
def test_retrinet_fetches_other_things_for_other_words_and_reads_them_going_up(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("retrinet", sd, eye)
    assert isinstance(adapter, RetriNet)
    adapter.eval()
    paths = [path.removesuffix(".attn2") for path in sd.cross_attention_paths()]
    assert list(adapter.names) == [path for path in paths if path.startswith("up_blocks.")]
    # The copy is the downward half, and each reading layer has the cells of its own level.
    assert not any(name.startswith("up_blocks") for name in adapter.encoder.net.state_dict())
    for path, source in adapter.read.items():
        assert not source.startswith("up_blocks.")
        assert path_level(sd, path) == path_level(sd, source)
    noisy, timesteps = latents()
    picture = Sight(features=drawn(1, 2, 4, 8, 8))
    prompt = "the dog and the cat"
    with adapter.inserted(sd):
        plain = sd.predict(noisy, timesteps, sd.encode_prompt([prompt]))
        told = [
            adapter.conditioned(sd, sd.encode_prompt, [prompt], Shown(sight=picture, nouns=(nouns,)))
            for nouns in (("dog", "cat"), ("cat", "dog"))
        ]
        assert torch.equal(sd.predict(noisy, timesteps, told[0]), plain), "gates begin shut"
        for gate in adapter.gates.values():
            gate.gamma.fill_(0.7)  # type: ignore[union-attr, operator]
        one, other = (sd.predict(noisy, timesteps, each) for each in told)
        assert (one - plain).abs().max() > 1e-3
        assert (one - other).abs().max() > 1e-5, "pictures are asked for their words"


def test_latents_are_read_of_the_subject_alone(sd: AbstractBackbone) -> None:
    encoder, image = LatentEncoder.of(sd), torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(1, 1, 40, 50)
    mask[..., :25] = 1
    seen = encoder.sight(image, mask, cut=True)
    assert seen.cut is not None
    assert seen.cover is not None
    side = sd.resolution // sd.vae_factor
    assert seen.features.shape == (1, 4, side, side)
    black = torch.where(mask > 0, image, torch.full_like(image, -1.0))
    torch.testing.assert_close(seen.cut, encoder(black))
    # The middle square begins at column 5 of 50: its left half, 20 of 40, lies inside.
    cells = seen.cover.reshape(side, side)
    assert cells[:, : side // 2].min() == 1
    assert cells[:, side // 2 + 1 :].max() == 0
