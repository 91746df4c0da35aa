"""A branch beside the denoiser that reads a picture and adds to what its blocks hold (after ControlNet, 2302.05543)."""

import contextlib
from collections.abc import Iterator
from typing import Any

from diffusers import ControlNetModel
from torch import Tensor, nn

from pcs_ext.image.backbone import AbstractBackbone

_FIRST = 16
"""Channels of the layers that read the picture, at its own size; ControlNet's, and so the others."""
_SIZES = (32, 96, 256)
"""With every halving."""


class DetailBranch(nn.Module):
    """A copy of the denoiser's downward half and middle that reads a picture in place of noisy latents.

    AnyDoor's detail extractor (arXiv 2307.09481, section 3.2; the released code): ControlNet's layers, but that the
    picture's features stand in the place of those of the noisy latents, which it does not see. What it adds begins at
    nothing.

    Args:
        backbone: whose denoiser is copied, with nothing in it.
        channels: of the picture.
    """

    def __init__(self, backbone: AbstractBackbone, channels: int) -> None:
        super().__init__()
        halvings = backbone.vae_factor.bit_length() - 1
        sizes = (*_SIZES, *[_SIZES[-1]] * halvings)[:halvings]
        made: Any = ControlNetModel.from_unet(
            backbone.denoiser,  # type: ignore[arg-type]
            conditioning_channels=channels,
            conditioning_embedding_out_channels=(_FIRST, *sizes),
        )
        self.net = made.float().requires_grad_(True)
        self.net.conv_in = _Nothing(int(self.net.config.block_out_channels[0]))

    def forward(
        self, noisy: Tensor, timesteps: Tensor, states: Tensor, picture: Tensor, added: dict[str, Tensor] | None
    ) -> tuple[list[Tensor], Tensor]:
        """What is added behind every downward layer, and to the middle.

        Args:
            noisy: `b c h w`, of which the size alone matters.
            timesteps: `b`.
            states: what its cross-attentions read, `b n d`.
            picture: `b channels H W`, its size the latents' times the autoencoder's factor.
            added: pooled text and sizes (SDXL).
        """
        down, middle = self.net(
            noisy, timesteps, states, controlnet_cond=picture, added_cond_kwargs=added, return_dict=False
        )
        return list(down), middle


class _Nothing(nn.Module):
    """Zeros in the place of the first convolution's features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy.new_zeros(noisy.shape[0], self.channels, *noisy.shape[2:])


@contextlib.contextmanager
def adding(denoiser: nn.Module, down: list[Tensor], middle: Tensor) -> Iterator[None]:
    """Inside, this is added to what the denoiser's downward layers and its middle hold.

    Args:
        denoiser: a U-Net of diffusers.
        down: behind every downward layer, the first convolution's first, `b c h w` each.
        middle: `b c h w`.
    """

    def give(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict]:
        like = inputs[0]
        held = {"down_block_additional_residuals": [x.to(like.dtype) for x in down]}
        return inputs, {**named, **held, "mid_block_additional_residual": middle.to(like.dtype)}

    handle = denoiser.register_forward_pre_hook(give, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def weighed(down: list[Tensor], middle: Tensor, strength: Tensor) -> tuple[list[Tensor], Tensor]:
    """Both times each row's strength, `b`."""
    share = strength[:, None, None, None]
    return [share.to(x) * x for x in down], share.to(middle) * middle
