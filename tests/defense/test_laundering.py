"""Real encoders, exact sizes, and a purifier that really takes noise away."""

import math

import pytest
import torch
from torch import Tensor

from pcs_ext.config_io import from_jsonable, to_jsonable
from pcs_ext.defense.laundering import (
    DIFFPURE,
    GRIDPURE,
    LAUNDERINGS,
    Blurred,
    JpegFile,
    Laundering,
    Mixed,
    Smaller,
)
from pcs_ext.defense.photos import OwnPhoto
from pcs_ext.defense.purifier import Purifier, _ancestor
from pcs_ext.defense.transforms import jpeg
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone


def smooth(height: int = 48, width: int = 64) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([60 + x, 200 - y, 100 + (x + y) // 3]).to(torch.uint8)


def signs(photo: Tensor, levels: int, block: int) -> Tensor:
    """The photo and a pattern of random signs in blocks, within 0 and 255."""
    size = [math.ceil(side / block) for side in photo.shape[1:]]
    coins = 2 * torch.randint(0, 2, (3, *size), generator=torch.Generator().manual_seed(0)) - 1
    pattern = coins.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, : photo.shape[1], : photo.shape[2]]
    return (photo.int() + levels * pattern).clamp(0, 255).to(torch.uint8)


def kept(photo: Tensor, changed: Tensor, laundered: Tensor) -> float:
    delta = changed.float() - photo.float()
    return float(((laundered.float() - photo.float()) * delta).sum() / delta.square().sum())


def wash(laundering: Laundering, photo: Tensor, backbone: AbstractBackbone, clean: Tensor | None = None) -> Tensor:
    return laundering.apply([photo], clean=[photo if clean is None else clean], backbone=backbone, seed=0)[0]


def test_jpeg_removes_fine_patterns_and_keeps_coarse_ones(sd: AbstractBackbone) -> None:
    photo = smooth(96, 128)
    shares = {
        (quality, block): kept(photo, changed, wash(JpegFile(quality=quality), changed, sd))
        for quality in (75, 90)
        for block in (1, 8)
        for changed in [signs(photo, 6, block)]
    }
    # Random sign blocks through 4:2:0 on a photograph were measured at 0.24 (1 px) and 0.84 (8 px) for quality 75.
    assert shares[75, 1] < 0.35 < 0.75 < shares[75, 8]
    assert shares[75, 1] < shares[90, 1]
    finest = wash(JpegFile(quality=95, subsampling="4:4:4"), signs(photo, 6, 1), sd)
    assert kept(photo, signs(photo, 6, 1), finest) > 0.9


def test_jpeg_is_what_the_differentiable_one_imitates(sd: AbstractBackbone, toys: list[OwnPhoto]) -> None:
    photo = toys[0].pixels
    real = wash(JpegFile(quality=75), photo, sd).float()
    imitated = (jpeg(photo[None].float() / 127.5 - 1, 75)[0] + 1) * 127.5
    assert float((real - imitated).abs().mean()) < 2.0 < float((real - photo.float()).abs().mean())


def test_half_size_averages_and_blur_follows_the_photo(sd: AbstractBackbone) -> None:
    assert wash(Smaller(), smooth(70, 91), sd).shape == (3, 35, 46)
    assert wash(Smaller(), smooth(50, 75), sd).shape == (3, 32, 48), "what no trainer reads would prove nothing"
    assert wash(Smaller(), torch.zeros(3, 1, 1, dtype=torch.uint8), sd).shape == (3, 1, 1)
    impulse = torch.zeros(3, 65, 65, dtype=torch.uint8)
    impulse[:, 32, 32] = 255
    at_size = wash(Blurred(sigma=1.4), impulse, sd)
    scale = 65 / sd.resolution
    expected = 255 / (2 * math.pi * (1.4 * scale) ** 2)
    assert float(at_size[0, 32, 32]) == pytest.approx(expected, rel=0.15, abs=1)
    assert int((at_size[0, 32] > 0).sum()) > 3
    flat = torch.full((3, 1, 40), 77, dtype=torch.uint8)
    assert torch.equal(wash(Blurred(), flat, sd), flat)


def test_mixing_replaces_whole_photos(sd: AbstractBackbone) -> None:
    clean = [torch.full((3, 8, 8), value, dtype=torch.uint8) for value in range(5)]
    protected = [photo + 100 for photo in clean]

    def first(share: float, count: int) -> list[int]:
        mixed = Mixed(share=share).apply(protected[:count], clean=clean[:count], backbone=sd, seed=0)
        return [int(photo[0, 0, 0]) for photo in mixed]

    assert first(0.5, 4) == [0, 1, 102, 103]
    assert first(0.25, 5) == [0, 101, 102, 103, 104]
    assert first(0.01, 2) == [0, 101]
    assert first(1.0, 3) == [0, 1, 2]


def test_purifiers_take_noise_away(toybox: AbstractBackbone, toys: list[OwnPhoto]) -> None:
    photo = toys[0].pixels
    noisy = signs(photo, 12, 1)
    diffpure = Purifier(id="small", zoom=1.0, timestep=40, steps=4)
    for purifier in (diffpure, Purifier(id="grid", zoom=1.0, timestep=10, steps=2, rounds=2, kept=0.1)):
        purified = wash(purifier, noisy, toybox)
        assert purified.shape == photo.shape
        assert kept(photo, noisy, purified) < 0.4
        again = wash(purifier, noisy, toybox)
        assert torch.equal(purified, again)
    # What is left of a flat picture is the model's doing; it must stay near, or nothing could be learned from it.
    error = (wash(diffpure, photo, toybox).float() - photo.float()).abs().mean()
    assert float(error) < 40


def test_windows_cover_every_shape(sd: AbstractBackbone) -> None:
    grid = Purifier(id="grid", zoom=2.0, timestep=4, steps=2, rounds=2, kept=0.1)
    side = sd.resolution
    for height, width in ((side, side), (20, 51), (200, 90), (1, 3)):
        photo = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        purified = wash(grid, photo, sd)
        assert min(purified.shape[1:]) == 2 * side
        assert purified.shape[1] / purified.shape[2] == pytest.approx(height / width, rel=0.05)


def test_ancestral_steps_have_the_moments_of_the_forward_process(sd: AbstractBackbone) -> None:
    """From x_t with the true x_0, x_s must be distributed as the forward process has it."""
    table = sd.schedule.alphas_cumprod
    generator = torch.Generator().manual_seed(1)
    clean = torch.full((200_000,), 0.7)
    noise, more = (torch.randn(clean.shape, generator=generator) for _ in range(2))
    noisy = float(table[400]) ** 0.5 * clean + (1 - float(table[400])) ** 0.5 * noise
    lower = _ancestor(noisy, clean, table, 400, 150, more)
    assert float(lower.mean()) == pytest.approx(0.7 * float(table[150]) ** 0.5, abs=0.01)
    assert float(lower.var()) == pytest.approx(1 - float(table[150]), rel=0.02)


def test_values_survive_json_and_refuse_nonsense() -> None:
    for laundering in LAUNDERINGS:
        assert from_jsonable(Laundering, to_jsonable(laundering)) == laundering
    names = [laundering.name for laundering in LAUNDERINGS]
    assert names == ["JPEG 90", "JPEG 75", "half size", "blur 1.4", "half of them clean", "DiffPure", "GrIDPure"]
    assert (GRIDPURE.timestep, GRIDPURE.rounds, GRIDPURE.kept, DIFFPURE.rounds) == (10, 10, 0.1, 1)
    for bad, message in (
        (lambda: JpegFile(quality=0), "1 to 100, got 0"),
        (lambda: Smaller(share=1.0), "in \\(0, 1\\), got 1.0"),
        (lambda: Blurred(sigma=0), "positive, got 0"),
        (lambda: Mixed(share=0), "in \\(0, 1\\], got 0"),
        (lambda: Purifier(id="x", zoom=0.5, timestep=10, steps=2), "zoom of at least 1.*0.5"),
        (lambda: Purifier(id="x", zoom=1, timestep=10, steps=11), "steps <= timestep.*11 steps"),
    ):
        with pytest.raises(ConfigError, match=message):
            bad()
