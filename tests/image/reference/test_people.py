"""What single systems for people promise beyond the contract, against formulas written out."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.joint import in_heads, joint_attention
from pcs_ext.image.guidance import combine_terms
from pcs_ext.image.reference.base import Reading
from pcs_ext.image.reference.encoder import PictureEncoder, open_encoder
from pcs_ext.image.reference.files import OpenedAdapter
from pcs_ext.image.reference.identity import IdentityLoss, vector_of
from pcs_ext.image.reference.inside import read_of
from pcs_ext.image.reference.kinds import build_adapter
from pcs_ext.image.reference.nouns import noun_positions
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.reference import Reference
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.dreamidentity import DreamIdentity
from pcs_ext.image.reference.systems.face0 import Face0
from pcs_ext.image.reference.systems.face2diffusion import Face2Diffusion, background
from pcs_ext.image.reference.systems.idadapter import IDAdapter
from pcs_ext.image.reference.systems.infinite_id import InfiniteID, adain_mean
from pcs_ext.image.reference.systems.moa import MoA, routing
from pcs_ext.image.reference.systems.portraitbooth import PortraitBooth
from pcs_ext.image.reference.systems.profusion import ProFusion, ProFusionConfig, fusion, refinement
from pcs_ext.image.reference.systems.pva import PVA
from pcs_ext.image.reference.tune import _opened_up
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.image.types import Conditioning
from tests.support.tiny_reference import HIDDEN, TINY, WIDTH, at_random, tiny_system


def embeddings(*, pictures: int = 1, rows: int = 1, noun: str = "dog") -> Shown:
    features = torch.randn(rows, pictures, WIDTH, generator=torch.Generator().manual_seed(1))
    return Shown(sight=Sight(features=features), nouns=((noun,) * pictures,) * rows)


def layers(*, pictures: int = 1, rows: int = 1, depth: int = 2) -> Shown:
    shape = (rows, pictures, depth, 17, HIDDEN)
    features = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return Shown(sight=Sight(features=features), nouns=(("dog",) * pictures,) * rows)


def latents(rows: int = 1) -> tuple[Tensor, Tensor]:
    noisy = torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    return noisy, torch.tensor([300, 20])[:rows]


def ready(system: str, sd: AbstractBackbone, eye: Path):
    """A tiny one in use, its weights random."""
    adapter, encoder = tiny_system(system, sd, eye)
    at_random(adapter, sd)
    adapter.eval().requires_grad_(False)
    return adapter, encoder


def recording(sd: AbstractBackbone, texts: list[str]):
    def encode(prompts, *, size=None) -> Conditioning:
        texts.extend(prompts)
        return sd.encode_prompt(prompts, size=size)

    return encode


@torch.no_grad()
def test_face0_overwrites_the_last_places_and_mixes_three_predictions(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = ready("face0", sd, eye)
    assert isinstance(adapter, Face0)
    pictures, noisy = embeddings(), latents()
    states = adapter.project(pictures.sight.features[:, 0]).unflatten(1, (3, 16))
    told = sd.encode_prompt(["the dog"])
    over = Conditioning(states=torch.cat([told.states[:, :-3], states], dim=1))
    alone = Conditioning(states=torch.cat([sd.encode_prompt([""]).states[:, :-3], states], dim=1))
    with adapter.inserted(sd):
        mixed = sd.predict(*noisy, adapter.conditioned(sd, sd.encode_prompt, ["the dog"], pictures))
        joint, picture, words, nothing = (
            sd.predict(*noisy, one) for one in (over, alone, told, sd.encode_prompt([""]))
        )
        learned = adapter.train().conditioned(sd, sd.encode_prompt, ["the dog"], pictures)
        torch.testing.assert_close(sd.predict(*noisy, learned), joint)
    torch.testing.assert_close(mixed, 0.6 * joint + 0.2 * picture + 0.2 * words, atol=1e-5, rtol=1e-4)
    guided = nothing + 5 * (mixed - nothing)
    terms = [(3.0, joint, nothing), (1.0, picture, nothing), (1.0, words, nothing)]
    torch.testing.assert_close(guided, combine_terms(nothing, terms), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_dreamidentitys_words_are_of_all_layers_and_stay_short(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = ready("dreamidentity", sd, eye)
    assert isinstance(adapter, DreamIdentity)
    assert encoder.layers == (1, 2)
    texts: list[str] = []
    with adapter.inserted(sd):
        adapter.conditioned(sd, recording(sd, texts), ["the dog on beach"], layers())
        shown = layers(pictures=2)
        pairs = Pairs(latents=torch.zeros(1, 4, 8, 8), captions=("the dog",), shown=shown, weights=None)
        with adapter.watching(sd, pairs) as terms:
            told = terms()["words"]
    assert texts == ["the <reference>_1 <reference>_2 on beach"]
    classes = shown.sight.features[0, :, :, 0]
    normed = torch.cat([norm(classes[:, index]) for index, norm in enumerate(adapter.encode.norms)], dim=-1)
    words = torch.stack([word(normed).mean(0) for word in adapter.encode.words])
    torch.testing.assert_close(told, 0.01 * words.square().sum(-1).mean())
    other = classes.clone()
    other[:, 0] += 1.0 + torch.arange(HIDDEN)
    assert (adapter.encode(other) - adapter.encode(classes)).abs().max() > 1e-4, "the first layer tells nothing"


def test_face2diffusion_holds_the_background_to_the_class_word(sd: AbstractBackbone, eye: Path) -> None:
    """Both errors together are those against one target: the noise in the mask, the class word's outside."""
    adapter, _ = tiny_system("face2diffusion", sd, eye)
    assert isinstance(adapter, Face2Diffusion)
    noise, noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)), latents()
    masks = torch.zeros(1, 1, 8, 8).index_fill(3, torch.arange(3), 1.0)
    pairs = Pairs(latents=noise, captions=("the dog",), shown=layers(), weights=None, masks=masks)
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, ["the dog"], pairs.shown)
        with adapter.watching(sd, pairs) as terms:
            predicted = sd.predict(*noisy, told)
            term = terms()["background"]
        guide = sd.predict(*noisy, sd.encode_prompt(["the dog"])).detach()
    target = torch.where(masks > 0, noise, guide)
    inside = (masks.square() * (predicted - noise).square()).mean()
    torch.testing.assert_close(inside + term, (predicted - target).square().mean())
    assert term > 0
    assert background(predicted, guide, torch.ones_like(masks)) == 0
    term.backward()
    assert adapter.encode.words[0][0].weight.grad.abs().max() > 0  # type: ignore[index, union-attr]


@torch.no_grad()
def test_idadapter_mixes_photos_in_their_places(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = ready("idadapter", sd, eye)
    assert isinstance(adapter, IDAdapter)
    a, b, c, d = torch.randn(4, 1, 1, 17, HIDDEN, generator=torch.Generator().manual_seed(2))
    mixed = lambda *photos: adapter.mixed(torch.cat(photos, dim=1))  # noqa: E731
    written = adapter.mix(torch.cat([a, b, c], dim=-1)[:, 0])
    torch.testing.assert_close(mixed(a, b, c), written)
    torch.testing.assert_close(mixed(a), mixed(a, a, a))
    torch.testing.assert_close(mixed(a, b), mixed(a, b, a))
    # Six places in two rounds: a b c, and d a b after it.
    torch.testing.assert_close(mixed(a, b, c, d), mixed((a + d) / 2, (b + a) / 2, (c + b) / 2))
    assert (mixed(a, b, c) - mixed(b, a, c)).abs().max() > 1e-4
    texts: list[str] = []
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, recording(sd, texts), ["the dog on beach"], layers(pictures=2, depth=1))
        assert (sd.predict(*latents(), told) - sd.predict(*latents(), Conditioning(states=told.states))).abs().max() > 0
    assert texts == ["the <reference>_1 dog on beach"]


def test_moas_router_leaves_the_background_to_the_base() -> None:
    """One layer of 4 cells and one of 16, the subject in the left half."""
    masks = torch.zeros(1, 4, 4)
    masks[..., :2] = 1
    left = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    fine = masks.flatten(1).bool().logical_not().float()
    assert routing([fine], masks) == 0, "all of the background is the base's"
    assert routing([1 - fine], masks) == pytest.approx(0.5), "none of it"
    half = F.interpolate(left.reshape(1, 1, 2, 2), size=(4, 4), mode="bilinear")[:, 0]
    expected = ((1 - masks) * (1 - (half + fine.reshape(1, 4, 4)) / 2)).square().mean()
    torch.testing.assert_close(routing([left, fine], masks), expected)


@torch.no_grad()
def test_moas_experts_begin_as_the_base_and_are_mixed_by_the_router(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("moa", sd, eye)
    assert isinstance(adapter, MoA)
    adapter.eval()
    noisy, told = latents(), sd.encode_prompt(["the dog"])
    plain = sd.predict(*noisy, told)
    with adapter.inserted(sd):
        seen = adapter.conditioned(sd, sd.encode_prompt, ["the dog"], embeddings())
        read = read_of(seen, "reference_moa")
        assert read is not None
        at = noun_positions(sd, "the dog", "dog")
        expected = told.states.clone()
        expected[0, at] = adapter.fuse(told.states[0, at], embeddings().sight.features[:, 0])
        torch.testing.assert_close(read.vectors, expected)
        for expert in adapter.experts.values():
            expert.router[2].bias.copy_(torch.tensor([30.0, -30.0]))  # type: ignore[union-attr, index, operator]
        torch.testing.assert_close(sd.predict(*noisy, seen), plain, atol=1e-5, rtol=0)
        for expert in adapter.experts.values():
            expert.router[2].bias.copy_(torch.tensor([-30.0, 30.0]))  # type: ignore[union-attr, index, operator]
        # All is the experts', which are copies: as the base with the states they read.
        torch.testing.assert_close(
            sd.predict(*noisy, seen), sd.predict(*noisy, Conditioning(states=expected)), atol=1e-5, rtol=0
        )


def test_fusion_keeps_the_noise_level_and_refinement_guides_by_words_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise, fresh = torch.randn(3, 1, 4, 100, 100, generator=generator)
    kept, after = 0.3, 0.5
    noisy = kept**0.5 * clean + (1 - kept) ** 0.5 * noise
    made = fusion(noisy, noise, fresh, kept, after, 1.0)
    left = (made - kept**0.5 * clean) / (1 - kept) ** 0.5
    assert float(left.var()) == pytest.approx(1.0, abs=0.01)
    # The step of DDPM down and the way back up, taken one after the other, has the same share of the old noise.
    variance = (1 - after) / (1 - kept) * (1 - kept / after)
    share = float((left * noise).mean() / noise.square().mean())
    assert share == pytest.approx(1 - variance / (1 - after), abs=0.01)
    assert torch.equal(fusion(noisy, noise, fresh, kept, after, 0.0), noisy)
    joint, words, nothing = torch.randn(3, 1, 4, 2, 2, generator=generator)
    guided = nothing + 4 * (refinement(joint, words, nothing, 0.5) - nothing)
    torch.testing.assert_close(guided, combine_terms(nothing, [(4.0, joint, nothing), (2.0, words, nothing)]))


def test_profusions_word_depends_on_the_noise_level_and_pictures_on_their_own_seeds(
    sd: AbstractBackbone, eye: Path
) -> None:
    adapter, encoder = ready("profusion", sd, eye)
    assert isinstance(adapter, ProFusion)
    patches = torch.randn(1, 17, HIDDEN, generator=torch.Generator().manual_seed(0))
    noisy, other = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    words = [
        adapter.net(x, torch.tensor([t]), y)
        for x, t, y in ((noisy, 20, patches), (other, 20, patches), (noisy, 900, patches), (noisy, 20, -patches))
    ]
    assert all((words[0] - word).abs().max() > 1e-3 for word in words[1:])
    reference = Reference(
        opened=OpenedAdapter(adapter=adapter, encoder=encoder), sight=Sight(features=patches), nouns=("dog",)
    )
    config = SampleConfig(scheduler="ddim", num_inference_steps=3, guidance_scale=3.0)
    with torch.inference_mode():
        both = sample(sd, ["the dog", "red dog"], seeds=[1, 2], config=config, hooks=reference.hooks(sd))
        alone = sample(sd, ["red dog"], seeds=[2], config=config, hooks=reference.hooks(sd))
        adapter.refines = False
        unfused = sample(sd, ["red dog"], seeds=[2], config=config, hooks=reference.hooks(sd))
        # Euler's latents are as large as their noise; without guidance there is nothing to go away from.
        adapter.refines = True
        plain = SampleConfig(scheduler="euler", num_inference_steps=2, guidance_scale=1.0)
        fused = sample(sd, ["red dog"], seeds=[2], config=plain, hooks=reference.hooks(sd))
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=0)
    assert (alone - unfused).abs().max() > 1e-2
    assert fused.isfinite().all()
    assert 0.02 < float(fused.std()) < 1


def test_tuned_profusion_has_a_denoiser_of_its_own(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("profusion", sd, eye)
    kind = _opened_up(adapter, TINY["profusion"])
    assert isinstance(kind, ProFusionConfig)
    assert kind.denoiser
    again = build_adapter(kind, sd, Reading(sees="patches", width=HIDDEN))
    assert [type(own) for own in again.inside] == [type(own) for own in adapter.inside]
    with adapter.inserted(sd):
        assert len(adapter.groups()["base"]) == len(list(sd.denoiser.parameters()))


@torch.no_grad()
def test_a_joint_softmax_is_one_over_both(sd: AbstractBackbone) -> None:
    generator = torch.Generator().manual_seed(3)
    query, own = torch.randn(2, 2, 2, 5, 4, generator=generator)
    key, value = torch.randn(2, 2, 2, 7, 4, generator=generator)
    told, found = torch.randn(2, 2, 2, 3, 4, generator=generator)
    mixed = F.scaled_dot_product_attention(query, key, value, scale=0.7)
    scores = 0.7 * torch.cat([query @ key.mT, own @ told.mT], dim=-1)
    expected = scores.softmax(-1) @ torch.cat([value, found], dim=2)
    strength = torch.ones(2)
    joined = joint_attention(mixed, (query, key), (own, told, found), strength, 0.7)
    torch.testing.assert_close(joined, expected)
    nothing = joint_attention(mixed, (query, key), (own, told, found), torch.tensor([0.0, 1.0]), 0.7)
    assert torch.equal(nothing[0], mixed[0])
    torch.testing.assert_close(nothing[1], expected[1])


@torch.no_grad()
def test_pva_asks_text_and_identities_in_one_softmax(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = ready("pva", sd, eye)
    assert isinstance(adapter, PVA)
    path = sd.cross_attention_paths()[0]
    attention, name = sd.denoiser.get_submodule(path), adapter.names[path]
    kept: dict[str, Tensor] = {}
    handles = [attention.register_forward_hook(lambda _, inputs, output: kept.update(cells=inputs[0], output=output))]
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, ["the dog"], embeddings(pictures=2))
        sd.predict(*latents(), told)
    handles[0].remove()
    read = read_of(told, "reference_pva")
    assert read is not None
    assert read.vectors.shape == (1, 2, 16)
    heads = lambda x: in_heads(x, attention.heads)  # noqa: E731
    text = heads(attention.to_q(kept["cells"])) @ heads(attention.to_k(told.states)).mT
    own = heads(adapter.queries[name](kept["cells"])) @ heads(adapter.keys[name](read.vectors)).mT
    values = torch.cat([heads(attention.to_v(told.states)), heads(adapter.values[name](read.vectors))], dim=2)
    found = (attention.scale * torch.cat([text, own], dim=-1)).softmax(-1) @ values
    expected = attention.to_out[0](found.transpose(1, 2).flatten(2))
    torch.testing.assert_close(kept["output"], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_infinite_id_is_trained_without_words_and_used_with_them(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = ready("infinite-id", sd, eye)
    assert isinstance(adapter, InfiniteID)
    noisy, pictures = latents(), layers(depth=1)
    drawn: dict[bool, list[Tensor]] = {}
    with adapter.inserted(sd):
        for training in (True, False):
            adapter.train(training)
            drawn[training] = [
                sd.predict(*noisy, adapter.conditioned(sd, sd.encode_prompt, [prompt], pictures))
                for prompt in ("the dog on beach", "red cat")
            ]
    assert torch.equal(*drawn[True]), "in training words are off"
    assert (drawn[False][0] - drawn[False][1]).abs().max() > 1e-3
    x, y = torch.randn(2, 1, 6, 3, generator=torch.Generator().manual_seed(0))
    moved = adain_mean(x, y)
    torch.testing.assert_close(moved.mean(1), y.mean(1))
    torch.testing.assert_close(moved - moved.mean(1, keepdim=True), x - x.mean(1, keepdim=True))


@torch.no_grad()
def test_infinite_ids_identity_looks_at_the_cells_of_the_prompt(sd: AbstractBackbone, eye: Path) -> None:
    """The first mixed attention, written out: own cells, their keys moved to the prompt's mean, and the prompt's."""
    adapter, _ = ready("infinite-id", sd, eye)
    path = sd.cross_attention_paths()[0].removesuffix("attn2") + "attn1"
    attention = sd.denoiser.get_submodule(path)
    kept: dict[str, Tensor] = {}
    handle = attention.register_forward_hook(lambda _, inputs, output: kept.update(cells=inputs[0], output=output))
    with adapter.inserted(sd):
        noisy = latents(2)
        told = adapter.conditioned(sd, sd.encode_prompt, ["the dog", "red cat"], layers(rows=2, depth=1))
        sd.predict(*noisy, told)
    handle.remove()
    cells = kept["cells"]
    assert len(cells) == 4, "two streams of two pictures"
    query, key, value = attention.to_q(cells), attention.to_k(cells), attention.to_v(cells)
    keys = torch.cat([adain_mean(key[2:], key[:2]), key[:2]], dim=1)
    values = torch.cat([value[2:], value[:2]], dim=1)
    heads = lambda x: in_heads(x, attention.heads)  # noqa: E731
    found = (attention.scale * heads(query[2:]) @ heads(keys).mT).softmax(-1) @ heads(values)
    expected = attention.to_out[0](found.transpose(1, 2).flatten(2))
    torch.testing.assert_close(kept["output"][2:], expected, atol=1e-5, rtol=1e-4)


def test_portraitbooth_holds_expressions_to_the_face(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("portraitbooth", sd, eye)
    assert isinstance(adapter, PortraitBooth)
    caption = "the happy dog on beach"
    pairs = Pairs(latents=torch.zeros(1, 4, 8, 8), captions=(caption,), shown=embeddings(), weights=None)
    places = adapter.held(sd, pairs)
    assert list(places.tokens) == [*noun_positions(sd, caption, "dog"), *noun_positions(sd, caption, "happy")]
    assert (list(places.rows), list(places.pictures)) == ([0, 0], [0, 0])


@pytest.mark.parametrize("sees", ["embedding", "layers"])
def test_an_identity_loss_counts_what_the_encoder_sees_in_little_noise(
    sd: AbstractBackbone, eye: Path, sees: str
) -> None:
    encoder: PictureEncoder = open_encoder(eye, sees, depths=(1.0,) if sees == "layers" else ())  # type: ignore[arg-type]
    clean = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = encoder(sd.decode_latents(clean))[:, None]
    loss, timesteps = IdentityLoss(weight=0.5, below=0.25), torch.tensor([10, 240, 700])
    same = Shown(sight=Sight(features=features))
    assert float(loss(sd, encoder, clean, timesteps, same)) == pytest.approx(0, abs=1e-6)
    other = Shown(sight=Sight(features=features.roll(1, 0)))
    estimate = clean.clone().requires_grad_(True)
    vectors = vector_of(features[:, 0], encoder.sees)
    cosine = F.cosine_similarity(vectors[:2], vectors.roll(1, 0)[:2], dim=-1)
    value = loss(sd, encoder, estimate, timesteps, other)
    torch.testing.assert_close(value.detach(), 0.5 * (1 - cosine).mean(), atol=1e-5, rtol=1e-3)
    value.backward()
    assert estimate.grad is not None
    assert (estimate.grad.flatten(1).abs().amax(1) > 0).tolist() == [True, True, False]
    unseen = Shown(sight=Sight(features=features), seen=torch.tensor([False, False, True]))
    assert float(loss(sd, encoder, clean, timesteps, unseen)) == 0
