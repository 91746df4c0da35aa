"""Re-Imagen and SuTI: captions by hand, what is looked at, guidance by turns, and experts that draw."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pcs_ext.errors import PhotoError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.added_attention import AddedAttention
from pcs_ext.image.reference.albums import read_subjects
from pcs_ext.image.reference.files import save_adapter
from pcs_ext.image.reference.learn import learn_reference
from pcs_ext.image.reference.neighbours import AbstractNeighbours, interleaved
from pcs_ext.image.reference.pairs import PairData
from pcs_ext.image.reference.reference import show
from pcs_ext.image.reference.retrieve import CaptionIndex, retrieve, retrieved_groups
from pcs_ext.image.reference.second_denoiser import LATENTS
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.teach import delta, teach_pairs
from pcs_ext.image.types import Conditioning
from tests.image.reference.test_kinds import said
from tests.support.command_line import run
from tests.support.encoders import tiny_clip
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import at_random, drawn, tiny_system, tiny_vision

PROMPT = "the dog on beach"


def test_captions_are_found_by_rare_words_in_short_texts() -> None:
    index = CaptionIndex(["a red dog", "a dog on the beach at night", "a cat"])
    # "cat" stands in one of three captions, of 3, 7 and 2 words, 4 on average.
    rarity = math.log(1 + 2.5 / 1.5)
    expected = rarity * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / 4))
    assert index.scores("the Cat!") == pytest.approx([0, rarity_of_the(index), expected])
    assert index.nearest("dog", 2) == [0, 1], "the shorter caption first"
    assert index.nearest("dog", 2, without=0) == [1, 2]
    groups = retrieved_groups(["red dog", "blue cat", "red dog", "blue cat"], 1)
    assert [group.tolist() for group in groups] == [[0, 2], [1, 3], [2, 0], [3, 1]]


def rarity_of_the(index: CaptionIndex) -> float:
    """The score of "the" in the second caption."""
    return math.log(1 + 2.5 / 1.5) * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 7 / index.mean))


def test_the_first_of_a_retrieved_group_is_drawn() -> None:
    data = PairData(
        latents=torch.arange(4.0)[:, None, None, None].expand(4, 4, 2, 2), features=torch.arange(4.0)[:, None],
        captions=[(str(row),) for row in range(4)], groups=[torch.tensor([0, 1, 2]), torch.tensor([3, 1, 2])],
        leads=True,
    )  # fmt: skip
    pairs = data.draw(16, torch.Generator().manual_seed(0), photos=2)
    assert set(pairs.captions) == {"0", "3"}
    assert {float(x) for x in pairs.shown.sight.features.flatten()} == {1.0, 2.0}
    shown = pairs.shown.sight.features[..., 0]
    assert [[str(int(x)) for x in row] for row in shown] == [list(row) for row in pairs.shown.captions]


def test_photos_are_retrieved_from_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = albums(tmp_path / "pairs")
    code, out, _ = run("reference", "retrieve", pairs, "the dog in snow", "--count", "1", capture=capsys)
    assert (code, out.split()) == (0, [str(pairs / "dog-album" / "0.png")])
    assert [path.parent.name for path in retrieve(pairs, "one cat, please", count=3)] == ["cat-album"] * 3
    (pairs / "cat-album" / "1.txt").write_bytes("un caf\xe9 noir".encode("latin-1"))
    assert retrieve(pairs, "noir") == [pairs / "cat-album" / "1.png"]
    with pytest.raises(PhotoError, match="no caption in .* has a word of 'zebra'"):
        retrieve(pairs, "zebra")
    with pytest.raises(PhotoError, match="holds no photo with a caption"):
        retrieve(tiny_vision(tmp_path / "none"), "dog")
    with pytest.raises(UsageError, match="--count must be at least 1"):
        retrieve(pairs, "dog", count=0)


def test_the_attention_to_neighbours_begins_at_nothing() -> None:
    torch.manual_seed(0)
    attention = AddedAttention(8, 8, 2, norms_tokens=True)
    cells, told = drawn(1, 5, 8), drawn(1, 3, 8, seed=1)
    assert not attention(cells, told).any()
    with torch.no_grad():
        attention.to_out.weight.copy_(torch.eye(8))
    asked = attention.to_q(attention.norm(cells)).unflatten(2, (2, 4)).transpose(1, 2)
    parts = attention.to_kv(attention.told(told)).chunk(2, -1)
    keys, values = (x.unflatten(2, (2, 4)).transpose(1, 2) for x in parts)
    expected = ((asked @ keys.transpose(-1, -2)) / 2).softmax(-1) @ values
    torch.testing.assert_close(attention(cells, told), expected.transpose(1, 2).flatten(2))


@torch.no_grad()
@pytest.mark.parametrize("system", ["re-imagen", "suti"])
def test_neighbours_are_read_with_their_captions_by_half_a_pass(system: str, sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system(system, sd, eye)
    assert isinstance(adapter, AbstractNeighbours)
    at_random(adapter, sd)
    adapter.eval()
    passes = {"down": 0, "up": 0}
    handles = [
        sd.denoiser.conv_in.register_forward_hook(lambda *_: passes.update(down=passes["down"] + 1)),
        sd.denoiser.conv_out.register_forward_hook(lambda *_: passes.update(up=passes["up"] + 1)),
    ]
    noisy, timesteps, made = drawn(1, 4, 8, 8, seed=1), torch.tensor([300]), []
    with adapter.inserted(sd):
        for captions in (("a dog in snow", "a dog"), ("a red cat", "a dog")):
            shown = Shown(sight=Sight(features=drawn(1, 2, 4, 8, 8)), nouns=(("dog",) * 2,), captions=(captions,))
            told = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], shown)
            assert torch.equal(told.states, sd.encode_prompt([PROMPT]).states)
            made.append(sd.predict(noisy, timesteps, told))
        bare = Shown(sight=shown.sight, nouns=(("dog",) * 2,))
        said_of = adapter.said
        assert passes == {"down": 4, "up": 2}
        asked: list[list[str]] = []
        adapter.said = lambda given: asked.append(said_of(given)) or asked[-1]  # type: ignore[method-assign]
        adapter.conditioned(sd, sd.encode_prompt, [PROMPT], bare)
    for handle in handles:
        handle.remove()
    assert asked == [["a photo of the dog"] * 2]
    assert (made[0] - made[1]).abs().max() > 1e-4, "what is said of a neighbour matters"


def test_guidance_goes_from_no_words_or_from_no_neighbours() -> None:
    """Two pictures: what their negative rows see and say, by whose turn it is."""
    states = torch.arange(4.0)[:, None, None].expand(4, 2, 3)
    read = torch.tensor([0.0, 0.0, 1.0, 2.0])[:, None, None].expand(4, 1, 2)
    asked = Conditioning(states=states, shown={LATENTS: read, "other": read})
    words = interleaved(asked, 2, neighbours_turn=False)
    assert words.states[:, 0, 0].tolist() == [0, 1, 2, 3], "the negative prompts"
    assert words.shown is not None
    assert words.shown[LATENTS][:, 0, 0].tolist() == [1, 2, 1, 2], "and the neighbours of the prompts"
    assert torch.equal(words.shown["other"], read)
    neighbours = interleaved(asked, 2, neighbours_turn=True)
    assert neighbours.states[:, 0, 0].tolist() == [2, 3, 2, 3], "the prompts themselves"
    assert neighbours.shown is not None
    assert neighbours.shown[LATENTS][:, 0, 0].tolist() == [0, 0, 1, 2], "without neighbours"
    assert neighbours.shown["other"][:, 0, 0].tolist() == [1, 2, 1, 2]


def test_photos_bring_their_captions(sd: AbstractBackbone, eye: Path, tmp_path: Path) -> None:
    adapter, encoder = tiny_system("suti", sd, eye)
    at_random(adapter, sd)
    save_adapter(adapter, said("suti", sd, encoder, eye), tmp_path / "ours", half=False)
    photos = find_photos(albums(tmp_path / "pairs") / "dog-album")[:2]
    reference = show(sd, photos, adapter=str(tmp_path / "ours"), nouns=("dog",))
    assert reference.captions == ("a photo of the dog",) * 2


def test_experts_draw_and_what_is_not_like_its_prompt_is_left_out(tiny_sd_path: Path, tmp_path: Path) -> None:
    text, photos = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    assert delta(torch.tensor([[0.8, 0.6]]), photos, text) == pytest.approx(0.2)
    pairs = albums(tmp_path / "pairs")
    asked: dict[str, Any] = {"base": str(tiny_sd_path), "device": "cpu", "precision": "fp32"}
    given: dict[str, Any] = {**asked, "clip": tiny_clip(tmp_path / "clip"), "images": 1, "steps": 1, "recipe": "hiper"}
    prompts = ["a photo of {subject} on the beach", "a photo of {subject} in snow"]
    with pytest.raises(UsageError, match="--clip is needed"):
        teach_pairs(pairs, tmp_path / "taught", **asked)
    with pytest.raises(UsageError, match="is no prompt for an expert"):
        teach_pairs(pairs, tmp_path / "taught", prompts=["a dog"], **given)
    teach_pairs(pairs, tmp_path / "taught", prompts=prompts, margin=-2, **given)
    album = tmp_path / "taught" / "dog-album"
    assert {path.name for path in album.glob("expert*")} == {
        f"expert-{i}.{end}" for i in (0, 1) for end in ("png", "txt")
    }
    assert (album / "expert-1.txt").read_text() == "a photo of a dog in snow"
    assert (album / "0_mask.png").read_bytes() == (pairs / "dog-album" / "0_mask.png").read_bytes()
    assert [len(own.photos) for own in read_subjects(tmp_path / "taught", asks_noun=True)] == [5, 5]
    assert not (tmp_path / "taught" / ".experts").exists()
    before = (album / "expert-0.png").stat().st_mtime_ns
    teach_pairs(pairs, tmp_path / "taught", prompts=prompts, margin=-2, **given)
    assert (album / "expert-0.png").stat().st_mtime_ns == before, "what is there is kept"
    (pairs / "cat-album").rename(tmp_path / "away")
    teach_pairs(pairs, tmp_path / "strict", prompts=prompts, margin=2, **given)
    assert not list((tmp_path / "strict" / "dog-album").glob("expert*")), "none is so much more like its prompt"


def test_re_imagen_learns_from_pictures_of_anything(tiny_sd_path: Path, eye: Path, tmp_path: Path) -> None:
    from pcs_ext.config_io import write_json
    from tests.support.tiny_reference import TINY

    pairs = albums(tmp_path / "pairs")
    write_json(tmp_path / "tiny.json", {"adapter": TINY["re-imagen"], "steps": 1, "batch_size": 2, "photos": 2})
    asked: dict[str, Any] = {"base": str(tiny_sd_path), "device": "cpu", "precision": "fp32"}
    learn_reference(pairs, tmp_path / "re", system="re-imagen", config=tmp_path / "tiny.json", **asked)
    told = json.loads((tmp_path / "re" / "config.json").read_text())
    assert told["kind"] == "re-imagen"
    with Image.open(pairs / "dog-album" / "0.png") as image:
        assert image.size[0] == 40
