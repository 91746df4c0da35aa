"""A copy of a denoiser's downward half and middle whose outputs are added to the denoiser's own.

ControlNet (Zhang et al. 2023, arXiv 2302.05543) is such a copy. What is added enters by the denoiser's arguments for
it, so that other weights, programs and layers stay.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch.nn.functional as F
from diffusers import ControlNetModel
from torch import Tensor, nn

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.cpu_attention import CpuAttention
from pcs_ext.image.types import Conditioning

_HINT_WIDTHS = (16, 32, 96, 256)
"""Of ControlNet's hint encoder; each after the first halves the picture, and the last is repeated where latent cells
are larger than Stable Diffusion's."""


@dataclasses.dataclass(frozen=True)
class Residuals:
    """What is added to a denoiser's features."""

    down: tuple[Tensor, ...]
    """To what its downward half hands across, `b c h w` each, from the latents' own size on."""
    middle: Tensor
    """To what leaves its middle."""

    def each(self, scales: Sequence[float]) -> Self:
        """Each times a number of its own, the middle's last."""
        down = tuple(scale * part for scale, part in zip(scales[:-1], self.down, strict=True))
        return dataclasses.replace(self, down=down, middle=scales[-1] * self.middle)

    def rows(self, weights: Tensor) -> Self:
        """Rows times weights, `b`."""
        return self.map(lambda part: part * weights.to(part)[:, None, None, None])

    def inside(self, mask: Tensor) -> Self:
        """What lies in a mask `b 1 h w` alone, which is resized to the nearest cells (ViscoNet, arXiv 2312.03154)."""
        return self.map(lambda part: part * F.interpolate(mask, size=part.shape[2:], mode="nearest").to(part))

    def placed(self, rows: Tensor, batch: int) -> Self:
        """For a batch of which they are some rows; zeros in the others."""
        return self.map(lambda part: part.new_zeros(batch, *part.shape[1:]).index_copy(0, rows.to(part.device), part))

    def some(self, rows: Tensor) -> Self:
        """Some rows of the batch."""
        return self.map(lambda part: part[rows.to(part.device)])

    def plus(self, other: "Residuals") -> Self:
        """Both together."""
        down = tuple(a + b for a, b in zip(self.down, other.down, strict=True))
        return dataclasses.replace(self, down=down, middle=self.middle + other.middle)

    def map(self, change: Any) -> Self:
        """The same with `change` done to every tensor."""
        return dataclasses.replace(self, down=tuple(change(part) for part in self.down), middle=change(self.middle))


@contextlib.contextmanager
def controlled(denoiser: nn.Module, residuals: Residuals) -> Iterator[None]:
    """Inside, the denoiser's features gain these; what somebody else adds stays.

    Args:
        denoiser: diffusers' UNet.
        residuals: of the batches it is called with.
    """

    def informed(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        down, middle = named.get("down_block_additional_residuals"), named.get("mid_block_additional_residual")
        ours = residuals.map(lambda part: part.to(given[0].dtype))
        added = {
            "down_block_additional_residuals": ours.down
            if down is None
            else tuple(a + b for a, b in zip(down, ours.down, strict=True)),
            "mid_block_additional_residual": ours.middle if middle is None else middle + ours.middle,
        }
        return given, {**named, **added}

    handle = denoiser.register_forward_pre_hook(informed, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class ControlBranch(nn.Module):
    """ControlNet's copy, its hint encoder, and maps that begin at zero, so that it adds nothing before training.

    Args:
        backbone: whose denoiser is copied, with nothing in it.
        channels: of the hints.
        sees_latents: whether it sees the noisy latents, too; else the hint's features stand in the place of theirs, as
            in AnyDoor's detail extractor (arXiv 2307.09481, section 3.2; the released code).
    """

    def __init__(self, backbone: AbstractBackbone, channels: int, *, sees_latents: bool = True) -> None:
        super().__init__()
        halvings = backbone.vae_factor.bit_length() - 1
        widths = _HINT_WIDTHS + _HINT_WIDTHS[-1:] * halvings
        self.net: Any = ControlNetModel.from_unet(
            backbone.denoiser,  # pyright: ignore[reportArgumentType]
            conditioning_channels=channels,
            conditioning_embedding_out_channels=widths[: halvings + 1],
        ).float()
        self.net.requires_grad_(True)
        if not sees_latents:
            self.net.conv_in = _Nothing(int(self.net.config.block_out_channels[0]))
        if backbone.device.type == "cpu":
            self.net.set_attn_processor(CpuAttention())

    @property
    def weight(self) -> Tensor:
        """One of its weights, of the device and precision in which it computes."""
        return self.net.time_embedding.linear_1.weight

    def forward(
        self, noisy: Tensor, timesteps: Tensor, states: Tensor, hints: Tensor, added: dict[str, Tensor] | None
    ) -> Residuals:
        """Noisy latents `b c h w`, timesteps `b`, context `b n d` and hints `b k H W` -> what is added.

        `added`: pooled text and sizes (SDXL), see `added_of`.
        """
        like = self.weight
        told = None if added is None else {name: value.to(like) for name, value in added.items()}
        down, middle = self.net(
            noisy.to(like),
            timesteps,
            encoder_hidden_states=states.to(like),
            controlnet_cond=hints.to(like),
            added_cond_kwargs=told,
            return_dict=False,
        )
        return Residuals(tuple(down), middle)


class _Nothing(nn.Module):
    """Zeros in the place of the first convolution's features.

    Args:
        channels: of these.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy.new_zeros(noisy.shape[0], self.channels, *noisy.shape[2:])


def added_of(conditioning: Conditioning, like: Tensor) -> dict[str, Tensor] | None:
    """Pooled text and sizes of a batch as diffusers' models take them (SDXL); None: it has none."""
    if conditioning.pooled is None or conditioning.time_ids is None:
        return None
    return {"text_embeds": conditioning.pooled.to(like), "time_ids": conditioning.time_ids.to(like)}
