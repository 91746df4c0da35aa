"""PE-VITON: which place of a garment a cell shows, what the denoiser reads, where texture counts, and the command."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.reference.albums import read_subjects
from pcs_ext.image.reference.details import collage, widened
from pcs_ext.image.reference.files import ReferenceConfig, save_adapter
from pcs_ext.image.reference.garment_shape import (
    Fit,
    ShapeControl,
    bending,
    matched,
    outline_error,
    places_in,
    texture_error,
)
from pcs_ext.image.reference.learn import blank_of
from pcs_ext.image.reference.pairs import encode_subjects
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.pe_viton import PEViton, PEVitonConfig
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.reporter import SilentReporter
from tests.support.command_line import run
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import HIDDEN, TINY, at_random, drawn, tiny_system, tiny_vision

PROMPT = "the dog on beach"


def made(sd: AbstractBackbone, eye: Path) -> PEViton:
    adapter, _ = tiny_system("pe-viton", sd, eye)
    assert isinstance(adapter, PEViton)
    at_random(adapter, sd)
    adapter.eval().requires_grad_(False)
    return adapter


def test_a_cell_shows_the_mean_place_under_its_softmax() -> None:
    """Four places (-.5, -.5), (.5, -.5), (-.5, .5), (.5, .5); cells that ask alike, by features, and by wishes."""
    key = torch.eye(4)[None]
    none, query = torch.zeros(1, 1, 2), torch.zeros(1, 1, 4)
    still = torch.tensor(0.0)
    torch.testing.assert_close(matched(query, key, none, still), none)
    # Scores 2 ln 3 / sqrt(4) = ln 3 for the second place and 0 for the others: shares 1/6, 1/2, 1/6, 1/6.
    query[0, 0, 1] = 2 * math.log(3)
    expected = torch.tensor([[[-1 / 12 + 1 / 4 - 1 / 12 + 1 / 12, -1 / 12 - 1 / 4 + 1 / 12 + 1 / 12]]])
    torch.testing.assert_close(matched(query, key, none, still), expected)
    # The fourth place is wished for: squared distances 2, 1, 1, 0; at ln 2, shares of 1/4, 1/2, 1/2 and 1 of 9/4.
    wish = torch.tensor([[[0.5, 0.5]]])
    across = (-0.5 * 1 / 4 + 0.5 * 1 / 2 - 0.5 * 1 / 2 + 0.5 * 1) / (9 / 4)
    torch.testing.assert_close(
        matched(0 * query, key, wish, torch.tensor(math.log(2))), torch.tensor([[[across, across]]])
    )
    # Cells of a 4 x 4 grid in the box of its right half: across from -3 + 1/2 in steps of 1, down from -3/4.
    found = places_in(torch.tensor([[0.5, 0.0, 1.0, 1.0]]), 4).unflatten(1, (4, 4))[0]
    torch.testing.assert_close(found[2, :, 0], torch.tensor([-2.5, -1.5, -0.5, 0.5]))
    torch.testing.assert_close(found[:, 1, 1], torch.tensor([-0.75, -0.25, 0.25, 0.75]))


def test_errors_by_hand() -> None:
    warped, target = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    warped[:, :, 0, 0], target[:, :, 1, 1], target[:, 0, 0, 1] = 0.5, 1.0, 0.25
    mask = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]])
    # Three channels of 0.5, and one of 0.25 of which half counts, of 3 * 1.5; what is outside does not count.
    torch.testing.assert_close(texture_error(warped, target, mask), torch.tensor((1.5 + 0.125) / 4.5))
    box = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    logits = torch.tensor([[[[math.log(3), -math.log(4)], [9.0, 9.0]]]])
    fit = Fit(flow=torch.zeros(1, 2, 2, 2), outline=logits, box=box)
    # Probabilities 3/4 where it is and 1/5 where it is not; cells outside of the box are not asked.
    true = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
    torch.testing.assert_close(outline_error(fit, true), torch.tensor(-(math.log(3 / 4) + math.log(4 / 5)) / 2))
    torch.testing.assert_close(fit.shape, torch.tensor([[[[0.75, 0.2], [0.0, 0.0]]]]))
    rows = torch.arange(4.0)
    straight = torch.stack([rows.expand(4, 4), 2 * rows[:, None].expand(4, 4)], -1)[None]
    assert bending(straight) == 0
    bent = straight.clone()
    bent[0, 0, 0, 0] += 3  # second differences of 3 at one of 4 x 2 x 2 numbers across, and down
    torch.testing.assert_close(bending(bent), torch.tensor(2 * 9 / 16))


@torch.no_grad()
def test_untrained_the_garment_is_stretched_over_the_box() -> None:
    torch.manual_seed(0)
    shape = ShapeControl(4, width=8, cells=16)
    ramp = torch.linspace(-1, 1, 32)
    garment = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32), torch.zeros(32, 32)])[None]
    box = torch.tensor([[0.25, 0.5, 0.75, 1.0]])
    fit = shape(torch.zeros(1, 4, 32, 32), garment, box)
    assert fit.box.sum() == 8 * 8
    worn = fit.warped(garment, (64, 64))
    middle = torch.linspace(-1, 1, 33)[:-1] + 1 / 32
    inside = worn[0, :2, 32:, 16:48]
    # Its colours are its places; near its edges the softmax has places on one side alone.
    inner = slice(6, 26)
    torch.testing.assert_close(inside[0, inner, inner], middle[inner].expand(20, 20), atol=0.06, rtol=0)
    torch.testing.assert_close(inside[1, inner, inner], middle[inner, None].expand(20, 20), atol=0.06, rtol=0)
    assert fit.shape_at((64, 64))[:, :, :30].abs().max() == 0


def test_it_learns_where_in_the_box_a_garment_lies() -> None:
    """Garments of 16 blocks of colour, worn a quarter of the box farther to the right than they would be stretched."""
    torch.manual_seed(0)
    shape = ShapeControl(4, width=16, cells=8)
    generator = torch.Generator().manual_seed(1)
    boxes, person = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(4, -1), torch.zeros(4, 4, 32, 32)
    where = torch.ones(4, 1, 32, 32)
    where[..., :8] = 0
    optimizer, warps, outlines = torch.optim.Adam(shape.parameters(), 1e-2), [], []
    for _ in range(120):
        blocks = torch.rand(4, 3, 4, 4, generator=generator) * 2 - 1
        garment = blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)
        fit = shape(person, garment, boxes)
        warp = texture_error(fit.warped(garment, (32, 32)), garment.roll(8, 3), where)
        outline = outline_error(fit, nn.functional.avg_pool2d(where, 4))
        optimizer.zero_grad()
        (warp + outline).backward()
        optimizer.step()
        warps.append(warp.item())
        outlines.append(outline.item())
    assert sum(warps[-10:]) < 0.6 * sum(warps[:10])
    assert max(outlines[-10:]) < 0.1


@torch.no_grad()
def test_the_denoiser_reads_the_dressed_person_and_texture_counts_in_the_outline(
    sd: AbstractBackbone, eye: Path
) -> None:
    adapter = made(sd, eye)
    noisy, times = drawn(1, 4, 8, 8, seed=4), torch.tensor([300])
    side = sd.resolution
    scene, box = drawn(1, 3, side, side, seed=5).clamp(-1, 1), torch.tensor([[[0.25, 0.25, 0.75, 0.75]]])
    detail = drawn(1, 1, 3, side, side, seed=2).clamp(-1, 1)
    sight = Sight(features=drawn(1, 1, 17, HIDDEN), cut=drawn(1, 1, 17, HIDDEN, seed=1), detail=detail)
    shown = Shown(sight=sight, boxes=box, scene=scene)
    wide = widened(box[:, 0], 1.1)
    person = collage(torch.zeros(1, 3, 4, 4), wide, scene, (side, side))
    fit = adapter.shape(torch.cat([person, torch.zeros(1, 3, side, side)], 1), detail[:, 0], wide)
    shape = fit.shape_at((side, side)) * person[:, 3:]
    worn = fit.warped(detail[:, 0], (side, side))
    picture = person[:, :3] * (1 - shape) + worn * shape
    assert 0 < shape.mean() < 1
    assert torch.equal(picture[:, :, :4], scene[:, :, :4]), "around the hole the person stays"
    hole = torch.nn.functional.adaptive_max_pool2d(person[:, 3:], 8)
    weight = fit.shape_at((8, 8))
    # The same as by a first convolution that has six channels more.
    first = sd.denoiser.conv_in

    def ten(beside: Tensor) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            weights = torch.cat([first.weight, adapter.enter.weight], 1)
            return nn.functional.conv2d(torch.cat([inputs[0], beside], 1), weights, first.bias, padding=1)

        return hook

    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], shown)
        answer = sd.predict(noisy, times, told)
        assert sight.cut is not None
        tokens = torch.cat([adapter.parse(sight.cut[:, 0]), adapter.patches(sight.cut[:, 0])], 1)
        (source,) = told.decoupled
        for path, pair in adapter.maps(tokens).items():
            for ours, theirs in zip(source.pairs[path], pair, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(source.weight, weight[:, 0])
        bare = dataclasses.replace(told, shown=None)
        handle = first.register_forward_hook(ten(torch.cat([sd.encode_images(picture), hole, weight], 1)))
        expected = sd.predict(noisy, times, bare)
        handle.remove()
        torch.testing.assert_close(answer, expected, atol=1e-4, rtol=1e-4)
        assert (sd.predict(noisy, times, bare) - expected).abs().max() > 1e-3
        # Guidance goes away from the hole with nothing in it, and no token.
        nothing = dataclasses.replace(shown, seen=torch.tensor([False]))
        empty = adapter.conditioned(sd, sd.encode_prompt, [PROMPT], nothing)
        assert empty.decoupled == ()
        beside = torch.cat([sd.encode_images(person[:, :3]), hole, 0 * weight], 1)
        handle = first.register_forward_hook(ten(beside))
        expected = sd.predict(noisy, times, sd.encode_prompt([PROMPT]))
        handle.remove()
        torch.testing.assert_close(sd.predict(noisy, times, empty), expected, atol=1e-4, rtol=1e-4)


def test_stages_learn_apart_and_maps_are_told_to_the_first(sd: AbstractBackbone, eye: Path, tmp_path: Path) -> None:
    adapter, encoder = tiny_system("pe-viton", sd, eye)
    assert isinstance(adapter, PEViton)
    folder = albums(tmp_path / "pairs")
    subjects = read_subjects(folder)
    data = encode_subjects(subjects, sd, encoder, SilentReporter(), cut=True, scenes=True, details="whole")
    maps = torch.randint(0, 255, (6, 3, sd.resolution, sd.resolution), generator=torch.Generator().manual_seed(0))
    data = dataclasses.replace(data, maps=maps.to(torch.uint8))
    settings = ReferenceTraining(batch_size=4, drop_image=0.0, drop_text=0.0, drop_both=0.0)
    loss = ReferenceLoss(sd, adapter, data, settings, blank_of(data, encoder), encoder=encoder)
    pairs = loss._drawn(torch.Generator().manual_seed(0))
    assert pairs.shown.scene is not None
    assert pairs.shown.maps is not None
    size = (sd.resolution, sd.resolution)
    adapter.train()
    with adapter.inserted(sd):
        adapter.begin_stage("shape")
        terms = dict(loss(0, 0, torch.Generator().manual_seed(0)).terms)
        assert set(terms) == {"warp", "outline", "bending"}
        dressed = adapter.fitted(pairs.shown, size)
        assert pairs.masks is not None
        mask = nn.functional.interpolate(pairs.masks, size=size, mode="nearest")
        worn = dressed.fit.warped(dressed.garment, size)
        torch.testing.assert_close(terms["warp"], texture_error(worn, pairs.shown.scene, mask))
        torch.testing.assert_close(terms["outline"], outline_error(dressed.fit, pairs.masks))
        adapter.begin_stage("texture")
        assert set(loss(0, 0, torch.Generator().manual_seed(0)).terms) == {"denoising"}
    with torch.no_grad():
        nn.init.normal_(adapter.shape.to_q.weight)
        told = adapter.fitted(pairs.shown, size).fit.flow
        other = adapter.fitted(dataclasses.replace(pairs.shown, maps=1 - pairs.shown.maps), size).fit.flow
        assert (told - other).abs().max() > 1e-3
    dropped = adapter.told_maps(torch.ones(400, 3, 2, 2), torch.Generator().manual_seed(0))
    assert abs(float(dropped.mean()) - 0.75) < 0.06
    for wrong in ({"margin": 0.9}, {"shape_share": 1.0}, {"drop_map": 2.0}, {"inner": 65}, {"maps": ("pose", "pose")}):
        with pytest.raises(ConfigError, match="must be|must lie"):
            PEVitonConfig(**wrong)  # type: ignore[arg-type]


def test_the_command(tiny_sd_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sd = load_backbone(str(tiny_sd_path), device="cpu", precision="fp32")
    eye = tiny_vision(tmp_path / "eye")
    for system in ("pe-viton", "pva"):
        adapter, encoder = tiny_system(system, sd, eye)
        at_random(adapter, sd)
        said = ReferenceConfig(
            kind=system, adapter=TINY[system], encoder=str(eye), encoder_digest=encoder.digest, base=sd.name,
            base_fingerprint=sd.fingerprint, family=sd.family, steps=1,
        )  # fmt: skip
        save_adapter(adapter, said, tmp_path / system, half=False)
    person, garment, pose = tmp_path / "me.png", tmp_path / "shirt.png", tmp_path / "pose.png"
    for path, size in ((person, (44, 60)), (garment, (40, 36)), (pose, (44, 60))):
        Image.effect_noise(size, 60).convert("RGB").save(path)
        mask = Image.new("L", size)
        mask.paste(255, (8, 8, 30, 20))
        mask.save(path.with_name(f"{path.stem}_mask.png"))
    flags = ("--base", str(tiny_sd_path), "--steps", "2", "--device", "cpu", "--precision", "fp32")

    def command(name: str, *more: str) -> tuple[int, str, str]:
        asked = ("image", "try-on", str(person), str(garment), "a red dog", *flags, *more)
        return run(*asked, "-o", str(tmp_path / name), capture=capsys)

    worn = ("--adapter", str(tmp_path / "pe-viton"))
    for name, more in (("out.png", ()), ("posed.png", ("--map", f"pose={pose}"))):
        code, printed, err = command(name, *worn, *more)
        assert (code, printed.split()) == (0, [str(tmp_path / name)]), err
    pictures = []
    for name in ("me.png", "out.png", "posed.png"):
        with Image.open(tmp_path / name) as image:
            assert image.size == (44, 60)
            pictures.append(torch.tensor(list(image.convert("RGB").tobytes())).view(60, 44, 3))
    inside = torch.zeros(60, 44, dtype=torch.bool)
    inside[8:20, 8:30] = True
    assert torch.equal(pictures[0][~inside], pictures[1][~inside])
    assert not torch.equal(pictures[0][inside], pictures[1][inside])
    assert not torch.equal(pictures[1], pictures[2]), "the pose counts"
    for more, expected in (
        (("--map", f"pose={pose}"), "is read by trained adapters alone"),
        (("--adapter", str(tmp_path / "pva")), "does not put what it is shown into a picture"),
        ((*worn, "--map", f"depth={pose}"), "no map that this adapter reads; expected pose=FILE"),
    ):
        code, _, err = command("other.png", *more)
        assert (code, expected in err) == (2, True), err
    (tmp_path / "me_mask.png").unlink()
    code, _, err = command("other.png", *worn)
    assert (code, "has no mask of where the garment goes" in err) == (3, True), err
