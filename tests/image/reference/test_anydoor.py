"""AnyDoor: what is seen of details, where it is pasted, and what stands in the text's place."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.albums import read_subjects
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.details import collage, high_frequencies, squared, widened
from pcs_ext.image.reference.files import OpenedAdapter
from pcs_ext.image.reference.inside import read_of
from pcs_ext.image.reference.learn import blank_of
from pcs_ext.image.reference.pairs import encode_subjects
from pcs_ext.image.reference.reference import Reference, seen_by
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.anydoor import AnyDoor
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.reporter import SilentReporter
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import HIDDEN, at_random, drawn, tiny_system

PROMPT = "the dog on beach"


def made(sd: AbstractBackbone, eye: Path, *, random: bool = True) -> tuple[AnyDoor, Any]:
    adapter, encoder = tiny_system("anydoor", sd, eye)
    assert isinstance(adapter, AnyDoor)
    if random:
        at_random(adapter, sd)
    adapter.eval().requires_grad_(False)
    return adapter, encoder


def seen(*, pictures: int = 1) -> Sight:
    return Sight(features=drawn(1, pictures, 1, 17, HIDDEN), detail=drawn(1, pictures, 3, 8, 8, seed=2).clamp(-1, 1))


def test_edges_inside_the_thing_keep_their_colours() -> None:
    """Columns of 0.2, from the ninth on of 0.8: across the step Sobel answers 4 x 0.6, cut to 1; half of it counts."""
    image = torch.full((3, 16, 16), 0.2)
    image[:, :, 8:] = 0.8
    image[:, :, 12:] = 0.84  # a step of 4 x 0.04, halved below 50/255
    mask = torch.ones(1, 16, 16)
    mask[:, 12:] = 0
    found = (high_frequencies(2 * image - 1, mask) + 1) / 2
    expected = torch.zeros(3, 16, 16)
    expected[:, :11, 7], expected[:, :11, 8] = 0.5 * 0.2, 0.5 * 0.8  # row 11 is eroded
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    one = image.clone()
    one[1:] = 0.2  # an edge of one colour is one of all
    torch.testing.assert_close(((high_frequencies(2 * one - 1, mask) + 1) / 2)[1, 0, 8], torch.tensor(0.1))


def test_a_thing_stands_in_the_middle_of_a_white_square() -> None:
    image = torch.full((3, 40, 60), -1.0)
    mask = torch.zeros(1, 40, 60)
    mask[:, 10:30, 20:30] = 1  # 20 high, 10 wide: a square of 24
    small, shape = squared(image, mask, 24)
    assert small.shape == (3, 24, 24)
    assert shape[0, 2:22, 7:17].min() == 1
    assert shape.sum() == 200
    torch.testing.assert_close(small, (1 - 2 * shape).expand(3, -1, -1))
    whole, all_of_it = squared(image, None, 36)
    assert all_of_it[0, 9:27, 4:32].min() == 1
    assert whole[:, :5].min() == 1


def test_details_are_pasted_into_their_box() -> None:
    details, scene = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 3, 8, 8)
    boxes = torch.tensor([[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.0, 0.0]])
    for known in (scene, None):
        pasted = collage(details, boxes, known, (8, 8))
        assert pasted.shape == (2, 4, 8, 8)
        assert pasted[1, :3].unique().tolist() == [0.5]
        assert pasted[1, 3].unique().tolist() == [1.0]
        inside = torch.zeros(8, 8, dtype=torch.bool)
        inside[4:, 2:6] = True
        assert torch.equal(pasted[0, 3] == 1, inside)
        assert pasted[0, 3][~inside].unique().tolist() == ([-1.0] if known is None else [0.0])
        assert pasted[0, :3][:, ~inside].unique().tolist() == ([-1.0] if known is None else [0.0])
        assert pasted[0, :3][:, inside].unique().tolist() == [0.5]
    wide = widened(torch.tensor([[0.2, 0.4, 0.4, 0.8], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]), 1.1)
    torch.testing.assert_close(wide[0], torch.tensor([0.19, 0.38, 0.41, 0.82]))
    assert wide[1].tolist() == [0, 0, 1, 1]
    assert wide[2].tolist() == [0, 0, 0, 0]


@torch.no_grad()
def test_tokens_stand_in_the_texts_place_and_the_branch_adds_to_the_denoiser(sd: AbstractBackbone, eye: Path) -> None:
    """Against the denoiser asked as diffusers' own ControlNet pipelines ask it."""
    adapter, _ = made(sd, eye)
    noisy, times = drawn(1, 4, 8, 8, seed=4), torch.tensor([300])
    scene, box = drawn(1, 3, 32, 32, seed=5).clamp(-1, 1), torch.tensor([[[0.25, 0.25, 0.75, 0.75]]])
    side = 8 * sd.vae_factor
    sight = seen()
    shown = Shown(sight=sight, boxes=box, scene=scene)
    tokens = adapter.project(adapter.norm(sight.features[:, 0, 0]))
    assert sight.detail is not None
    hint = collage(sight.detail[:, 0], widened(box[:, 0], 1.1), scene, (side, side))
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], shown, size=(side, side))
        answer = sd.predict(noisy, times, told)
        added = adapter.branch(noisy, times, tokens, hint, None)
        expected = sd.denoiser(
            noisy, times, encoder_hidden_states=tokens, down_block_additional_residuals=added.down,
            mid_block_additional_residual=added.middle,
        ).sample  # fmt: skip
        torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-5)
        without = sd.denoiser(noisy, times, encoder_hidden_states=tokens).sample
        assert (without - expected).abs().max() > 1e-3, "the branch counts"
        other = adapter.conditioned(sd, sd.encode_prompt, ["a cat"], shown, size=(side, side))
        torch.testing.assert_close(sd.predict(noisy, times, other), answer, atol=1e-5, rtol=1e-5)
        # The branch reads the picture in the noisy latents' place.
        again = adapter.branch(-noisy, times, tokens, hint, None)
        assert all(torch.equal(a, b) for a, b in zip(added.down, again.down, strict=True))
        moved = dataclasses.replace(shown, boxes=1 - box.flip(-1) * 0.9)
        elsewhere = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], moved, size=(side, side))
        assert (sd.predict(noisy, times, elsewhere) - answer).abs().max() > 1e-4


@torch.no_grad()
def test_untrained_the_branch_adds_nothing(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = made(sd, eye, random=False)
    noisy, times = drawn(1, 4, 8, 8, seed=4), torch.tensor([300])
    tokens = adapter.project(adapter.norm(seen().features[:, 0, 0]))
    plain = sd.denoiser(noisy, times, encoder_hidden_states=tokens).sample
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], Shown(sight=seen()))
        torch.testing.assert_close(sd.predict(noisy, times, told), plain, atol=1e-5, rtol=1e-5)
    base = dict(sd.denoiser.named_parameters())
    first = adapter.branch.net.down_blocks[0].resnets[0].conv1.weight
    assert torch.equal(first, base["down_blocks.0.resnets.0.conv1.weight"])
    # Files hold a ControlNet's tensors but for the first convolution's, as those of earlier versions do.
    whole: Any = ControlNetModel.from_unet(
        sd.denoiser,  # type: ignore[arg-type]
        conditioning_channels=4, conditioning_embedding_out_channels=(16, 32, 96)[: sd.vae_factor.bit_length()],
    )  # fmt: skip
    held = {key.removeprefix("branch.net.") for key in adapter.published() if key.startswith("branch.")}
    assert held == {key for key in whole.state_dict() if not key.startswith("conv_in.")}


@torch.no_grad()
def test_guidance_goes_away_from_no_photo_in_the_same_place(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = made(sd, eye)
    opened = OpenedAdapter(adapter=adapter, encoder=encoder)
    sight, size = seen().map(lambda known: known[0]), (sd.resolution, sd.resolution)
    bare = Reference(opened=opened, sight=sight)
    scene = drawn(3, 32, 32, seed=5).clamp(-1, 1)
    placed = dataclasses.replace(bare, scene=scene, boxes=torch.tensor([[0.25, 0.25, 0.75, 0.75]]))

    def told(reference: Reference, *, negative: bool):
        encode = reference.hooks(sd).encode
        assert encode is not None
        return encode([PROMPT], negative=negative, size=size)

    assert told(bare, negative=True).shown is None
    pair = [told(placed, negative=negative) for negative in (True, False)]
    hints = [read_of(each, "reference_hint") for each in pair]
    tokens = [read_of(each, "reference_identity") for each in pair]
    assert hints[0] is not None
    assert hints[1] is not None
    assert torch.equal(hints[0].vectors, hints[1].vectors)
    blank = encoder.blank(sight.features)[0, 0]
    assert tokens[0] is not None
    assert tokens[1] is not None
    torch.testing.assert_close(tokens[0].vectors[0], adapter.project(adapter.norm(blank)))
    assert not torch.allclose(tokens[0].vectors, tokens[1].vectors)


@torch.no_grad()
def test_pictures_are_pasted_whatever_the_bases_precision(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = made(sd, eye)
    scene, boxes = drawn(1, 3, 32, 32, seed=5).clamp(-1, 1), torch.tensor([[[0.25, 0.25, 0.75, 0.75]]])
    shown = Shown(sight=seen(), boxes=boxes, scene=scene)
    asked = Asked(backbone=sd, encode=sd.encode_prompt, prompts=[PROMPT], shown=shown)
    whole = adapter._hint(asked, (32, 32))
    half = adapter.to(torch.bfloat16)._hint(dataclasses.replace(asked, shown=shown.to(scene.bfloat16())), (32, 32))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, atol=2e-2, rtol=0)


def test_training_puts_the_subject_into_the_target_itself(sd: AbstractBackbone, eye: Path, tmp_path: Path) -> None:
    adapter, encoder = tiny_system("anydoor", sd, eye)
    adapter.unplaced = 0.0
    subjects = read_subjects(albums(tmp_path / "pairs"))
    data = encode_subjects(subjects, sd, encoder, SilentReporter(), cut=True, scenes=True, details="edges")
    assert data.scenes is not None
    assert data.detail is not None
    assert data.scenes.shape == (6, 3, sd.resolution, sd.resolution)
    assert data.detail.shape == (6, 3, sd.resolution, sd.resolution)
    settings = ReferenceTraining(batch_size=4, drop_image=0.5, drop_text=0.0, drop_both=0.0)
    loss = ReferenceLoss(sd, adapter, data, settings, blank_of(data, encoder), encoder=encoder)
    pairs = loss._drawn(torch.Generator().manual_seed(0))
    scene, boxes = pairs.shown.scene, pairs.shown.boxes
    assert scene is not None
    assert boxes is not None
    red = [row for row, target in enumerate(scene) if target[0].mean() > target[2].mean()]
    assert 0 < len(red) < 4
    for row, target in enumerate(scene):
        left, top, right, bottom = (boxes[row, 0] * sd.resolution).round().int().tolist()
        inside = target[:, top + 2 : bottom - 2, left + 2 : right - 2]
        assert inside[2 if row in red else 0].max() < -0.5, "the box lies around the toy"
    with adapter.inserted(sd):
        assert torch.isfinite(loss(0, 0, torch.Generator().manual_seed(1)).total)


def test_boxes_are_the_holes_own(sd: AbstractBackbone, eye: Path, photos: Path) -> None:
    adapter, encoder = made(sd, eye)
    opened = OpenedAdapter(adapter=adapter, encoder=encoder)
    with pytest.raises(UsageError, match="reference inpaint"):
        seen_by(opened, find_photos([photos / "0.png"]), scale=1.0, nouns=(), boxes=["0,0,1,1"])
    found = seen_by(opened, find_photos([photos / "0.png"]), scale=1.0, nouns=())
    assert isinstance(found.sight.detail, Tensor)
    assert found.sight.detail.shape == (1, 3, sd.resolution, sd.resolution)
