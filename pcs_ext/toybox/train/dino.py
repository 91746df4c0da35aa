"""A self-supervised image encoder (SimCLR, Chen et al. 2020, arXiv 2002.05709) on a small ResNet.

It never sees a caption or a label: two pictures of a toy must find each other in the batch. They differ in place,
light, camera, style and accessory (views of one object as in contrastive multiview coding, Tian et al. 2019, arXiv
1906.05849), so what they share is the toy; two crops of one picture, as SimCLR has them, share the ground as well, and
that is all such an encoder learns here. It measures how much two pictures show the same toy, in the place that DINO
has for real photos.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.toybox.train.adopt import begun
from pcs_ext.toybox.train.data import load_data
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import rows, run_stage

_BATCH = 64
_TEMPERATURE = 0.2


def build_encoder() -> Any:
    """An untrained encoder; `pooler_output` (`b 256 1 1`) is its feature."""
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], layer_type="basic", hidden_act="relu"
    )
    return ResNetModel(config)


def train_dino(settings: Settings, steps: int, minutes: float | None, reporter: Reporter) -> None:
    """Train and save to `models/dino`; the projection head is thrown away, as in the paper."""
    data = load_data(settings, "pairs")
    torch.manual_seed(0)
    encoder: Any = begun(settings, "dino", ResNetModel) or build_encoder()
    encoder = encoder.to(settings.device)
    head = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 128)).to(settings.device)

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        toys = 2 * rows(len(data) // 2, _BATCH, generator)
        views = augment(data.pixels(torch.cat([toys, toys + 1])), generator).to(settings.device)
        features = head(encoder(pixel_values=views).pooler_output.flatten(1))
        return LossTerms({"ntxent": nt_xent(features.float(), _TEMPERATURE)})

    def finish() -> None:
        encoder.save_pretrained(settings.folder / "models" / "dino")

    config = FitConfig(steps=steps, lr_schedule="cosine", warmup_steps=100, autocast="bf16", ema_decay=0.998)
    run_stage(
        "dino",
        {"encoder": encoder, "head": head},
        loss,
        settings,
        config,
        reporter,
        learning_rate=1e-3,
        weight_decay=1e-4,
        minutes=minutes,
        finish=finish,
    )


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random crop (area 0.5 to 1), mirror and change of brightness and contrast, per image."""
    b, _, h, w = images.shape
    scale = (0.5 + 0.5 * torch.rand(b, generator=generator)).sqrt()
    mirror = torch.where(torch.rand(b, generator=generator) < 0.5, -1.0, 1.0)
    shift = (2 * torch.rand(b, 2, generator=generator) - 1) * (1 - scale)[:, None]
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale * mirror, scale
    theta[:, :, 2] = shift
    views = F.grid_sample(images, F.affine_grid(theta, [b, 3, h, w], align_corners=False), align_corners=False)
    gain = 1 + 0.15 * (2 * torch.rand(b, 1, 1, 1, generator=generator) - 1)
    offset = 0.1 * (2 * torch.rand(b, 1, 1, 1, generator=generator) - 1)
    return (views * gain + offset).clamp(-1, 1)


def nt_xent(features: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy (SimCLR, eq. 1) of `2b d` features; row i belongs to row i + b."""
    z = F.normalize(features, dim=1)
    similarity = z @ z.T / temperature
    similarity = similarity.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    half = len(z) // 2
    partner = torch.cat([torch.arange(half, 2 * half), torch.arange(half)]).to(z.device)
    return F.cross_entropy(similarity, partner)
