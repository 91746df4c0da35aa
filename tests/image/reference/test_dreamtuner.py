"""DreamTuner: keys that weigh, a photo that is looked at where its subject is, and guidance by turns."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.cpu_attention import attend
from pcs_ext.image.backbones.joint import joint_attention
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.added_attention import AddedAttention
from pcs_ext.image.reference.albums import read_subjects
from pcs_ext.image.reference.files import OpenedAdapter
from pcs_ext.image.reference.latents import LatentEncoder
from pcs_ext.image.reference.pairs import encode_subjects
from pcs_ext.image.reference.reference import seen_by
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.bootpig import timestep_noise
from pcs_ext.image.reference.systems.dreamtuner import DreamTuner, DreamTunerConfig, covered
from pcs_ext.image.sample import Sampling
from pcs_ext.image.types import Conditioning
from pcs_ext.reporter import SilentReporter
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import HIDDEN, drawn, tiny_system

WORDS = "a photo of the dog"


def test_a_key_may_weigh_nothing_or_as_much_as_two() -> None:
    query, key, value = drawn(1, 1, 3, 4), drawn(1, 1, 2, 4, seed=1), drawn(1, 1, 2, 4, seed=2)
    other, told = drawn(1, 1, 3, 4, seed=3), drawn(1, 1, 3, 4, seed=4)
    mixed = attend(query, key, value, 0.5)

    def joined(weights: list[float]) -> torch.Tensor:
        return joint_attention(mixed, (query, key), (query, other, told), torch.tensor([weights]), 0.5)

    def plainly(rows: list[int]) -> torch.Tensor:
        keys, values = torch.cat([key, other[:, :, rows]], 2), torch.cat([value, told[:, :, rows]], 2)
        return attend(query, keys, values, 0.5)

    torch.testing.assert_close(joined([1, 1, 1]), plainly([0, 1, 2]))
    torch.testing.assert_close(joined([1, 0, 1]), plainly([0, 2]))
    torch.testing.assert_close(joined([1, 2, 0]), plainly([0, 1, 1]))
    assert torch.equal(joined([0, 0, 0]), mixed), "nothing weighs: the first attention to the bit"


def test_cells_of_a_coarser_grid_are_the_subjects_where_half_of_them_is() -> None:
    ground = torch.zeros(1, 1, 4, 4)
    ground[..., :2, :3] = 1
    assert covered(ground, (2, 2)).tolist() == [[1, 1, 0, 0]]
    assert covered(ground, (1, 1)).tolist() == [[0]]
    assert covered(ground, (4, 4)).sum() == 6


def photo(clean: torch.Tensor, cells: torch.Tensor | None = None) -> Shown:
    """A photo whose latents these are; all of it is the subject, if nothing else is said."""
    cells = torch.ones(1, 1, 8, 8) if cells is None else cells
    sight = Sight(features=drawn(1, 1, 17, HIDDEN), latents=clean[:, None], cells=cells)
    return Shown(sight=sight, nouns=(("dog",),))


@torch.no_grad()
def test_a_photo_that_is_what_is_drawn_says_nothing_new_and_one_without_subject_nothing_at_all(
    sd: AbstractBackbone, eye: Path
) -> None:
    """As noisy and told the same words it holds the same cells; cells of the background weigh nothing."""
    adapter, _ = tiny_system("dreamtuner", sd, eye)
    assert isinstance(adapter, DreamTuner)
    adapter.eval()  # untrained: what the subject encoder adds is 0
    clean, timesteps = drawn(1, 4, 8, 8), torch.tensor([300])
    noisy = sd.schedule.add_noise(clean, timestep_noise(300, (4, 8, 8))[None], timesteps)
    plain = sd.predict(noisy, timesteps, sd.encode_prompt([WORDS]))
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, [WORDS], photo(clean))
        torch.testing.assert_close(sd.predict(noisy, timesteps, told), plain, atol=1e-5, rtol=1e-5)
        told = adapter.conditioned(sd, sd.encode_prompt, [WORDS], photo(-clean))
        whole = sd.predict(noisy, timesteps, told)
        nowhere = adapter.conditioned(sd, sd.encode_prompt, [WORDS], photo(-clean, torch.zeros(1, 1, 8, 8)))
        assert torch.equal(sd.predict(noisy, timesteps, nowhere), plain)
        half = torch.zeros(1, 1, 8, 8).index_fill(3, torch.arange(4), 1.0)
        there = adapter.conditioned(sd, sd.encode_prompt, [WORDS], photo(-clean, half))
        part = sd.predict(noisy, timesteps, there)
        trained = adapter.train().conditioned(sd, sd.encode_prompt, [WORDS], photo(-clean))
        assert torch.equal(sd.predict(noisy, timesteps, trained), plain), "training does not look at it"
    assert (whole - plain).abs().max() > 1e-3
    assert (part - plain).abs().max() > 1e-4
    assert (part - whole).abs().max() > 1e-4


def test_photos_are_seen_as_latents_by_the_bases_own_encoder_once(
    sd: AbstractBackbone, eye: Path, photos: Path, tmp_path: Path
) -> None:
    adapter, encoder = tiny_system("dreamtuner", sd, eye)
    opened = OpenedAdapter(adapter=adapter, encoder=encoder, latents=LatentEncoder.of(sd))
    with Image.open(photos / "0.png") as image:
        mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, image.width // 2, image.height))
    mask.save(photos / "0_mask.png")
    sight = seen_by(opened, find_photos(photos), scale=1.0, nouns=("dog",)).sight
    assert sight.latents is not None
    assert sight.cells is not None
    assert sight.latents.shape == (3, 4, 8, 8)
    assert sight.cells[0, :, :3].min() == 1
    assert sight.cells[0, :, 5:].max() == 0
    assert sight.cells[1:].min() == 1, "where no mask is known, all of the photo is the subject"
    encoded: list[int] = []
    handle = sd.vae.encoder.register_forward_hook(lambda module, given, made: encoded.append(len(made)))
    data = encode_subjects(
        read_subjects(albums(tmp_path / "pairs")), sd, encoder, SilentReporter(), cut=True,
        latents_too=adapter.asks_latents,
    )  # fmt: skip
    handle.remove()
    assert sum(encoded) == 6, "what is drawn and what is shown are the same latents"
    assert data.sight.latents is not None
    assert torch.equal(data.sight.latents, data.latents)


def test_the_subject_attention_is_a_cross_attention_that_begins_at_nothing() -> None:
    torch.manual_seed(0)
    attention = AddedAttention(8, 6, 2)
    cells, tokens = drawn(1, 5, 8), drawn(1, 3, 6, seed=1)
    assert not attention(cells, tokens).any()
    with torch.no_grad():
        attention.to_out.weight.copy_(torch.eye(8))
    asked = attention.to_q(attention.norm(cells)).unflatten(2, (2, 4)).transpose(1, 2)
    keys, values = (x.unflatten(2, (2, 4)).transpose(1, 2) for x in attention.to_kv(tokens).chunk(2, -1))
    expected = ((asked @ keys.transpose(-1, -2)) / 2).softmax(-1) @ values
    torch.testing.assert_close(attention(cells, tokens), expected.transpose(1, 2).flatten(2))


@torch.no_grad()
@pytest.mark.parametrize("turns", [0.0, 1.0])
def test_guidance_goes_from_no_words_or_from_a_noisier_photo(turns: float, sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("dreamtuner", sd, eye)
    assert isinstance(adapter, DreamTuner)
    adapter.config = DreamTunerConfig(depth=1, heads=2, turns=turns, shift=0.02)
    adapter.eval()
    seen: list[list[float]] = []
    handle = sd.denoiser.time_proj.register_forward_hook(lambda m, inputs, o: seen.append(inputs[0].tolist()))
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, [WORDS], photo(drawn(1, 4, 8, 8)))
        asked = Conditioning.cat([sd.encode_prompt([""]), told])
        sampling = Sampling(scheduler=None, conditioning=asked, guided=True, guidance_scale=3.0, seeds=(1,))
        latents, time = drawn(1, 4, 8, 8, seed=1), torch.tensor(300)
        assert adapter.refined(sd, sampling, 0, time, latents) is latents
        both = sd.predict(torch.cat([latents] * 2), time.expand(2), asked)
        alone = sd.predict(latents, time[None], sd.encode_prompt([""]))
    handle.remove()
    # First the photo, for the negative row and the positive one, then what is drawn.
    moved = 20 if turns else 0
    assert seen[:2] == [[300 + moved, 300 - moved], [300, 300]]
    assert (both[:1] - alone).abs().max() > 1e-4, "the negative row sees the photo, too"
