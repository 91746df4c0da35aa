"""The image autoencoder: diffusers' AutoencoderKL, L1 and multi-scale L1 loss, a light KL term, equivariance to scale.

Equivariance: latents made smaller must decode to the picture made smaller. Without it a third to a half of a latent's
variance cannot be told from its neighbours (a tenth, in pictures of the same size), which no denoiser can learn
(Skorokhodov et al. 2025, arXiv 2502.14831; Kouzelis et al. 2025, arXiv 2502.09509).

Its decoder may go on learning after the latents are fixed, as Stable Diffusion's own was fine-tuned on its frozen
encoder: a denoiser that was trained on the latents stays valid.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from pcs_ext.errors import InputError
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.toybox.train.adopt import adopted, begun
from pcs_ext.toybox.train.data import TrainingData, load_data
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import rows, run_stage

_BATCH = 8
_KL_WEIGHT = 1e-6
_EQUIVARIANCE_WEIGHT = 0.5
_CONTINUED_RATE = 5e-4
"""Peak learning rate of an autoencoder that goes on from a trained one."""
_LATENT_NOISE = 0.03
"""Standard deviation, of latents scaled to unit variance."""


def build_vae(settings: Settings) -> Any:
    """An untrained autoencoder with `vae_factor`."""
    levels = len(settings.vae_channels)
    sizes: dict[str, Any] = {
        "block_out_channels": settings.vae_channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        **sizes,
        layers_per_block=1,
        norm_num_groups=16,
        mid_block_add_attention=False,
        sample_size=settings.resolution,
    )


def train_vae(settings: Settings, steps: int, minutes: float | None, reporter: Reporter) -> None:
    """Train and save to `models/vae`; the latents' scale is measured and stored as `scaling_factor`."""
    data = load_data(settings)
    torch.manual_seed(0)
    vae: Any = begun(settings, "vae", AutoencoderKL) or build_vae(settings)
    vae = vae.to(settings.device, memory_format=torch.channels_last)

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        images = _batch(data, settings, generator)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(images.device)
        latents = posterior.mean + posterior.std * noise
        decoded = vae.decode(latents).sample.float()
        factor = 2 if step % 2 else 4
        smaller = vae.decode(F.avg_pool2d(latents, factor)).sample.float()
        return LossTerms(
            {
                "l1": multiscale_l1(decoded, images),
                "mse": 2.0 * F.mse_loss(decoded, images),
                "kl": _KL_WEIGHT * posterior.kl().mean(),
                "scale": _EQUIVARIANCE_WEIGHT * multiscale_l1(smaller, F.avg_pool2d(images, factor)),
            }
        )

    def finish() -> None:
        with torch.no_grad():
            latents = vae.encode(data.pixels(torch.arange(min(512, len(data)))).to(settings.device)).latent_dist.mean
        vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
        vae.save_pretrained(settings.folder / "models" / "vae")

    config = FitConfig(
        steps=steps, lr_schedule="cosine", warmup_steps=100, autocast="bf16", ema_decay=0.999, betas=(0.9, 0.99)
    )
    rate = _CONTINUED_RATE if adopted(settings) else 1e-3
    run_stage("vae", {"vae": vae}, loss, settings, config, reporter, learning_rate=rate, minutes=minutes, finish=finish)


def train_decoder(settings: Settings, steps: int, minutes: float | None, reporter: Reporter) -> None:
    """Go on with the decoder of `models/vae` alone; the encoder, and so every cached latent, stays as it is."""
    data = load_data(settings)
    folder = settings.folder / "models" / "vae"
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; expected a trained autoencoder. Run the stage vae first.")
    vae: Any = AutoencoderKL.from_pretrained(folder)
    vae = vae.to(settings.device, memory_format=torch.channels_last).requires_grad_(False)

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        images = _batch(data, settings, generator)
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean
        # The denoiser's latents are not the encoder's: a little noise keeps the decoder tolerant of that.
        noise = torch.randn(latents.shape, generator=generator).to(images.device)
        decoded = vae.decode(latents + _LATENT_NOISE / vae.config.scaling_factor * noise).sample.float()
        # Squared errors lead here, as in the MSE fine-tuned decoder of Stable Diffusion.
        return LossTerms({"l1": 0.3 * multiscale_l1(decoded, images), "mse": 10.0 * F.mse_loss(decoded, images)})

    config = FitConfig(
        steps=steps, lr_schedule="cosine", warmup_steps=50, autocast="bf16", ema_decay=0.999, betas=(0.9, 0.99)
    )
    modules = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    run_stage(
        "decoder",
        modules,
        loss,
        settings,
        config,
        reporter,
        learning_rate=5e-4,
        minutes=minutes,
        finish=lambda: vae.save_pretrained(folder),
    )


def _batch(data: TrainingData, settings: Settings, generator: torch.Generator) -> Tensor:
    images = data.pixels(rows(len(data), _BATCH, generator)).to(settings.device)
    return images.contiguous(memory_format=torch.channels_last)


def multiscale_l1(images: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error at full, half and quarter size: edges and areas both count."""
    total = (images - targets).abs().mean()
    for size in (2, 4):
        total = total + 0.5 * (F.avg_pool2d(images, size) - F.avg_pool2d(targets, size)).abs().mean()
    return total
