"""AnimateDiff (Guo et al. 2023, arXiv 2307.04725): motion modules between the layers of any image model's UNet."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import MotionAdapter, Transformer2DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pcs_ext.errors import ModelError, UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone, fingerprint
from pcs_ext.image.noise import NoiseSchedule
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbone import AbstractVideoBackbone, LayerKind, Targets, per_frame, to_clips, to_frames
from pcs_ext.video.long_clips import window_starts, window_weights

_SPATIAL_SELF = r"\.transformer_blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)$"
_SPATIAL_FF = r"\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)$"
_CROSS = r"\.transformer_blocks\.\d+\.attn2\.(to_q|to_k|to_v|to_out\.0)$"
# In a motion module both attentions look at frames.
_TEMPORAL = r"motion_modules\.\d+\.transformer_blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$"
_TEMPORAL_FF = r"motion_modules\.\d+\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)$"


class AnimateDiffBackbone(AbstractVideoBackbone):
    """An image backbone and a motion adapter that stays its own component.

    Differs from diffusers' UNetMotionModel, which copies the UNet into a new model: here the motion modules are called
    after the layers of the image model itself, where that model has them. Adapters of pictures therefore go in
    unchanged, passing the motion modules by is exact, and no weight exists twice.

    Args:
        image: Stable Diffusion 1.x or 2.x, toybox among them.
        motion: of matching widths; moved to the image model's device and precision.
        name: of both together.
        module: where the motion adapter is from; None: it comes with the base.

    Raises:
        ModelError: the adapter does not fit the UNet.
    """

    def __init__(self, image: AbstractUnetBackbone, motion: Any, *, name: str = "", module: str | None = None) -> None:
        self.image, self.module = image, module
        # Before the cast: what is learned in one precision belongs to these weights in all of them.
        self._own_fingerprint = fingerprint([motion])
        self.motion: Any = nn.Module.to(motion, image.device, image.dtype)
        self.motion.requires_grad_(False).eval()
        self.name = name or f"{image.name} with motion"
        self.family, self.schedule, self.resolution = image.family, image.schedule, image.resolution
        self.vae_factor, self.latent_channels = image.vae_factor, image.latent_channels
        self.device, self.dtype = image.device, image.dtype
        self.max_frames = self._most_frames()
        self.frames = 16 if self.max_frames is None else min(16, self.max_frames)
        # Kept until the next `predict`, so that a backward pass that computes activations again finds the same.
        self._frames: int | None = None
        self._beside = 0
        self._bypassed = False
        self._recomputed = False
        self._window: tuple[int, int] | None = None
        self._handles = [layer.register_forward_hook(self._after(module)) for layer, module in self._module_places()]

    def _most_frames(self) -> int | None:
        """Positions of the motion modules."""
        return self.motion.config["motion_max_seq_length"]

    def _module_places(self) -> list[tuple[nn.Module, nn.Module]]:
        """Pairs (layer of the image model, module called after it)."""
        return _places(self.image.denoiser, self.motion)

    @property
    def origin(self) -> dict[str, str | None]:
        """See `AbstractVideoBackbone.origin`."""
        return {"base": self.image.name, "motion_module": self.module}

    @property
    def denoiser(self) -> Any:
        """The image model's UNet: spatial layers only."""
        return self.image.denoiser

    @property
    def vae(self) -> Any:
        """The image model's autoencoder."""
        return self.image.vae

    @property
    def text_encoders(self) -> tuple[Any, ...]:
        """The image model's."""
        return self.image.text_encoders

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        """The image model's; embedding adapters put extended ones in their place."""
        return self.image.tokenizers

    @tokenizers.setter
    def tokenizers(self, tokenizers: tuple[Any, ...]) -> None:
        self.image.tokenizers = tokenizers

    @property
    def fingerprint(self) -> str:
        """16 hex digits of both parts' weights as they were loaded, in any precision, whatever is put into them."""
        return hashlib.sha256(f"{self.image.fingerprint}{self._own_fingerprint}".encode()).hexdigest()[:16]

    @property
    def spatial_fingerprint(self) -> str:
        """The image model's own: its subjects are at home here."""
        return self.image.fingerprint

    def components(self) -> dict[str, nn.Module]:
        """Those of the image model, and `motion`."""
        return {**self.image.components(), "motion": self.motion}

    def encode_images(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `AbstractBackbone.encode_images`."""
        return self.image.encode_images(images, generator)

    def encode_posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `AbstractBackbone.encode_posterior`."""
        return self.image.encode_posterior(images)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents of pictures `b c h w`, or of clips `b c f h w`, each decoded as `AbstractBackbone` says."""
        return self.image.decode_latents(latents) if latents.dim() == 4 else self.decode_clips(latents)

    def encode_prompt(self, prompts: Sequence[str], *, size: tuple[int, int] | None = None) -> Conditioning:
        """See `AbstractBackbone.encode_prompt`."""
        return self.image.encode_prompt(prompts, size=size)

    def token_count(self, prompt: str) -> int:
        """See `AbstractBackbone.token_count`."""
        return self.image.token_count(prompt)

    def cross_attention_paths(self) -> tuple[str, ...]:
        """See `AbstractBackbone.cross_attention_paths`."""
        return self.image.cross_attention_paths()

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's raw output, shaped like the latents.

        Args:
            noisy_latents: clips `b c f h w`, or pictures `b c h w`.
            timesteps: `b`.
            conditioning: of `b` clips, or of their `b * f` frames.

        Raises:
            UsageError: more frames than the motion modules have positions for.
        """
        self._beside = 0
        self._recomputed = self.denoiser.is_gradient_checkpointing
        if noisy_latents.dim() == 4:
            self._frames = None
            return self.image.predict(noisy_latents, timesteps, conditioning)
        clips, frames = noisy_latents.shape[0], noisy_latents.shape[2]
        seen = frames if self._window is None else min(frames, self._window[0])
        if self.max_frames is not None and seen > self.max_frames and not self._bypassed:
            raise UsageError(
                f"{self.name} has positions for {self.max_frames} frames, got a clip of {frames}; "
                "take fewer frames, or windows of a longer clip (--window)."
            )
        self._frames = None if self._bypassed else frames
        conditioning = per_frame(conditioning, clips, frames)
        timesteps = timesteps.repeat_interleave(frames)
        return to_clips(self.image.predict(to_frames(noisy_latents), timesteps, conditioning), clips)

    def predict_beside(
        self,
        noisy_latents: Tensor,
        pictures: Tensor,
        timesteps: Tensor,
        picture_timesteps: Tensor,
        conditioning: Conditioning,
    ) -> tuple[Tensor, Tensor]:
        """The denoiser's raw output for clips and for pictures that pass through it together.

        Pictures pass by every motion module; what else they exchange with clips is up to hooks on the denoiser, where
        they stand behind the clips' frames.

        Args:
            noisy_latents: clips `b c f h w`.
            pictures: `p c h w`.
            timesteps: of the clips, `b`.
            picture_timesteps: `p`.
            conditioning: of the clips, `b` rows or `b * f`; pictures get an empty prompt.
        """
        clips, frames = noisy_latents.shape[0], noisy_latents.shape[2]
        self._frames, self._beside = (None if self._bypassed else frames), len(pictures)
        self._recomputed = self.denoiser.is_gradient_checkpointing
        told = [per_frame(conditioning, clips, frames), self.encode_prompt([""] * len(pictures))]
        latents = torch.cat([to_frames(noisy_latents), pictures.to(noisy_latents)])
        times = torch.cat([timesteps.repeat_interleave(frames), picture_timesteps.to(timesteps)])
        made = self.image.predict(latents, times, Conditioning.cat(told))
        return to_clips(made[: clips * frames], clips), made[clips * frames :]

    @contextlib.contextmanager
    def frame_by_frame(self) -> Iterator[None]:
        """See `AbstractVideoBackbone.frame_by_frame`."""
        before, self._bypassed = self._bypassed, True
        try:
            yield
        finally:
            self._bypassed = before

    @contextlib.contextmanager
    def windowed(self, window: int, stride: int) -> Iterator[None]:
        """See `AbstractVideoBackbone.windowed`.

        Differs from the released code: windows go through whole motion modules instead of each of their blocks.
        """
        window_starts(window, window, stride)
        before, self._window = self._window, (window, stride)
        try:
            yield
        finally:
            self._window = before

    def targets(self, kind: LayerKind) -> Targets:
        """See `AbstractVideoBackbone.targets`: spatial kinds lie in `denoiser`, temporal ones in `motion`."""
        return {
            "spatial": Targets("denoiser", (_SPATIAL_SELF, _SPATIAL_FF)),
            "spatial_self": Targets("denoiser", (_SPATIAL_SELF,)),
            "cross_attention": Targets("denoiser", (_CROSS,), (r"\.transformer_blocks\.\d+\.attn2$",)),
            "temporal": Targets("motion", (_TEMPORAL, _TEMPORAL_FF), (r"\.transformer_blocks\.\d+\.(attn[12]|ff)$",)),
            "temporal_attention": Targets("motion", (_TEMPORAL,)),
            "temporal_weights": Targets("motion", (_TEMPORAL, _TEMPORAL_FF)),
        }[kind]

    def remove(self) -> None:
        """Take the motion modules off the image model, which is then as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _after(self, module: nn.Module) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> Any:
            if self._frames is None:
                return None
            states = output[0] if isinstance(output, tuple) else output
            moving = states[: len(states) - self._beside]
            with self._precision_of(module):
                moved = self._beyond(layer, module, moving, self._frames).to(states.dtype)
            if self._beside:
                moved = torch.cat([moved, states[len(moving) :]])
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return hook

    def moved(self, module: nn.Module, states: Tensor, frames: int) -> Tensor:
        """What a motion module that is called beside this model's makes of clips' frames `b*f ...`, shaped like them:
        in windows, or nothing, where this model's are so."""
        if self._bypassed:
            return states
        with self._precision_of(module):
            return self._moved(module, states, frames).to(states.dtype)

    def _beyond(self, layer: nn.Module, module: nn.Module, states: Tensor, frames: int) -> Tensor:
        """What a module makes of what a layer of the image model made, computed again in the backward pass where the
        UNet's own blocks are. Those are residual and transformer blocks, whose hooks run again with them."""
        if not (self._recomputed and torch.is_grad_enabled() and isinstance(layer, Transformer2DModel)):
            return self._moved(module, states, frames)
        made = checkpoint(self._moved, module, states, frames, use_reentrant=False)
        assert isinstance(made, Tensor)
        return made

    def _moved(self, module: nn.Module, states: Tensor, frames: int) -> Tensor:
        """What a motion module makes of `b*f ...`, at once or window by window."""
        if self._window is None or frames <= self._window[0]:
            return module(states, num_frames=frames)
        window, stride = self._window
        clips = states.unflatten(0, (-1, frames))
        weights = window_weights(window).to(states.device).view(1, window, *[1] * (states.dim() - 1))
        total, weight = torch.zeros_like(clips, dtype=torch.float32), torch.zeros(1, frames, *weights.shape[2:])
        weight = weight.to(states.device)
        for first in window_starts(frames, window, stride):
            part = slice(first, first + window)
            made = module(clips[:, part].flatten(0, 1), num_frames=window).unflatten(0, (-1, window))
            total[:, part] += weights * made
            weight[:, part] += weights
        return (total / weight).flatten(0, 1)

    def _precision_of(self, module: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Weights that train stay in float32 on a base of less; such a module runs under autocast."""
        mixed = self.dtype != torch.float32 and any(p.dtype == torch.float32 for p in module.parameters())
        return torch.autocast(self.device.type, dtype=self.dtype) if mixed else contextlib.nullcontext()


def published_schedule(timesteps: int) -> NoiseSchedule:
    """What the published motion modules for Stable Diffusion 1.x were trained with and are sampled with.

    Betas rise evenly from 0.00085 to 0.012, where in the image model's own schedule their roots do: the same ends, more
    noise in between. The numbers are those that the modules' model cards give to the scheduler.
    """
    betas = torch.linspace(0.00085, 0.012, timesteps, dtype=torch.float64)
    return NoiseSchedule(alphas_cumprod=(1 - betas).cumprod(0).float(), prediction_type="epsilon")


def _places(unet: Any, motion: Any) -> list[tuple[nn.Module, nn.Module]]:
    """Pairs (layer of the UNet, motion module called after it), as in diffusers' UNetMotionModel.

    Raises:
        ModelError: blocks, layers or widths differ.
    """
    blocks = [(b, m) for kind in ("down_blocks", "up_blocks") for b, m in _paired(unet, motion, kind)]
    if motion.mid_block is not None:
        blocks.append((unet.mid_block, motion.mid_block))
    places = []
    for block, modules in blocks:
        layers = getattr(block, "attentions", None) or block.resnets
        if len(layers) != len(modules.motion_modules):
            raise _unfit(f"a block of {len(layers)} layers and {len(modules.motion_modules)} motion modules")
        places += list(zip(layers, modules.motion_modules, strict=True))
    for layer, module in places:
        width = getattr(layer, "out_channels", None) or layer.in_channels
        if module.in_channels != width:
            raise _unfit(f"a layer of width {width} and a motion module of width {module.in_channels}")
    return places


def _paired(unet: Any, motion: Any, kind: str) -> list[tuple[Any, Any]]:
    ours, theirs = getattr(unet, kind), getattr(motion, kind) or ()
    if len(ours) != len(theirs):
        raise _unfit(f"{len(ours)} {kind} and {len(theirs)} in the motion adapter")
    return list(zip(ours, theirs, strict=True))


def _unfit(what: str) -> ModelError:
    return ModelError(f"the motion adapter does not fit this base: {what}. Take one made for its family.")


def identity_motion_adapter(unet: Any, *, max_frames: int = 32) -> MotionAdapter:
    """A fresh motion adapter for a UNet that changes nothing yet: its last projections are zero.

    diffusers' own fresh adapter has random projections and is no identity.

    Args:
        unet: `UNet2DConditionModel`.
        max_frames: positions for so many frames.
    """
    config = unet.config
    adapter = MotionAdapter(
        block_out_channels=tuple(config["block_out_channels"]),
        motion_layers_per_block=config["layers_per_block"],
        motion_num_attention_heads=4 if config["block_out_channels"][0] % 8 else 8,
        motion_norm_num_groups=config["norm_num_groups"],
        motion_max_seq_length=max_frames,
        use_motion_mid_block=True,
    )
    for name, parameter in adapter.named_parameters():
        if ".proj_out." in name:
            nn.init.zeros_(parameter)
    return adapter
