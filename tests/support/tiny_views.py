"""Tiny view models and ControlNets with random weights."""

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel

from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.reference.encoder import open_encoder
from pcs_ext.threed.view_model import ViewModel
from tests.support.encoders import tiny_clip


def tiny_view_model(base: AbstractUnetBackbone, folder: Path, *, noise: float = 0.1) -> ViewModel:
    """A view model for a tiny base; with noise it reads picture and camera, else as a fresh one does."""
    encoder = open_encoder(tiny_clip(folder / "clip"), "embedding")
    torch.manual_seed(0)
    model = ViewModel.of(base, encoder)
    with torch.no_grad():
        for parameter in (*model.denoiser.parameters(), *model.projection.parameters()):
            parameter.add_(noise * torch.randn(parameter.shape))
    return model


def tiny_controlnet(base: AbstractUnetBackbone) -> Any:
    """A ControlNet for a tiny base that adds something."""
    torch.manual_seed(0)
    unet: Any = base.denoiser
    network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 32))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return network
