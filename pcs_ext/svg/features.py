"""What a denoiser sees in a picture: features that tell parts of one drawing in another (DIFT, arXiv 2306.03881)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.runtime import generator_for


def denoiser_features(
    backbone: AbstractBackbone, image: Tensor, prompt: str, *, block: int, timestep: float, draws: int, seed: int = 0
) -> Tensor:
    """Output of a decoder block for a noised picture, averaged over draws of noise: `c a b`. No gradients.

    Args:
        backbone: adapters already injected.
        image: `3 h w` in [0, 1].
        prompt: what the denoiser is told.
        block: index of the decoder block; the last one where there are fewer.
        timestep: share of the noise schedule in [0, 1).
        draws: of noise, at least 1.
        seed: of the noise.

    Raises:
        UsageError: a denoiser without decoder blocks.
    """
    blocks = getattr(backbone.denoiser, "up_blocks", None)
    if not blocks:
        raise UsageError(
            f"{backbone.name} has no decoder blocks to take features from; use a Stable Diffusion base or toybox."
        )
    caught: list[Tensor] = []
    handle = blocks[min(block, len(blocks) - 1)].register_forward_hook(lambda _m, _i, output: caught.append(output))
    try:
        with torch.no_grad():
            latents = backbone.encode_images(in_resolution(backbone, image[None])).float()
            noise = torch.randn((draws, *latents.shape[1:]), generator=generator_for(seed, "features")).to(latents)
            steps = torch.full((draws,), int(timestep * backbone.schedule.num_train_timesteps), device=latents.device)
            noisy = backbone.schedule.add_noise(latents.expand_as(noise), noise, steps)
            backbone.predict(noisy, steps, backbone.encode_prompt([prompt] * draws))
    finally:
        handle.remove()
    return caught[0].float().mean(0).cpu()


def latent_features(backbone: AbstractBackbone, images: Tensor) -> Tensor:
    """Latents of images `b 3 h w` in [0, 1], `b c a b`, float32 on the CPU: a distance in them is one of local texture
    and colour. Differentiable."""
    return backbone.encode_images(in_resolution(backbone, images)).float().cpu()


def in_resolution(backbone: AbstractBackbone, images: Tensor) -> Tensor:
    """Images `b 3 h w` in [0, 1] as the base takes them: square, in [-1, 1]. Differentiable."""
    size = (backbone.resolution, backbone.resolution)
    if images.shape[2:] != size:
        images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    return images * 2 - 1
