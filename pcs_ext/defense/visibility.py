"""How visible a change is, in numbers and as a picture."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from pcs_ext.defense.ciede2000 import color_difference

AMPLIFICATION = 16
"""Of differences in strips: one level becomes sixteen."""
_LUMA = (0.299, 0.587, 0.114)
_BLOCK = 512


def psnr(first: Tensor, second: Tensor) -> float | None:
    """Peak signal-to-noise ratio in dB of two uint8 pictures `c h w`; None when they are equal."""
    parts = zip(first.split(_BLOCK, 1), second.split(_BLOCK, 1), strict=True)
    error = sum(float((a.float() - b.float()).square().sum(dtype=torch.float64)) for a, b in parts) / first.numel()
    return None if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(first: Tensor, second: Tensor) -> float:
    """Structural similarity of the lumas of two uint8 pictures `c h w`, in [-1, 1].

    Wang et al. 2004: Gaussian window of 11 x 11 and sigma 1.5, K = (0.01, 0.03), mean over all places. Pictures are
    mirrored at their edges and worked through in strips, so that memory does not grow with their height.
    """
    lumas = torch.stack([_luma(first), _luma(second)])
    height = lumas.shape[1]
    padded = F.pad(lumas[:, None], (5, 5, 5, 5), mode="replicate")[:, 0]
    total = 0.0
    for top in range(0, height, _BLOCK):
        rows = padded[:, top : min(top + _BLOCK, height) + 10]
        total += float(_similarities(rows[0], rows[1]).double().sum())
    return total / lumas[0].numel()


def _luma(image: Tensor) -> Tensor:
    image = image.float()
    if image.shape[0] == 1:
        return image[0]
    return torch.einsum("c,chw->hw", torch.tensor(_LUMA), image)


def _similarities(x: Tensor, y: Tensor) -> Tensor:
    """SSIM at every place with a full window, `h-10 w-10`."""
    places = torch.arange(11.0) - 5
    kernel = torch.exp(-places.square() / (2 * 1.5**2))
    kernel = kernel / kernel.sum()

    def blurred(values: Tensor) -> Tensor:
        down = F.conv2d(values[None, None], kernel.reshape(1, 1, 11, 1))
        return F.conv2d(down, kernel.reshape(1, 1, 1, 11))[0, 0]

    mean_x, mean_y = blurred(x), blurred(y)
    variance_x, variance_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    upper = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return upper / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))


def measure(original: Tensor, protected: Tensor) -> dict[str, float | None]:
    """PSNR, SSIM, mean CIEDE2000, mean change in levels and the share of samples that changed, of uint8 pictures
    `c h w`; for the colour difference they are taken as sRGB."""
    delta = (protected.to(torch.int16) - original.to(torch.int16)).abs()
    return {
        "psnr_db": psnr(original, protected),
        "ssim": ssim(original, protected),
        "ciede2000": color_difference(original, protected),
        "mean_levels": float(delta.float().mean()),
        "changed_share": float((delta > 0).float().mean()),
    }


def difference_strip(original: Tensor, protected: Tensor, *, side: int = 384) -> Image.Image:
    """Original, protected and their difference times 16 on gray, side by side: the whole photo above, below a part at
    its true size where the change is largest (left out when the photo is smaller than the part).

    Args:
        original, protected: uint8 `c h w`.
        side: of a panel at most, in pixels.
    """
    delta = protected.to(torch.int16) - original.to(torch.int16)
    difference = (128 + AMPLIFICATION * delta).clamp(0, 255).to(torch.uint8)
    rows = [[_fitted(picture, side) for picture in (original, protected, difference)]]
    if min(original.shape[1:]) > side:
        top, left = _busiest(delta, side)
        window = (slice(None), slice(top, top + side), slice(left, left + side))
        rows.append([_picture(picture[window]) for picture in (original, protected, difference)])
    return _sheet(rows, ("original", "protected", f"difference x {AMPLIFICATION}"))


def _sheet(rows: list[list[Image.Image]], titles: tuple[str, ...]) -> Image.Image:
    gap, head = 8, 18
    width = max(sum(panel.width + gap for panel in row) - gap for row in rows)
    sheet = Image.new("RGB", (max(width, 330), head + sum(row[0].height + gap for row in rows) - gap), "white")
    draw, top = ImageDraw.Draw(sheet), head
    for row in rows:
        left = 0
        for panel, title in zip(row, titles, strict=True):
            if row is rows[0]:
                draw.text((left + 2, 3), title, fill="black")
            sheet.paste(panel, (left, top))
            left += panel.width + gap
        top += row[0].height + gap
    return sheet


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def _fitted(image: Tensor, side: int) -> Image.Image:
    picture = _picture(image)
    scale = min(1.0, side / max(picture.size))
    if scale == 1:
        return picture
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def _busiest(delta: Tensor, side: int) -> tuple[int, int]:
    """Top and left of the window with the largest mean change, on a grid of half windows."""
    change = F.avg_pool2d(delta.float().abs().mean(0)[None, None], side, side // 2)[0, 0]
    row, column = divmod(int(change.argmax()), change.shape[1])
    return row * (side // 2), column * (side // 2)
