"""A ControlNet with motion modules of its own: maps of a clip's frames lead the denoiser of clips."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone

_CHANNELS = (16, 32, 96, 256)
"""Of the layers that shrink maps to latent cells, each but the first by two (ControlNet, arXiv 2302.05543)."""


class VideoControlNet(nn.Module):
    """A copy of the denoiser's downward half that reads maps, and of the motion modules between its layers.

    What it adds to the denoiser's skips begins at nothing. DreaMoving (arXiv 2312.05107) has it so.

    Args:
        backbone: whose denoiser and motion modules are copied, with nothing in them.
    """

    def __init__(self, backbone: AnimateDiffBackbone) -> None:
        super().__init__()
        halvings = backbone.vae_factor.bit_length() - 1
        made = ControlNetModel.from_unet(
            backbone.denoiser, conditioning_embedding_out_channels=_CHANNELS[: halvings + 1]
        )
        self.net: Any = made.float()
        self.motion: Any = copy.deepcopy(backbone.motion).float()
        self.motion.up_blocks = nn.ModuleList()
        self.requires_grad_(True)

    def places(self) -> list[tuple[nn.Module, nn.Module]]:
        """Pairs (layer of the copy, motion module called after it)."""
        blocks = list(zip(self.net.down_blocks, self.motion.down_blocks, strict=True))
        if self.motion.mid_block is not None:
            blocks.append((self.net.mid_block, self.motion.mid_block))
        return [
            pair
            for block, modules in blocks
            for pair in zip(getattr(block, "attentions", None) or block.resnets, modules.motion_modules, strict=True)
        ]

    def forward(
        self, backbone: AnimateDiffBackbone, noisy: Tensor, timesteps: Tensor, states: Tensor, maps: Tensor, frames: int
    ) -> tuple[list[Tensor], Tensor]:
        """What is added to the skips of the downward half, and to the middle.

        Args:
            backbone: says how motion modules see frames.
            noisy: frames `b*f c h w`.
            timesteps: `b*f`.
            states: of the text, `b*f n d`.
            maps: `b*f 3 h*k w*k` in [-1, 1].
            frames: f; 1: pictures, which pass by the motion modules.
        """
        handles = []
        try:
            for layer, module in self.places() if frames > 1 else []:
                handles.append(layer.register_forward_hook(_moved(backbone, module, frames)))
            # ControlNets read maps in [0, 1].
            told = self.net(
                noisy, timesteps, encoder_hidden_states=states, controlnet_cond=(maps + 1) / 2, return_dict=False
            )
        finally:
            for handle in handles:
                handle.remove()
        return told


def _moved(backbone: AnimateDiffBackbone, module: nn.Module, frames: int) -> Any:
    def hook(layer: nn.Module, inputs: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        moved = backbone.moved(module, states, frames)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    return hook


@contextlib.contextmanager
def led(denoiser: nn.Module, skips: list[Tensor], middle: Tensor) -> Iterator[None]:
    """Inside, the denoiser's skips and middle have these added.

    Args:
        denoiser: diffusers' UNet.
        skips: of the downward half, in order.
        middle: of the middle block.
    """

    def add(
        module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        more = {"down_block_additional_residuals": tuple(skips), "mid_block_additional_residual": middle}
        return inputs, {**named, **more}

    handle = denoiser.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def weighed(parts: list[Tensor], strength: Tensor) -> list[Tensor]:
    """Features `b*f c h w` each, times `b*f`."""
    return [part * strength.to(part).reshape(-1, *[1] * (part.dim() - 1)) for part in parts]


def framewise(rows: Tensor, frames: int) -> Tensor:
    """`b ...` -> `b*f ...`."""
    return torch.repeat_interleave(rows, frames, 0)
