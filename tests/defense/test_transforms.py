"""Transforms against Pillow and by hand; gradients reach the pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pcs_ext.defense.transforms import Blur, Crop, Flip, Jpeg, Resize, apply_all, gaussian_blur, jpeg

EXAMPLE = Path(__file__).parents[2] / "examples" / "rex" / "1.jpg"


def example(side: int = 240) -> Tensor:
    with Image.open(EXAMPLE) as image:
        levels = np.asarray(image.convert("RGB").resize((side, side)))
    return torch.from_numpy(levels.copy()).permute(2, 0, 1)


def through_pillow(levels: Tensor, quality: int, subsampling: int) -> Tensor:
    buffer = io.BytesIO()
    picture = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
    picture.save(buffer, format="JPEG", quality=quality, subsampling=subsampling)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)


@pytest.mark.parametrize(("quality", "subsampling"), [(95, 0), (75, 2), (50, 2), (30, 2)])
def test_jpeg_is_what_pillow_does(quality: int, subsampling: int) -> None:
    levels = example()
    ours = (jpeg(levels[None].float() / 127.5 - 1, quality, subsampling=subsampling == 2)[0] + 1) * 127.5
    theirs = through_pillow(levels, quality, subsampling).float()
    # With 4:2:0 libjpeg spreads the colours a little differently.
    assert (ours - theirs).abs().mean() < (0.6 if subsampling == 0 else 0.9)
    assert (levels - theirs).abs().float().mean() > (ours - theirs).abs().mean(), "closer to Pillow than to the input"


def survival(block: int, quality: int, subsampling: int) -> float:
    """Projection of a 6-level random sign pattern of blocks that a JPEG keeps."""
    levels = example(480).to(torch.int16).clamp(8, 247)
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (3, 480 // block, 480 // block), generator=generator) * 2 - 1
    delta = (6 * signs).repeat_interleave(block, 1).repeat_interleave(block, 2).to(torch.int16)
    before = through_pillow(levels.to(torch.uint8), quality, subsampling).float()
    after = through_pillow((levels + delta).to(torch.uint8), quality, subsampling).float()
    return float(((after - before) * delta).sum() / delta.float().square().sum())


def test_fine_patterns_die_in_jpeg_and_coarse_ones_live() -> None:
    # Measured on a photograph: .95 at quality 95 4:4:4; .24, .38, .63, .84 for blocks of 1, 2, 4, 8 at 75 4:2:0.
    assert survival(1, 95, 0) == pytest.approx(0.95, abs=0.05)
    found = [survival(block, 75, 2) for block in (1, 2, 4, 8)]
    assert found == sorted(found)
    assert found == pytest.approx([0.24, 0.38, 0.63, 0.84], abs=0.12)


def test_blur_by_hand() -> None:
    image = torch.zeros(1, 3, 9, 9)
    image[..., 4, 4] = 1.0
    blurred = gaussian_blur(image, 1.0, 3)
    edge = float(np.exp(-0.5) / (1 + 2 * np.exp(-0.5)))
    assert blurred[0, 0, 4, 3] == pytest.approx(edge * (1 - 2 * edge))
    assert blurred.sum() == pytest.approx(3.0)


@pytest.mark.parametrize("transform", [Resize(), Crop(), Blur(), Flip(), Jpeg()], ids=lambda t: t.kind)
def test_every_transform_keeps_the_size_and_passes_gradients(transform: Resize | Crop | Blur | Flip | Jpeg) -> None:
    images = (example(64)[None].float() / 127.5 - 1).requires_grad_()
    first = transform.apply(images, torch.Generator().manual_seed(1))
    assert first.shape == images.shape
    assert torch.equal(first, transform.apply(images, torch.Generator().manual_seed(1)))
    first.square().sum().backward()
    assert images.grad is not None
    assert (images.grad != 0).float().mean() > 0.2


def test_chances_are_honoured() -> None:
    images = example(64)[None].float() / 127.5 - 1
    never, always = (
        apply_all((Flip(chance=0.0),), images, torch.Generator()),
        apply_all((Flip(chance=1.0),), images, torch.Generator()),
    )
    assert torch.equal(never, images)
    assert torch.equal(always, images.flip(-1))
