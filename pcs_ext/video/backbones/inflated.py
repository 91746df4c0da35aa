"""An image model inflated to clips (Tune-A-Video, Wu et al. 2022, arXiv 2212.11565): no video model is needed."""

from typing import Any, Literal

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.video.backbone import LayerKind, Targets
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone

CrossFrame = Literal["sparse-causal", "causal", "first"]
"""Where a frame's spatial self-attention looks. sparse-causal: the first frame and the one before (Tune-A-Video,
eq. 3). causal: the same, and the new attention over frames looks at no later one (Make-A-Protagonist, Zhao et al. 2023,
arXiv 2305.08850). first: the first frame alone (LAMP, Wu et al. 2023, arXiv 2310.10769), which also has gated
convolutions over frames behind the residual blocks."""

_TEMPORAL = r"attention\.(to_q|to_k|to_v|to_out\.0)$"
_CONVOLUTION = r"convolutions\.\d+\.(convolution|gate)$"


class InflatedBackbone(AnimateDiffBackbone):
    """An image model whose frames see each other: cross-frame attention, and new temporal layers in every block.

    The new layers know no order by themselves and take any number of frames. They start as an identity and say nothing
    about motion before they are trained; a learned motion brings them along.

    Differs from the released code, where the bias of the last projection starts at random: here it is zero, so that
    the inflated model starts as the image model but for the cross-frame attention.

    Args:
        image: Stable Diffusion 1.x or 2.x, toybox among them.
        attention: what takes the place of spatial self-attention where frames belong to one clip.
        seed: of the new layers' first weights.
        name: what the user typed.
    """

    def __init__(
        self, image: AbstractUnetBackbone, *, attention: CrossFrame = "sparse-causal", seed: int = 0, name: str = ""
    ) -> None:
        self.attention: CrossFrame = attention
        layers = TemporalLayers(
            image.denoiser, convolutions=attention == "first", causal=attention == "causal", seed=seed
        )
        super().__init__(image, layers, name=name or image.name)
        for path, module in image.denoiser.named_modules():
            if isinstance(module, Attention) and path.endswith(".attn1"):
                self._handles.append(module.register_forward_pre_hook(self._across_frames, with_kwargs=True))

    def targets(self, kind: LayerKind) -> Targets:
        """See `AbstractVideoBackbone.targets`: the new layers have no feed-forward."""
        if kind.startswith("temporal"):
            patterns = (_TEMPORAL, _CONVOLUTION) if kind == "temporal_weights" else (_TEMPORAL,)
            return Targets("motion", patterns, (r"\.attention$",))
        return super().targets(kind)

    def _most_frames(self) -> int | None:
        return None

    def _module_places(self) -> list[tuple[nn.Module, nn.Module]]:
        unet, pairs = self.image.denoiser, list(zip(_blocks(self.image.denoiser), self.motion.layers, strict=True))
        if len(self.motion.convolutions):
            pairs += zip(_residual_blocks(unet), self.motion.convolutions, strict=True)
        return pairs

    def _across_frames(self, module: nn.Module, inputs: Any, options: dict[str, Any]) -> Any:
        """Keys and values from other frames; nothing changes for pictures."""
        if self._frames is None:
            return None
        states = inputs[0].unflatten(0, (-1, self._frames))
        return inputs, {**options, "encoder_hidden_states": keys_of_clips(states, self.attention).flatten(0, 1)}


def keys_of_clips(states: Tensor, attention: CrossFrame) -> Tensor:
    """Tokens that the frames of clips attend to: `b f n d` -> `b f m d`, m = n for first, else 2 n.

    The first frame attends to itself (twice, which is the same): a clip of one frame is a picture.
    """
    first = states[:, :1].expand_as(states)
    if attention == "first":
        return first
    previous = torch.cat([states[:, :1], states[:, :-1]], 1)
    return torch.cat([first, previous], 2)


def _blocks(unet: nn.Module) -> list[nn.Module]:
    return [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]


def _residual_blocks(unet: nn.Module) -> list[nn.Module]:
    return [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]


class TemporalLayers(nn.Module):
    """A `TemporalAttention` for every transformer block of a UNet, and if asked a `GatedConvolution` for every residual
    block, in the order of its modules."""

    def __init__(self, unet: nn.Module, *, convolutions: bool, causal: bool, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(TemporalAttention(block, causal=causal) for block in _blocks(unet))
            residual = _residual_blocks(unet) if convolutions else []
            self.convolutions = nn.ModuleList(GatedConvolution(block) for block in residual)


class TemporalAttention(nn.Module):
    """Self-attention over frames at every place, behind a layer norm, added to what it was given.

    Args:
        block: the transformer block it stands in, whose width and heads it takes.
        causal: a frame sees itself and those before it.
    """

    def __init__(self, block: Any, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        width, heads = block.attn1.query_dim, block.attn1.heads
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(query_dim=width, heads=heads, dim_head=width // heads)
        assert self.attention.to_out is not None
        for parameter in self.attention.to_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, states: Tensor, num_frames: int) -> Tensor:
        """`b*f n d` -> the same shape."""
        places = states.unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(0, 1)
        mixed = self.attention(self.norm(places), attention_mask=self._mask(places))
        mixed = mixed.unflatten(0, (-1, states.shape[1])).transpose(1, 2).flatten(0, 1)
        return states + mixed

    def _mask(self, places: Tensor) -> Tensor | None:
        """Added to scores, `b*n f f`: minus infinity for later frames."""
        if not self.causal:
            return None
        frames = places.shape[1]
        later = torch.full((frames, frames), -torch.inf, dtype=places.dtype, device=places.device).triu(1)
        return later.expand(len(places), -1, -1)


class GatedConvolution(nn.Module):
    """A causal convolution over three frames, through a gate of one channel, added to what it was given (LAMP).

    Differs from the released code: one stands behind every residual block instead of one beside every convolution, and
    it starts at zero, so that the inflated model starts as the image model does.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        width = block.out_channels
        self.convolution, self.gate = nn.Conv1d(width, width, 3), nn.Conv2d(width, 1, 1)
        for parameter in (*self.convolution.parameters(), *self.gate.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, states: Tensor, num_frames: int) -> Tensor:
        """`b*f c h w` -> the same shape. Before the first frame stands the first frame."""
        clips = states.unflatten(0, (-1, num_frames))
        b, f, c, h, w = clips.shape
        lines = clips.permute(0, 3, 4, 2, 1).reshape(b * h * w, c, f)
        moved = self.convolution(torch.cat([lines[:, :, :1]] * 2 + [lines], 2))
        moved = moved.reshape(b, h, w, c, f).permute(0, 4, 3, 1, 2).flatten(0, 1)
        return states + torch.sigmoid(self.gate(states)) * moved
