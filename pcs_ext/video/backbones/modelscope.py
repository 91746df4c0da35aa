"""ModelScope's text-to-video model and its descendants, ZeroScope among them (Wang et al. 2023, arXiv 2308.06571)."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from diffusers import UNet3DConditionModel
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.backbones.sd import StableDiffusionBackbone
from pcs_ext.image.backbones.unet import per_layer_states
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbone import AbstractVideoBackbone, LayerKind, Targets, per_frame, to_clips, to_frames

# A dot in front: `temp_attentions` must not match.
_SPATIAL = r"\.attentions\.\d+\.transformer_blocks\.\d+"
_OVER_FRAMES = r"(\.temp_attentions\.\d+|^transformer_in)\.transformer_blocks\.\d+"
_PROJECTIONS = r"\.(to_q|to_k|to_v|to_out\.0)$"
_CONVOLUTION = r"\.temp_convs\.\d+\.conv[1-4]\.\d+$"
_FF = r"\.ff\.net\.(0\.proj|2)$"


class ModelScopeBackbone(StableDiffusionBackbone, AbstractVideoBackbone):
    """One UNet with temporal convolutions and attentions inside its blocks."""

    family = "modelscope"
    frames = 16
    max_frames = None

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's raw output, shaped like the latents.

        Args:
            noisy_latents: clips `b c f h w`, or pictures `b c h w`, which pass by the temporal layers.
            timesteps: `b`.
            conditioning: of `b` clips; of their `b * f` frames only inside `frame_by_frame`.

        Raises:
            UsageError: conditioning by frame where the frames are not pictures of their own.
        """
        if noisy_latents.dim() == 4:
            with self.frame_by_frame():
                return self._denoise(noisy_latents.unsqueeze(2), timesteps, conditioning)[:, :, 0]
        clips, frames = noisy_latents.shape[0], noisy_latents.shape[2]
        if conditioning.batch_size == clips:
            return self._denoise(noisy_latents, timesteps, conditioning)
        if not self._bypassed:
            raise UsageError(
                f"{self.name} takes one prompt per clip, got {conditioning.batch_size} for {clips} clips; "
                "prompts by frame need frame_by_frame()."
            )
        flat = to_frames(noisy_latents).unsqueeze(2)
        return to_clips(self._denoise(flat, timesteps.repeat_interleave(frames), conditioning)[:, :, 0], clips)

    def _denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        clips, frames = noisy.shape[0], noisy.shape[2]
        by_frame = per_frame(conditioning, clips, frames)
        repeated = timesteps.repeat_interleave(frames)
        with per_layer_states(self.denoiser, self.cross_attention_paths, repeated, by_frame, self.dtype):
            states = conditioning.states.to(self.dtype)
            return self.denoiser(noisy.to(self.dtype), timesteps, encoder_hidden_states=states).sample

    @property
    def subject_families(self) -> tuple[str, ...]:
        """Its own, and Stable Diffusion's of the same layout (2.x, which it was grown from)."""
        return (self.family, "sd")

    @property
    def _bypassed(self) -> bool:
        return "forward" in vars(self.denoiser.transformer_in)

    @contextlib.contextmanager
    def frame_by_frame(self) -> Iterator[None]:
        """See `AbstractVideoBackbone.frame_by_frame`."""
        if self._bypassed:
            yield
            return
        temporal = (TransformerTemporalModel, TemporalConvLayer)
        layers = [module for module in self.denoiser.modules() if isinstance(module, temporal)]
        try:
            for layer in layers:
                # On the object, in front of the class's own; taken off again below.
                vars(layer)["forward"] = _first if isinstance(layer, TransformerTemporalModel) else _same
            yield
        finally:
            for layer in layers:
                vars(layer).pop("forward", None)

    def targets(self, kind: LayerKind) -> Targets:
        """See `AbstractVideoBackbone.targets`."""
        patterns = {
            "spatial": (_SPATIAL + r"\.attn1" + _PROJECTIONS, _SPATIAL + _FF),
            "spatial_self": (_SPATIAL + r"\.attn1" + _PROJECTIONS,),
            "cross_attention": (_SPATIAL + r"\.attn2" + _PROJECTIONS,),
            "temporal": (_OVER_FRAMES + r"\.attn[12]" + _PROJECTIONS, _OVER_FRAMES + _FF),
            "temporal_attention": (_OVER_FRAMES + r"\.attn[12]" + _PROJECTIONS,),
            "temporal_weights": (_OVER_FRAMES + r"\.attn[12]" + _PROJECTIONS, _OVER_FRAMES + _FF, _CONVOLUTION),
        }
        modules = {
            "cross_attention": (_SPATIAL + r"\.attn2$",),
            "temporal": (_OVER_FRAMES + r"\.(attn[12]|ff)$",),
        }
        return Targets("denoiser", patterns[kind], modules.get(kind, ()))


def _first(hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
    return (hidden_states,)


def _same(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states


_TEMPORAL = re.compile(r"^transformer_in\.|\.temp_(attentions|convs)\.")
"""Weights that a 2D UNet has no counterpart of."""


def grow_unet3d(unet: Any) -> UNet3DConditionModel:
    """A ModelScope-format denoiser with a 2D UNet's weights; its new temporal layers change nothing yet.

    The format knows one width of attention heads for all levels, as Stable Diffusion 2.x has (64); Stable Diffusion
    1.x has eight heads at every level and does not fit.

    Args:
        unet: `UNet2DConditionModel`.

    Returns:
        A model that gives every frame what `unet` gives it as a picture, to rounding.

    Raises:
        ConfigError: heads, blocks or weights do not fit the format.
    """
    config = unet.config
    try:
        grown = UNet3DConditionModel(
            sample_size=config["sample_size"],
            in_channels=config["in_channels"],
            out_channels=config["out_channels"],
            block_out_channels=tuple(config["block_out_channels"]),
            down_block_types=tuple(name.replace("2D", "3D") for name in config["down_block_types"]),
            up_block_types=tuple(name.replace("2D", "3D") for name in config["up_block_types"]),
            layers_per_block=config["layers_per_block"],
            norm_num_groups=config["norm_num_groups"],
            cross_attention_dim=config["cross_attention_dim"],
            attention_head_dim=_head_width(config),
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"this UNet cannot grow into a text-to-video model: {error}") from None
    _copy_spatial(unet, grown)
    for name, parameter in grown.named_parameters():
        if re.search(r"(temp_attentions\.\d+|^transformer_in)\.proj_out\.|temp_convs\.\d+\.conv4\.", name):
            nn.init.zeros_(parameter)
    return grown.eval()


def _head_width(config: Any) -> int:
    """Channels per head, equal at all levels. diffusers calls the number of heads `attention_head_dim` in 2D.

    Raises:
        ConfigError: levels differ.
    """
    channels = config["block_out_channels"]
    counts = config.get("num_attention_heads") or config["attention_head_dim"]
    counts = (counts,) * len(channels) if isinstance(counts, int) else counts
    widths = {width // count for width, count in zip(channels, counts, strict=True)}
    if len(widths) > 1:
        raise ConfigError(
            f"the attention heads of this UNet are {sorted(widths)} channels wide, by level; a text-to-video UNet has "
            "one width. Grow from a model like Stable Diffusion 2.x, or put motion modules on this one (AnimateDiff)."
        )
    return widths.pop()


def _copy_spatial(unet: Any, grown: Any) -> None:
    """The 2D weights under the same names.

    Raises:
        ConfigError: a weight has no place of its size, or a place that is not temporal gets no weight.
    """
    source, target = unet.state_dict(), grown.state_dict()
    # A projection is a matrix or a convolution of one cell: the same numbers.
    lost = [key for key, value in source.items() if key not in target or _matrix(target[key]) != _matrix(value)]
    empty = [key for key in target if key not in source and not _TEMPORAL.search(key)]
    if lost or empty:
        raise ConfigError(
            f"{len(lost)} weights of this UNet have no place in the text-to-video format, and {len(empty)} places "
            f"there get none ({', '.join([*lost, *empty][:3])}); expected one like Stable Diffusion 2.x's."
        )
    grown.load_state_dict(target | {key: value.reshape(target[key].shape) for key, value in source.items()})


def _matrix(weight: Tensor) -> tuple[int, ...]:
    """Its shape without a convolution's single cell."""
    return tuple(weight.shape[:-2] if weight.shape[2:] == (1, 1) else weight.shape)
