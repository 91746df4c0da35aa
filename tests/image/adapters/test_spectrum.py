"""Tokens that differ by layer and timestep: who reads what, and how many numbers that takes at full size."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import NetiAdapter, NetiConfig, SpectrumAdapter, SpectrumConfig, injected
from pcs_ext.image.adapters.neti import NetiMapper
from pcs_ext.image.adapters.spectrum import TableRows, stage_of
from pcs_ext.image.types import Conditioning

PROMPT = "a photo of <rex> on the beach"


def states(backbone, conditioning: Conditioning, timestep: int = 30) -> list[tuple[torch.Tensor, torch.Tensor]]:
    times = torch.full((conditioning.batch_size,), timestep)
    return [conditioning.at(times, path) for path in backbone.cross_attention_paths()]


def table(adapter: SpectrumAdapter) -> torch.Tensor:
    rows = adapter.rows()[0]
    assert isinstance(rows, TableRows)
    return rows.weight


def noise(width: int) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_each_layer_reads_the_prompt_with_its_own_row(backbone) -> None:
    adapter = SpectrumAdapter("word", SpectrumConfig(placeholder="<rex>", initializer="dog"))
    with injected(backbone, adapter):
        table(adapter)[0, 1, 0] += noise(16)
        of_layers = states(backbone, backbone.encode_prompt([PROMPT, "a cat", PROMPT]))
        assert len(of_layers) == len(backbone.cross_attention_paths())
        plain = of_layers[0][0]
        assert torch.equal(plain[1], backbone.encode_prompt(["a cat"]).states[0])
        for index, (keys, values) in enumerate(of_layers):
            assert keys is values or torch.equal(keys, values)
            assert torch.equal(keys[1], plain[1]), "a prompt without the word is the same everywhere"
            changed = not torch.allclose(keys[0], plain[0], atol=1e-4)
            assert changed == (index == 1), index
            torch.testing.assert_close(keys[0], keys[2])
        # Causal text: what stands before the word cannot know of it.
        torch.testing.assert_close(of_layers[1][0][0, :4], plain[0, :4])
    assert "encode_prompt" not in vars(backbone)


@torch.no_grad()
def test_equal_rows_are_textual_inversion(sd, run) -> None:
    word = SpectrumAdapter("word", SpectrumConfig(placeholder="<rex>", initializer="dog", stages=3))
    with injected(sd, word):
        torch.testing.assert_close(run(sd, PROMPT), run(sd, PROMPT.replace("<rex>", "dog")))


@torch.no_grad()
def test_stages_split_the_timesteps_and_rows_of_a_batch_differ(sd) -> None:
    edges = stage_of(torch.tensor([0, 99, 100, 899, 900, 999]), 10, 1000)
    assert edges.tolist() == [0, 0, 1, 8, 9, 9]
    adapter = SpectrumAdapter(
        "word", SpectrumConfig(placeholder="<rex>", initializer="dog", per_layer=False, stages=10)
    )
    with injected(sd, adapter):
        table(adapter)[9] += noise(16)  # of timesteps 90 to 99 of this schedule's 100
        conditioning = sd.encode_prompt([PROMPT, PROMPT])
        path = sd.cross_attention_paths()[-1]
        low, high = conditioning.at(torch.tensor([5, 95]), path)[0]
        assert not torch.allclose(low, high, atol=1e-4)
        again = conditioning.at(torch.tensor([95, 5]), path)[0]
        torch.testing.assert_close(again.flip(0), torch.stack([low, high]))
        picked = conditioning[[1]].at(torch.tensor([95]), path)[0]
        torch.testing.assert_close(picked[0], high)
        both = Conditioning.cat([sd.encode_prompt(["a cat"]), conditioning[[0]]])
        torch.testing.assert_close(both.at(torch.tensor([95, 95]), path)[0][1], high)


@torch.no_grad()
def test_two_spectra_in_one_prompt(sd) -> None:
    layered = SpectrumAdapter("a", SpectrumConfig(placeholder="<rex>", initializer="dog"))
    staged = SpectrumAdapter("b", SpectrumConfig(placeholder="<tom>", initializer="cat", per_layer=False, stages=2))
    with injected(sd, layered, staged):
        table(layered)[0, 0] += noise(16)
        table(staged)[1] -= noise(16)
        conditioning = sd.encode_prompt(["<rex> and <tom>"])
        seen = [keys for t in (10, 90) for keys, _ in states(sd, conditioning, t)]
        pairs = [(i, j) for i in range(len(seen)) for j in range(i) if not torch.allclose(seen[i], seen[j], atol=1e-4)]
        assert (2, 0) in pairs, "the stage changes all layers"
        assert (1, 0) in pairs, "the first layer has a row of its own"


@torch.no_grad()
def test_neti_depends_on_timestep_and_layer_and_speaks_to_values_apart(sd) -> None:
    adapter = NetiAdapter("word", NetiConfig(placeholder="<rex>", initializer="dog", frequencies=32, width=16))
    with injected(sd, adapter):
        early, late = (states(sd, sd.encode_prompt([PROMPT]), t) for t in (5, 90))
        (key, value), other_layer, other_time = early[0], early[1], late[0]
        assert not torch.allclose(key, other_layer[0], atol=1e-4)
        assert not torch.allclose(key, other_time[0], atol=1e-4)
        # <|startoftext|> a photo of <rex>: the word is at position 4, and only there values differ from keys.
        differs = (key - value).abs().amax(-1)[0] > 0
        assert differs.nonzero().flatten().tolist() == [4]
        torch.testing.assert_close((value - key)[0, 4].norm(), 0.2 * key[0, 4].norm())
        (rows,) = adapter.rows_at(torch.tensor([5, 50]), torch.tensor([0, 1]))
        torch.testing.assert_close(rows.norm(dim=-1), adapter.rows()[0].initial.norm().expand(2, 1))
        adapter.keep = 1
        cut = states(sd, sd.encode_prompt([PROMPT]), 5)[0][0]
        assert not torch.allclose(cut, key, atol=1e-4), "fewer hidden units, another vector"


def test_numbers_at_full_size() -> None:
    with torch.device("meta"):
        mapper = NetiMapper(NetiConfig(), layers=16, total=1000, out=2 * 768)
    assert sum(parameter.numel() for parameter in mapper.parameters()) == 563_616


def test_neti_features_are_unit_vectors_and_start_the_first_layer() -> None:
    mapper = NetiMapper(NetiConfig(frequencies=64), layers=4, total=1000, out=8)
    anchors = next(mapper.net.parameters())
    assert anchors.shape == (40, 128)
    torch.testing.assert_close(anchors.norm(dim=1), torch.ones(40))
    torch.testing.assert_close(anchors[4 * 3 + 2], mapper.features(torch.tensor([300]), torch.tensor([2]))[0])


def test_nested_dropout_cuts_a_tail_in_training_only() -> None:
    mapper = NetiMapper(NetiConfig(frequencies=8, nested_dropout=1.0, width=16), layers=2, total=10, out=4)
    torch.manual_seed(0)
    limits = mapper._limits(2000)
    assert limits.min() == 0
    assert limits.max() == 15
    assert abs(float(limits.float().mean()) - 7.5) < 0.5
    with torch.no_grad():
        assert set(mapper._limits(50).tolist()) == {16}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"per_layer": False}, "plain learned token"), ({"stages": 0}, "stages must be at least 1")],
)
def test_bad_spectra_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpectrumConfig(**settings)
