"""What single systems promise beyond the contract: where pictures enter, and by how much."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pcs_ext.image.adapters import injected
from pcs_ext.image.adapters.layers import merged
from pcs_ext.image.adapters.weight_offsets import WeightOffsetAdapter
from pcs_ext.image.attention import attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.albums import read_subjects
from pcs_ext.image.reference.delay import delayed
from pcs_ext.image.reference.encoder import open_encoder
from pcs_ext.image.reference.localization import localization, middle_paths, placed
from pcs_ext.image.reference.nouns import names, noun_positions, renamed, repeated
from pcs_ext.image.reference.pairs import around, encode_subjects
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.e4t import E4T
from pcs_ext.image.reference.systems.elite import Elite
from pcs_ext.image.reference.systems.fastcomposer import FastComposer
from pcs_ext.image.reference.systems.instantbooth import InstantBooth
from pcs_ext.image.reference.systems.photomaker import PhotoMaker
from pcs_ext.image.reference.systems.ssr_encoder import SSREncoder
from pcs_ext.image.types import Conditioning, Decoupled
from pcs_ext.reporter import SilentReporter
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import HIDDEN, WIDTH, tiny_system


def embeddings(pictures: int, *, rows: int = 1) -> Sight:
    return Sight(features=torch.randn(rows, pictures, WIDTH, generator=torch.Generator().manual_seed(1)))


def test_nouns_are_words_of_their_own() -> None:
    assert names("A Dog, a cat", "dog")
    assert not names("a doghouse", "dog")
    assert not names("a dog", "")
    assert renamed("a dog and a dog", "dog", "cat") == "a cat and a dog"
    assert repeated("toy robot", 3) == "toy robot robot robot"


def test_positions_are_those_of_the_last_token_and_its_repetitions(sd: AbstractBackbone) -> None:
    ids = sd.tokenizers[0]("a photo of the dog dog on beach").input_ids
    dog = sd.tokenizers[0]("dog", add_special_tokens=False).input_ids
    assert len(dog) == 1
    wanted = [index for index, token in enumerate(ids) if token == dog[0]]
    assert noun_positions(sd, "a photo of the dog dog on beach", "dog", 2) == wanted
    pieces = sd.tokenizers[0]("zebra", add_special_tokens=False).input_ids
    assert len(pieces) > 1, "an unknown word is read in pieces"
    (place,) = noun_positions(sd, "the zebra in snow", "zebra")
    assert sd.tokenizers[0]("the zebra in snow").input_ids[place] == pieces[-1]
    assert noun_positions(sd, "a photo of the cat", "dog") == []
    assert noun_positions(sd, "dog " * 40, "dog", 40) == list(range(1, 23)), "the end mark is no word"


@torch.no_grad()
def test_photomaker_puts_each_photo_into_a_word_of_its_own(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("photomaker", sd, eye)
    assert isinstance(adapter, PhotoMaker)
    sight, prompt = embeddings(3), "a photo of the dog on beach"
    pictures = Shown(sight=sight, nouns=(("dog",) * 3,))
    told = adapter.train().conditioned(sd, sd.encode_prompt, [prompt], pictures).states[0]
    plain = sd.encode_prompt(["a photo of the dog dog dog on beach"]).states[0]
    at = noun_positions(sd, "a photo of the dog dog dog on beach", "dog", 3)
    others = [index for index in range(len(plain)) if index not in at]
    assert torch.equal(told[others], plain[others])
    for index, place in enumerate(at):
        expected = adapter.fuse(plain[place][None], sight.features[:, index])[0]
        torch.testing.assert_close(told[place], expected)
    torch.testing.assert_close(told[at].mean(-1), torch.zeros(3), atol=1e-5, rtol=0)  # LayerNorm comes last


@torch.no_grad()
def test_words_alone_are_seen_first_and_pictures_afterwards(sd: AbstractBackbone, eye: Path) -> None:
    first, then = sd.encode_prompt(["the dog"]), sd.encode_prompt(["the cat"])
    late = delayed(first, then, 0.2, 1000)
    path = sd.cross_attention_paths()[0]
    for timestep, wanted in ((999, first), (800, first), (799, then), (0, then)):
        keys, values = late.at(torch.tensor([timestep]), path)
        assert torch.equal(keys, wanted.states)
        assert torch.equal(values, wanted.states)
    adapter, _ = tiny_system("fastcomposer", sd, eye)
    adapter.eval()
    pictures = Shown(sight=embeddings(1), nouns=(("dog",),))
    told = adapter.conditioned(sd, sd.encode_prompt, ["the dog"], pictures)
    assert torch.equal(told.at(torch.tensor([900]), path)[0], first.states)
    assert not torch.equal(told.at(torch.tensor([100]), path)[0], first.states)


@torch.no_grad()
def test_fastcomposer_mixes_each_subject_into_its_own_word(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("fastcomposer", sd, eye)
    assert isinstance(adapter, FastComposer)
    sight, prompts = embeddings(3, rows=2), ["the dog on beach", "a cat and a dog"]
    pictures = Shown(sight=sight, nouns=(("dog", "dog", ""), ("dog", "cat", "dog")))
    places, mixed = placed(sd, prompts, pictures)
    assert (list(places.rows), list(places.pictures)) == ([0, 1, 1], [0, 0, 1])
    wanted = [noun_positions(sd, prompts[row], noun)[0] for row, noun in ((0, "dog"), (1, "dog"), (1, "cat"))]
    assert list(places.tokens) == wanted
    torch.testing.assert_close(mixed[0, 0], sight.features[0, :2].mean(0))
    torch.testing.assert_close(mixed[1, 0], sight.features[1, [0, 2]].mean(0))
    torch.testing.assert_close(mixed[1, 1], sight.features[1, 1])


def test_localization_is_least_where_a_word_looks_at_its_subject_alone() -> None:
    """Four cells, the subject in the left two: attention 1 there and 0 elsewhere gives 0 - 1, the reverse 1 - 0."""
    mask = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    left = torch.tensor([1.0, 0, 1, 0])
    for look, expected in ((left, -1.0), (1 - left, 1.0), (torch.full((4,), 0.3), 0.0)):
        loss = localization({"one": look.expand(1, 2, 4), "two": look.expand(1, 2, 4)}, mask)
        assert float(loss) == pytest.approx(expected, abs=1e-4)


def test_the_middle_blocks_are_held_to_masks(sd: AbstractBackbone) -> None:
    paths = sd.cross_attention_paths()
    blocks = list(dict.fromkeys(path.split(".attentions.")[0] for path in paths))
    assert len(blocks) == 5
    kept = dict.fromkeys(path.split(".attentions.")[0] for path in middle_paths(sd, 3))
    assert list(kept) == blocks[1:4]
    assert middle_paths(sd, 9) == list(paths)


@torch.no_grad()
def test_a_gate_counts_what_is_found_as_much_as_a_cell_looks_at_the_word(sd: AbstractBackbone) -> None:
    """Against the attention written out: what is found, times the look at the word over the largest look."""
    path = sd.cross_attention_paths()[0]
    attention = sd.denoiser.get_submodule(path)
    told = sd.encode_prompt(["a photo of the dog"])
    gate = torch.zeros(1, told.states.shape[1])
    gate[0, 5] = 1
    generator = torch.Generator().manual_seed(2)
    pair = tuple(torch.randn(1, 3, attention.to_k.weight.shape[0], generator=generator) for _ in range(2))
    found: dict[str, Tensor] = {}

    def keep(where: str, query: Tensor) -> Tensor:
        found["query"] = query
        return query

    entered: list[Tensor] = []
    handle = attention.to_out[0].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    beside = told.beside(Decoupled(pairs={path: pair}, gate=gate))  # type: ignore[arg-type]
    noisy, timesteps = torch.randn(1, 4, 8, 8, generator=generator), torch.tensor([500])
    with attention_program(sd, keep, [path], at="queries"):
        sd.predict(noisy, timesteps, beside)
        sd.predict(noisy, timesteps, told)
    handle.remove()
    heads = lambda x: x.unflatten(2, (attention.heads, -1)).transpose(1, 2)  # noqa: E731
    query = heads(found["query"])
    look = (attention.scale * query @ heads(attention.to_k(told.states)).transpose(-1, -2)).softmax(-1)[..., 5]
    expected = F.scaled_dot_product_attention(query, heads(pair[0]), heads(pair[1]), scale=attention.scale)
    expected = expected * (look / look.amax()).unsqueeze(-1)
    # The hook that records was there before those that add: it saw the text's part alone, so record once more.
    seen: list[Tensor] = []
    from pcs_ext.image.backbones.decoupled import attending_besides

    with attending_besides(sd.denoiser, beside.decoupled):
        handle = attention.to_out[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        sd.denoiser(noisy, timesteps, encoder_hidden_states=told.states)
        handle.remove()
    torch.testing.assert_close(seen[0] - entered[1], expected.transpose(1, 2).flatten(2), atol=1e-5, rtol=0)


@torch.no_grad()
def test_elite_keeps_the_first_word_and_looks_where_the_mask_is(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = tiny_system("elite", sd, eye)
    assert isinstance(adapter, Elite)
    # Two layers: shares of 1, 1/6, 1/3, 1/2 and 2/3 are layers 2, 1, 1, 1, 1, and each is read once.
    assert encoder.layers == (2, 1)
    features = torch.randn(1, 1, 2, 17, HIDDEN, generator=torch.Generator().manual_seed(0))
    cover = torch.zeros(1, 1, 16)
    cover[..., :3] = 1
    pictures = Shown(sight=Sight(features=features, cut=features, cover=cover), nouns=(("dog",),))
    texts: list[str] = []

    def encode(prompts, *, size=None) -> Conditioning:
        texts.extend(prompts)
        return sd.encode_prompt(prompts, size=size)

    with adapter.inserted(sd):
        told = adapter.conditioned(sd, encode, ["the dog on beach"], pictures)
        adapter.begin_stage("global")
        adapter.conditioned(sd, encode, ["the dog on beach"], pictures)
        length = len(sd.tokenizers[0](texts[1]).input_ids) - len(sd.tokenizers[0](texts[0]).input_ids)
    assert texts == ["the <reference>_1 on beach", "the <reference>_1 <reference>_2 on beach"]
    assert length == 1
    keys = next(iter(told.decoupled[0].pairs.values()))[0]
    assert keys[0, :3].abs().min() > 0
    assert keys[0, 3:].abs().max() == 0
    assert told.decoupled[0].gate is not None
    assert told.decoupled[0].gate.tolist() == [[float(index == 2) for index in range(24)]]


@torch.no_grad()
def test_ssr_encoder_finds_other_things_for_other_words(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = tiny_system("ssr-encoder", sd, eye)
    assert isinstance(adapter, SSREncoder)
    assert encoder.layers == (1, 2)
    features = torch.randn(1, 1, 2, 17, HIDDEN, generator=torch.Generator().manual_seed(0))
    dog, cat = (
        adapter._found(sd.encode_prompt, Shown(sight=Sight(features=features), nouns=((noun,),)))[0]
        for noun in ("dog", "cat")
    )
    assert dog.shape == (1, 1, 2, 24, 16)
    assert (dog - cat).abs().max() > 1e-3


@torch.no_grad()
def test_instantbooths_gates_begin_shut_and_its_word_stands_before_the_noun(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("instantbooth", sd, eye)
    assert isinstance(adapter, InstantBooth)
    adapter.eval()
    features = torch.randn(1, 2, 1, 17, HIDDEN, generator=torch.Generator().manual_seed(0))
    pictures = Shown(sight=Sight(features=features), nouns=(("dog", "dog"),))
    texts: list[str] = []

    def encode(prompts, *, size=None) -> Conditioning:
        texts.extend(prompts)
        return sd.encode_prompt(prompts, size=size)

    noisy, timesteps = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([400])
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, encode, ["the dog on beach"], pictures)
        shut = sd.predict(noisy, timesteps, told)
        word = Conditioning(states=told.states)
        torch.testing.assert_close(shut, sd.predict(noisy, timesteps, word), atol=0, rtol=0)
        at_random_gates(adapter)
        assert (sd.predict(noisy, timesteps, told) - shut).abs().max() > 1e-4
    assert texts == ["the <reference>_1 dog on beach"]
    table = sd.text_encoders[0].get_input_embeddings()
    (made,) = adapter._words(sd, features[:, :, 0], pictures, 1.0)
    noun = table(torch.tensor(sd.tokenizers[0]("dog", add_special_tokens=False).input_ids)).mean(0)
    torch.testing.assert_close(made[0, 0].norm(), noun.norm())


def at_random_gates(adapter: InstantBooth) -> None:
    for gate in adapter.gates.values():
        gate.gamma.fill_(0.7)  # type: ignore[union-attr, operator]


@torch.no_grad()
def test_blip_diffusions_words_end_the_prompt(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = tiny_system("blip-diffusion", sd, eye)
    adapter.eval()
    features = torch.randn(2, 1, 17, HIDDEN, generator=torch.Generator().manual_seed(0))
    pictures = Shown(sight=Sight(features=features), nouns=(("dog",), ("cat",)))
    texts: list[str] = []

    def encode(prompts, *, size=None) -> Conditioning:
        texts.extend(prompts)
        return sd.encode_prompt(prompts, size=size)

    with adapter.inserted(sd):
        told = adapter.conditioned(sd, encode, ["the dog on beach", "a toy"], pictures)
        plain = sd.encode_prompt(["the dog on beach", "a toy"])
    assert encoder.sees == "patches"
    assert texts == ["the dog on beach, the dog is <reference>_1 <reference>_2", "a toy"]
    # The text encoder reads from left to right: what ends the prompt cannot change what stands before it.
    torch.testing.assert_close(told.states[0, :5], plain.states[0, :5])
    assert (told.states[0, 8:] - plain.states[0, 8:]).abs().max() > 1e-3
    torch.testing.assert_close(told.states[1], plain.states[1])


@torch.no_grad()
def test_e4ts_word_depends_on_what_is_being_drawn_and_half_a_pass_tells_it(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = tiny_system("e4t", sd, eye)
    assert isinstance(adapter, E4T)
    adapter.eval()
    assert encoder.layers == (1, 2)
    features = torch.randn(1, 1, 2, 17, HIDDEN, generator=torch.Generator().manual_seed(0))
    pictures = Shown(sight=Sight(features=features), nouns=(("dog",),))
    generator, passes = torch.Generator().manual_seed(1), {"down": 0, "up": 0}
    handles = [
        sd.denoiser.conv_in.register_forward_hook(lambda *_: passes.update(down=passes["down"] + 1)),
        sd.denoiser.conv_out.register_forward_hook(lambda *_: passes.update(up=passes["up"] + 1)),
    ]
    offsets = []
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, ["the dog on beach"], pictures)
        assert torch.equal(told.states, sd.encode_prompt(["the dog on beach"]).states)
        for timestep in (900, 100):
            noisy = torch.randn(1, 4, 8, 8, generator=generator)
            sd.predict(noisy, torch.tensor([timestep]), told)
            assert adapter._offsets is not None
            offsets.append(adapter._offsets)
    for handle in handles:
        handle.remove()
    assert passes == {"down": 4, "up": 2}
    assert (offsets[0] - offsets[1]).abs().max() > 1e-4


def test_weight_offsets_begin_at_nothing_and_stand_for_a_weight(sd: AbstractBackbone) -> None:
    adapter = WeightOffsetAdapter("offsets")
    noisy, timesteps = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([300])
    told = sd.encode_prompt(["the dog"])
    plain = sd.predict(noisy, timesteps, told).detach()
    with injected(sd, adapter), torch.no_grad():
        assert torch.equal(sd.predict(noisy, timesteps, told), plain)
        for parameter in adapter.parameters()["denoiser"]:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
        changed = sd.predict(noisy, timesteps, told)
        with merged(sd.denoiser):
            torch.testing.assert_close(sd.predict(noisy, timesteps, told), changed, atol=1e-5, rtol=1e-5)
    assert (changed - plain).abs().max() > 1e-3
    layer = next(iter(adapter.layers().values()))
    assert torch.linalg.matrix_rank(layer.offset()) == 1, "the product of a column and a row, mixed"


def test_subjects_of_one_picture_are_seen_each_by_itself(sd: AbstractBackbone, eye: Path, tmp_path: Path) -> None:
    pairs = albums(tmp_path / "pairs", couples=1)
    subjects = read_subjects(pairs, asks_noun=True, several=True)
    assert [own.nouns for own in subjects] == [("cat",), ("dog", "cat"), ("dog",)]
    encoder = open_encoder(eye, "embedding")
    data = encode_subjects(subjects, sd, encoder, SilentReporter())
    assert data.features.shape == (9, 2, WIDTH)
    assert data.masks is not None
    assert data.masks.shape == (9, 2, 8, 8)
    couple = subjects[1].photos[0]
    assert couple.parts is not None
    cut, mask = around(couple.image, couple.parts[1:])
    # The cat's square: 25 rows and so many columns and a margin, the blue rectangle in its middle.
    assert cut.shape == (3, 30, 30)
    torch.testing.assert_close(data.features[3, 1].float(), encoder(cut[None])[0], atol=2e-3, rtol=2e-3)
    assert (data.features[3, 0] - data.features[3, 1]).abs().max() > 1e-3
    drawn = data.draw(6, torch.Generator().manual_seed(0))
    for nouns, caption in zip(drawn.shown.nouns, drawn.captions, strict=True):
        assert caption == "a photo of " + " and ".join(f"the {noun}" for noun in nouns if noun)
    assert mask.shape == (1, 30, 30)


def test_several_masks_of_one_subject_count_together(sd: AbstractBackbone, eye: Path, tmp_path: Path) -> None:
    pairs = albums(tmp_path / "pairs", couples=1)
    encoder = open_encoder(eye, "patches")
    whole = encode_subjects(read_subjects(pairs, several=True), sd, encoder, SilentReporter(), cut=True)
    for photo in (pairs / "dog-album").glob("?.png"):
        mask = photo.with_name(f"{photo.stem}_mask.png")
        with Image.open(mask) as image:
            for number, rows in ((1, (0, 18)), (2, (18, image.height))):
                part = Image.new("L", image.size)
                box = (0, rows[0], image.width, rows[1])
                part.paste(image.crop(box), box)
                part.save(photo.with_name(f"{photo.stem}_mask{number}.png"))
        mask.unlink()
    split = encode_subjects(read_subjects(pairs, several=True), sd, encoder, SilentReporter(), cut=True)
    for one, other in ((whole.masks, split.masks), (whole.features, split.features), (whole.cut, split.cut)):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


def test_masks_say_which_patches_show_the_subject(eye: Path, tmp_path: Path) -> None:
    encoder = open_encoder(eye, "layers", depths=(1.0,))
    (pairs,) = [albums(tmp_path / "pairs")]
    photo = find_photos(pairs / "dog-album")[0]
    image, mask = torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[..., :8, 8:16] = 1
    seen = encoder.sight(image, mask, cut=True)
    assert seen.cover is not None
    assert seen.cover[0].tolist() == [float(index == 1) for index in range(16)]
    assert seen.cut is not None
    black = torch.where(mask > 0, image, torch.full_like(image, -1.0))
    torch.testing.assert_close(seen.cut, encoder(black))
    assert encoder.sight(photo.image[None], None, cut=True).cut is None
