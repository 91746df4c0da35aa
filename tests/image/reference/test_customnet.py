"""CustomNet: how a turn is told, where a thing is pasted, and what reads both."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcs_ext.errors import PhotoError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.albums import read_subjects
from pcs_ext.image.reference.details import pasted, squared
from pcs_ext.image.reference.files import OpenedAdapter
from pcs_ext.image.reference.learn import blank_of
from pcs_ext.image.reference.pairs import encode_subjects
from pcs_ext.image.reference.reference import seen_by
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.customnet import CustomNet
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.image.reference.views import TurnFeatures, read_turns, read_view
from pcs_ext.reporter import SilentReporter
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import WIDTH, at_random, drawn, tiny_system

PROMPT = "the dog on beach"


def test_a_turn_is_told_by_radians_sine_and_cosine() -> None:
    told = TurnFeatures()(torch.tensor([[90.0, 30.0, 0.5], [-180.0, 0.0, 0.0]]))
    torch.testing.assert_close(
        told, torch.tensor([[math.pi / 6, 1.0, 0.0, 0.5], [0.0, 0.0, -1.0, 0.0]]), atol=1e-6, rtol=0
    )


def test_a_thing_fills_the_longer_side_of_its_box() -> None:
    """A black thing, 20 wide and 10 high, pasted where boxes of 16 by 8 and 8 by 8 of 32 pixels are."""
    image, mask = torch.full((3, 40, 40), -1.0), torch.zeros(1, 40, 40)
    mask[:, 5:15, 10:30] = 1
    square, _ = squared(image, mask, 96)
    boxes = torch.tensor([[0.25, 0.25, 0.75, 0.5], [0.75, 0.5, 1.0, 0.75]])
    found = pasted(square.expand(2, -1, -1, -1), boxes, (32, 32))
    assert found.shape == (2, 3, 32, 32)
    for row, (top, bottom, left, right) in enumerate(((8, 16, 8, 24), (18, 22, 24, 32))):
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[top + 1 : bottom - 1, left + 1 : right - 1] = True
        around = torch.ones(32, 32, dtype=torch.bool)
        around[top - 1 : bottom + 1, max(left - 1, 0) : right + 1] = False
        assert found[row][:, inside].max() < -0.9
        assert found[row][:, around].min() > 0.99
    cut = pasted(square[None], torch.tensor([[0.75, 0.0, 1.0, 0.125]]), (32, 32))
    assert cut[0, 0, :4, 26:].mean() < 0, "what lies beyond the picture's edge is cut off"


@torch.no_grad()
def test_token_and_placed_picture_are_read_beside_the_text_and_the_noise(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("customnet", sd, eye)
    assert isinstance(adapter, CustomNet)
    at_random(adapter, sd)
    adapter.eval().requires_grad_(False)
    noisy, times = drawn(1, 4, 8, 8, seed=4), torch.tensor([300])
    sight = Sight(
        features=drawn(1, 1, WIDTH), cut=drawn(1, 1, WIDTH, seed=1), detail=drawn(1, 1, 3, 32, 32, seed=2).clamp(-1, 1)
    )
    box, turn = torch.tensor([[[0.25, 0.25, 0.75, 0.75]]]), torch.tensor([[[90.0, 10.0, 0.0]]])
    with adapter.inserted(sd):

        def answer(**told: Tensor | None) -> Tensor:
            shown = Shown(sight=sight, **told)  # type: ignore[arg-type]
            return sd.predict(noisy, times, adapter.conditioned(sd, sd.encode_prompt, [PROMPT], shown))

        told = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], Shown(sight=sight, boxes=box, turns=turn))
        assert sight.cut is not None
        assert sight.detail is not None
        numbers = torch.tensor([[math.radians(10), 1.0, 0.0, 0.0]])
        token = adapter.project(torch.cat([sight.cut[:, 0], numbers], -1))[:, None]
        for path, (keys, values) in adapter.maps(token).items():
            torch.testing.assert_close(told.decoupled[0].pairs[path][0], keys, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(told.decoupled[0].pairs[path][1], values, atol=1e-5, rtol=1e-5)
        full = sd.predict(noisy, times, told)
        torch.testing.assert_close(full, answer(boxes=box, turns=turn))
        # The same as by a first convolution that has four channels more.
        canvas = pasted(sight.detail[:, 0], box[:, 0], (sd.resolution, sd.resolution))
        placed = sd.encode_images(canvas)
        first = sd.denoiser.conv_in
        weights = torch.cat([first.weight, adapter.enter.weight], 1)

        def eight(module, inputs, output) -> Tensor:
            return torch.nn.functional.conv2d(torch.cat([inputs[0], placed], 1), weights, first.bias, padding=1)

        handle = first.register_forward_hook(eight)
        expected = answer(turns=turn)
        handle.remove()
        torch.testing.assert_close(full, expected, atol=1e-5, rtol=1e-5)
        assert (full - answer(turns=turn)).abs().max() > 1e-3, "the place counts"
        assert (full - answer(boxes=box)).abs().max() > 1e-4, "the turn counts"
        none = torch.zeros(1, 1, 4)
        torch.testing.assert_close(answer(boxes=none), answer())


def test_training_tells_by_how_much_the_camera_went_around(sd: AbstractBackbone, eye: Path, tmp_path: Path) -> None:
    adapter, encoder = tiny_system("customnet", sd, eye)
    folder = albums(tmp_path / "pairs")
    subjects = read_subjects(folder)
    with pytest.raises(PhotoError, match=r"has no 0_view.txt beside it"):
        encode_subjects(subjects, sd, encoder, SilentReporter(), cut=True, details="whole", views=True)
    for place in folder.iterdir():
        for number in range(3):
            (place / f"{number}_view.txt").write_text(f"{40 * number} {10 + number} 3.5\n")
    data = encode_subjects(subjects, sd, encoder, SilentReporter(), cut=True, details="whole", views=True)
    assert data.views is not None
    assert data.views[:3].tolist() == [[0.0, 10.0, 3.5], [40.0, 11.0, 3.5], [80.0, 12.0, 3.5]]
    assert data.detail is not None
    assert data.detail[:, :, 0, 0].min() == 1, "white around the toy"
    settings = ReferenceTraining(batch_size=6, drop_image=0.0, drop_text=0.0, drop_both=0.0)
    loss = ReferenceLoss(sd, adapter, data, settings, blank_of(data, encoder), encoder=encoder)
    pairs = loss._drawn(torch.Generator().manual_seed(0))
    turns = pairs.shown.turns
    assert turns is not None
    assert turns.shape == (6, 1, 3)
    assert (turns[..., 0].abs() > 0).all()
    torch.testing.assert_close(turns[..., 1], turns[..., 0] / 40)
    with adapter.inserted(sd):
        assert torch.isfinite(loss(0, 0, torch.Generator().manual_seed(1)).total)
    (folder / "dog-album" / "1_view.txt").write_text("30 15 4.5", encoding="utf-8-sig")
    told = read_view(folder / "dog-album" / "1.png")
    assert told is not None
    assert told.tolist() == [30.0, 15.0, 4.5]
    (folder / "dog-album" / "1_view.txt").write_text("left of it")
    with pytest.raises(PhotoError, match="does not say from where 1.png was taken; expected azimuth"):
        read_view(folder / "dog-album" / "1.png")


def test_turns_are_asked_for_by_those_that_know_them(sd: AbstractBackbone, eye: Path, photos: Path) -> None:
    assert read_turns(["90,0", "0,30,-1"], 2).tolist() == [[90.0, 0.0, 0.0], [0.0, 30.0, -1.0]]
    assert read_turns(["90,0"], 2).tolist() == [[90.0, 0.0, 0.0]] * 2
    for texts, message in ((["90"], "is no turn"), (["a,b"], "is no turn"), (["1,2", "3,4"], "2 turns for 1 photos")):
        with pytest.raises(UsageError, match=message):
            read_turns(texts, 1)
    found = {}
    for system in ("customnet", "ip-adapter"):
        adapter, encoder = tiny_system(system, sd, eye)
        found[system] = OpenedAdapter(adapter=adapter, encoder=encoder)
    photo = find_photos([photos / "0.png"])
    seen = seen_by(found["customnet"], photo, scale=1.0, nouns=(), boxes=["0,0,0.5,1"], turns=["90,0"])
    assert seen.turns is not None
    assert seen.turns.tolist() == [[90.0, 0.0, 0.0]]
    assert seen.sight.detail is not None
    assert seen.sight.detail.shape == (1, 3, sd.resolution, sd.resolution)
    with pytest.raises(UsageError, match="cannot be told to look from elsewhere"):
        seen_by(found["ip-adapter"], photo, scale=1.0, nouns=(), turns=["90,0"])
