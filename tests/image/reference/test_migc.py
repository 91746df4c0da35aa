"""MIGC: shadings of things in boxes, how they are mixed, and what is learned of boxes without any photo."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import write_json
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.reference.blind import BlindEncoder
from pcs_ext.image.reference.files import OpenedAdapter, ReferenceConfig, save_adapter
from pcs_ext.image.reference.learn import learn_reference, parameter_groups
from pcs_ext.image.reference.pairs import PairData
from pcs_ext.image.reference.reference import seen_by
from pcs_ext.image.reference.shading import ChannelsAndPlaces, EnhancementAttention, LayoutAttention, ShadingAggregation
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.migc import MIGC, covered
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.image.types import Conditioning
from tests.support.command_line import run
from tests.support.tiny import tiny_backbone
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import TINY, at_random, drawn, tiny_system

PROMPT = "the dog and the cat"
HALVES = torch.tensor([[[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]])


def made(sd: AbstractBackbone) -> MIGC:
    adapter, _ = tiny_system("migc", sd, Path("none"))
    assert isinstance(adapter, MIGC)
    at_random(adapter, sd)
    return adapter.eval().requires_grad_(False)


def things(boxes: Tensor = HALVES, nouns: tuple[str, ...] = ("dog", "cat"), *, rows: int = 1) -> Shown:
    return Shown(
        sight=Sight(features=torch.zeros(rows, len(nouns), 0)), nouns=(nouns,) * rows, boxes=boxes.expand(rows, -1, -1)
    )


def test_cells_are_covered_by_shares() -> None:
    seen = covered(torch.tensor([[0.125, 0.0, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]]), 2, 4)
    assert seen[0].tolist() == [[0.5, 1.0, 0.0, 0.0]] * 2
    assert seen[1].sum() == 0


@torch.no_grad()
def test_cells_ask_a_description_and_a_box() -> None:
    torch.manual_seed(0)
    layer = EnhancementAttention(8, 6, 2)
    cells, described, boxes = drawn(1, 3, 8), drawn(1, 2, 6, seed=1), HALVES
    found = layer(cells, described, boxes)
    for thing in range(2):
        told = torch.stack([described[0, thing], layer.place(layer.features(boxes[0, thing]))])
        query, keys, values = layer.to_q(layer.norm(cells[0])), layer.to_k(told), layer.to_v(told)
        parts = []
        for head in (slice(0, 4), slice(4, 8)):
            seen = (query[:, head] @ keys[:, head].T / 2).softmax(-1)
            parts.append(seen @ values[:, head])
        torch.testing.assert_close(found[0, thing], layer.to_out(torch.cat(parts, -1)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_layouts_cells_look_at_those_they_share_a_region_with() -> None:
    torch.manual_seed(0)
    layer = LayoutAttention(8, 2)
    cells = drawn(1, 4, 8)
    regions = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0]]])
    found = layer(cells, regions)
    moved = cells.clone()
    moved[0, 2] += 1
    again = layer(moved, regions)
    assert torch.equal(found[0, 0], again[0, 0]), "cells 0 and 2 share no region"
    assert torch.equal(found[0, 3], again[0, 3])
    assert (found[0, 1] - again[0, 1]).abs().max() > 1e-3
    # The last cell has none but itself.
    torch.testing.assert_close(found[0, 3], layer.to_out(layer.to_v(cells[0, 3])), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_channels_and_places_count_as_much_as_they_matter() -> None:
    torch.manual_seed(0)
    layer, maps = ChannelsAndPlaces(4, 2), drawn(1, 4, 3, 3)
    first, second = layer.which[0], layer.which[2]

    def which(pooled: Tensor) -> Tensor:
        return second(F.relu(first(pooled)))

    weights = torch.sigmoid(which(maps.mean((2, 3))) + which(maps.amax((2, 3))))[0]
    scaled = maps[0] * weights[:, None, None]
    pooled = torch.stack([scaled.max(0).values, scaled.mean(0)])
    wide = F.pad(pooled, (3, 3, 3, 3))
    place = torch.stack(
        [
            torch.stack([(wide[:, y : y + 7, x : x + 7] * layer.where.weight[0]).sum() for x in range(3)])
            for y in range(3)
        ]
    )
    torch.testing.assert_close(layer(maps)[0], scaled * torch.sigmoid(place), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_shadings_are_mixed_in_every_cell_and_absent_things_have_no_share() -> None:
    torch.manual_seed(0)
    layer = ShadingAggregation(8, 5)
    shadings, regions = drawn(1, 4, 6, 8), torch.ones(1, 4, 2, 3)
    present = torch.tensor([[True, True, False, True]])
    shares = layer.shares(shadings, regions, present)
    torch.testing.assert_close(shares.sum(1), torch.ones(1, 6))
    assert shares[0, 2].abs().max() == 0
    torch.testing.assert_close(layer(shadings, regions, present)[0], torch.einsum("kn,knd->nd", shares[0], shadings[0]))
    other = shadings.clone()
    other[0, 2] = 9.0
    torch.testing.assert_close(layer.shares(other, regions, present), shares)
    # One thing in the first place, as if there never had been another.
    fewer = layer.shares(shadings[:, [0, 1, 3]], regions[:, :3], present[:, [0, 1, 3]])
    torch.testing.assert_close(fewer, shares[:, [0, 1, 3]])
    for parameter in layer.together.parameters():
        parameter.zero_()  # all scores times 0.5 0.5, whatever they are
    for parameter in layer.leave.parameters():
        parameter.zero_()
    torch.testing.assert_close(layer.shares(shadings, regions, present)[0, 0], torch.full((6,), 1 / 3))


def watched(sd: AbstractBackbone, path: str, noisy: Tensor, told: Conditioning) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A prediction in much noise, and what a cross-attention read and gave: its block adds that to what it had."""
    block, seen = sd.denoiser.get_submodule(path.removesuffix(".attn2")), {}
    handles = [
        block.get_submodule(name).register_forward_pre_hook(lambda m, inputs, name=name: seen.update({name: inputs[0]}))
        for name in ("norm2", "attn2", "norm3")
    ]
    answer = sd.predict(noisy, torch.tensor([900]), told)
    for handle in handles:
        handle.remove()
    return answer, (seen["attn2"], seen["norm3"] - seen["norm2"])


@torch.no_grad()
def test_some_attentions_are_taken_apart_in_much_noise(sd: AbstractBackbone) -> None:
    adapter = made(sd)
    paths = sd.cross_attention_paths()
    assert list(adapter.names) == [p for p in paths if p.startswith(("mid_block.", "up_blocks.0."))]
    noisy = drawn(1, 4, 8, 8, seed=4)
    path = next(iter(adapter.names))
    module = sd.denoiser.get_submodule(path)
    told = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], things())
    plain = {time: sd.predict(noisy, torch.tensor([time]), sd.encode_prompt([PROMPT])) for time in (900, 100)}
    bare, (cells, ground) = watched(sd, path, noisy, sd.encode_prompt([PROMPT]))
    assert torch.equal(bare, plain[900])
    with adapter.inserted(sd):
        shaded, (asked, found) = watched(sd, path, noisy, told)
        assert torch.equal(sd.predict(noisy, torch.tensor([100]), told), plain[100]), "later all is the base's"
    assert (shaded - plain[900]).abs().max() > 1e-3
    torch.testing.assert_close(asked, cells)
    # Written out: what the base's attention makes of each description alone, and the controller's mean.
    texts = sd.encode_prompt(["dog", "cat"]).states
    alone = torch.cat([module(cells, encoder_hidden_states=texts[[thing]]) for thing in range(2)])[None]
    ends = torch.stack([texts[0, 2], texts[1, 2]])[None]
    assert len(sd.tokenizers[0]("dog").input_ids) == 3, "the end mark is the third token"
    side = round(cells.shape[1] ** 0.5)
    shading = adapter.shadings[adapter.names[path]]
    expected = shading(cells, ground, alone, ends, HALVES, covered(HALVES, side, side))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_it_acts_by_rows_and_not_at_strength_0(sd: AbstractBackbone) -> None:
    adapter = made(sd)
    noisy, times = drawn(3, 4, 8, 8, seed=4), torch.tensor([900, 800, 700])
    prompts = [PROMPT, "a dog on beach", PROMPT]
    shown = things(rows=3)
    boxes = HALVES.repeat(3, 1, 1)
    boxes[2] = 0  # nobody says where
    shown = Shown(sight=shown.sight, nouns=(("dog", "cat"),) * 3, boxes=boxes)
    plain = sd.predict(noisy, times, sd.encode_prompt(prompts))
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, prompts, shown)
        together = sd.predict(noisy, times, told)
        for row in range(3):
            alone = sd.predict(noisy[[row]], times[[row]], told[[row]])
            torch.testing.assert_close(alone[0], together[row], atol=2e-5, rtol=0)
        torch.testing.assert_close(together[2], plain[2], atol=2e-5, rtol=0)
        assert (together - plain)[:2].abs().flatten(1).amax(1).min() > 1e-3
        one = Shown(sight=Sight(features=torch.zeros(1, 1, 0)), nouns=(("dog",),), boxes=HALVES[:, :1])
        single = sd.predict(noisy[1:2], times[1:2], adapter.conditioned(sd, sd.encode_prompt, prompts[1:2], one))
        torch.testing.assert_close(single[0], together[1], atol=2e-5, rtol=0)  # a prompt without the cat has none
    for scale in (0.0, 0.5):
        with adapter.inserted(sd, scale):
            told = adapter.conditioned(sd, sd.encode_prompt, prompts, shown, scale=scale)
            part = sd.predict(noisy, times, told)
        assert torch.equal(part, plain) == (scale == 0)
    with pytest.raises(ConfigError, match="room for 2 things, got 3"):
        adapter.conditioned(sd, sd.encode_prompt, [PROMPT], things(HALVES[:, [0, 1, 1]], ("dog", "cat", "dog")))


def test_it_learns_what_only_boxes_tell_and_the_base_stays(tmp_path: Path) -> None:
    """Pictures whose captions are one, bright in the left or in the right half: told the box, it knows which."""
    sd = tiny_backbone(tmp_path / "sd", prediction_type="v_prediction")
    adapter, encoder = tiny_system("migc", sd, tmp_path)
    side = torch.zeros(6, 1, 8, 8)
    side[:3, ..., :4], side[3:, ..., 4:] = 1, 1
    data = PairData(
        latents=(2 * side - 1).expand(6, 4, 8, 8).clone(), features=torch.zeros(6, 0),
        captions=[("a photo of the dog",)] * 6, groups=torch.arange(6).reshape(2, 3).unbind(0),
        nouns=[("dog",), ("dog",)], masks=side,
    )  # fmt: skip
    settings = ReferenceTraining(batch_size=8, drop_image=0.0, drop_text=0.0, drop_both=0.0, learning_rate=1e-2)
    late = lambda batch, generator: torch.randint(700, 790, (batch,), generator=generator)  # noqa: E731
    loss = ReferenceLoss(
        sd, adapter, data, settings, Sight(features=torch.zeros(0)), draw_timesteps=late, encoder=encoder
    )
    base = [parameter.clone() for parameter in sd.denoiser.parameters()]
    adapter.train()
    with adapter.inserted(sd):
        groups = parameter_groups(adapter, adapter.stages[0], settings)
        for _ in fit(loss, groups, FitConfig(steps=40)):
            pass
        assert all(parameter.grad is not None for group in groups for parameter in group.parameters)
    assert all(torch.equal(a, b) for a, b in zip(base, sd.denoiser.parameters(), strict=True))
    adapter.eval().requires_grad_(False)
    times, clean = torch.full((32,), 745), data.latents[[0, 3]].repeat(16, 1, 1, 1)
    noise = drawn(32, 4, 8, 8, seed=9)
    kept, errors = sd.schedule.alphas_cumprod[745], []
    wanted = kept.sqrt() * noise - (1 - kept).sqrt() * clean
    for order in ([0, 1], [1, 0]):
        boxes = HALVES[0, order].repeat(16, 1)[:, None]
        shown = Shown(sight=Sight(features=torch.zeros(32, 1, 0)), nouns=(("dog",),) * 32, boxes=boxes)
        with torch.no_grad(), adapter.inserted(sd):
            told = adapter.conditioned(sd, sd.encode_prompt, ["a photo of the dog"] * 32, shown)
            answer = sd.predict(sd.schedule.add_noise(clean, noise, times), times, told)
        errors.append(float((answer - wanted).square().mean()))
    assert errors[0] + 0.1 < errors[1]


def test_trained_from_albums_it_places_things_by_a_command(
    tiny_sd_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "tiny.json", {"adapter": TINY["migc"], "steps": 2, "batch_size": 2})
    where: dict[str, Any] = {"base": str(tiny_sd_path), "device": "cpu", "precision": "fp32"}
    pairs = albums(tmp_path / "pairs", couples=1)
    learn_reference(pairs, tmp_path / "migc", system="migc", config=tmp_path / "tiny.json", **where)
    sd = load_backbone(str(tiny_sd_path), device="cpu", precision="fp32")
    adapter = made(sd)
    said = ReferenceConfig(
        kind="migc", adapter=TINY["migc"], encoder="base", encoder_digest="none", base=sd.name,
        base_fingerprint=sd.fingerprint, family=sd.family, steps=1,
    )  # fmt: skip
    save_adapter(adapter, said, tmp_path / "random", half=False)
    flags = ["--base", tiny_sd_path, "--device", "cpu", "--precision", "fp32", "--steps", "2", "--seeds", "1"]
    command = ("reference", "place", PROMPT)
    left, right = ["dog: 0 0 0.5 1", "cat: 0.5 0 1 1"], ["cat: 0 0 0.5 1", "dog: 0.5 0 1 1"]
    found = {}
    for name, folder, boxes, more in (
        ("trained", "migc", left, []), ("left", "random", left, []), ("right", "random", right, []),
        ("off", "random", left, ["--scale", "0"]),
    ):  # fmt: skip
        output = tmp_path / f"{name}.png"
        code, out, err = run(
            *command, "--box", *boxes, "--adapter", tmp_path / folder, "-o", output, *flags, *more, capture=capsys
        )
        assert (code, out.split()) == (0, [str(output)]), err
        with Image.open(output) as image:
            found[name], facts = image.tobytes(), json.loads(image.info["pcs_ext"])
        assert facts["reference_adapter"].startswith(f"{folder} (")
        assert facts["reference_boxes"] == [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
        assert facts["reference_nouns"] == [box.split(":")[0] for box in boxes]
        assert facts["reference_scale"] == (0 if more else 1)
    assert len(set(found.values())) == 4
    again = ["--adapter", str(tmp_path / "random"), "-o", str(tmp_path / "no.png"), *map(str, flags)]
    for boxes, message in ((["dog: 0 0 1 1", "dog: 0 0 1 0.5"], "different phrases"),
                           (["bird: 0 0 1 1"], "does not name the bird of a --box"),
                           (["dog 0 0 1 1"], "is no box")):  # fmt: skip
        code, _, err = run(*command, "--box", *boxes, *again, capture=capsys)
        assert code == 2
        assert message in err
    opened = OpenedAdapter(adapter=adapter, encoder=BlindEncoder.beside(sd))
    with pytest.raises(UsageError, match="looks at no photos"):
        seen_by(opened, find_photos([photos / "0.png"]), scale=1.0, nouns=("dog",))
