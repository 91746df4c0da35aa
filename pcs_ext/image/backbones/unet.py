"""What Stable Diffusion and SDXL share: AutoencoderKL, UNet2DConditionModel, DDPM-style schedule."""

import contextlib
import hashlib
import re
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.cpu_attention import CpuAttention
from pcs_ext.image.backbones.decoupled import attending_besides
from pcs_ext.image.noise import NoiseSchedule
from pcs_ext.image.types import Conditioning


class AbstractUnetBackbone(AbstractBackbone, ABC):
    """A frozen UNet with its autoencoder and text encoders; families differ in how they encode prompts.

    Inpainting models are told to paint everything, which makes text-to-image models of them.

    Args:
        name: what the user typed.
        denoiser, vae, text_encoders, tokenizers: diffusers and transformers models.
        schedule: of the forward process.
        resolution: side the model was trained on.
        device: where everything is put.
        dtype: of the frozen weights.
    """

    def __init__(
        self,
        *,
        name: str,
        denoiser: Any,
        vae: Any,
        text_encoders: Sequence[Any],
        tokenizers: Sequence[Any],
        schedule: NoiseSchedule,
        resolution: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.name, self.schedule, self.resolution, self.device, self.dtype = name, schedule, resolution, device, dtype
        # Before the weights are cast: an artifact learned in one precision belongs to the base in all of them.
        self._fingerprint = fingerprint([denoiser, vae, *text_encoders])
        # torch's own `to`: the models' override warns about modules it would keep in float32, of which there are none.
        self.denoiser = nn.Module.to(denoiser, device, dtype)
        # SDXL's autoencoder overflows in fp16; its config says so.
        half = dtype == torch.float16 and vae.config["force_upcast"]
        self.vae = nn.Module.to(vae, device, torch.float32 if half else dtype)
        self.text_encoders = tuple(nn.Module.to(encoder, device, dtype) for encoder in text_encoders)
        self.tokenizers = tuple(tokenizers)
        self.vae_factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.latent_channels = vae.config["latent_channels"]
        self._layout = _layout(device, dtype, resolution // self.vae_factor)
        _lay_out(self.denoiser, self._layout)
        self._paints = is_inpainting(denoiser, vae)
        self._blank: dict[tuple[int, int], Tensor] = {}
        for module in (self.denoiser, self.vae, *self.text_encoders):
            module.requires_grad_(False).eval()
        if device.type == "cpu":
            self.denoiser.set_attn_processor(CpuAttention())

    @property
    def fingerprint(self) -> str:
        """16 hex digits of names, shapes and sampled values of all weights as loaded, in float32."""
        return self._fingerprint

    def encode_images(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `AbstractBackbone.encode_images`."""
        latents, deviation = self.encode_posterior(images)
        if generator is None:
            return latents
        noise = torch.randn(latents.shape, generator=generator).to(latents.device, latents.dtype)
        return latents + deviation * noise

    def encode_posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `AbstractBackbone.encode_posterior`."""
        sides = images.shape[-2:]
        assert not any(side % self.vae_factor for side in sides), f"{tuple(sides)} is no multiple of {self.vae_factor}"
        with self._own_precision():
            posterior = self.vae.encode(images.to(self.device, self.vae.dtype)).latent_dist
        scale = self.vae.config["scaling_factor"]
        return (posterior.mean - self._shift) * scale, posterior.std * scale

    def decode_latents(self, latents: Tensor) -> Tensor:
        """See `AbstractBackbone.decode_latents`."""
        unscaled = latents / self.vae.config["scaling_factor"] + self._shift
        with self._own_precision():
            return self.vae.decode(unscaled.to(self.vae.dtype)).sample

    def _own_precision(self) -> torch.autocast:
        """Of the autoencoder: asked for in the middle of a training step, autocast would make its float32 a half."""
        return torch.autocast(self.device.type, enabled=False)

    @property
    def _shift(self) -> float:
        return self.vae.config.get("shift_factor") or 0.0

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """See `AbstractBackbone.predict`."""
        dtype = self.dtype
        added = self._added(conditioning)
        if self._paints:
            noisy_latents = torch.cat([noisy_latents, self._all_to_paint(noisy_latents)], dim=1)
        with per_layer_states(self.denoiser, self.cross_attention_paths, timesteps, conditioning, dtype):
            return self.denoiser(
                noisy_latents.to(dtype).contiguous(memory_format=self._layout),
                timesteps,
                encoder_hidden_states=conditioning.states.to(dtype),
                added_cond_kwargs=added,
            ).sample

    def _all_to_paint(self, latents: Tensor) -> Tensor:
        """What an inpainting model reads beside latents `b c h w`: a mask of ones and the latents of a gray picture,
        which is what the published pipeline makes of a picture that is masked as a whole; `b 1+c h w`."""
        size = latents.shape[-2], latents.shape[-1]
        if size not in self._blank:
            gray = torch.zeros(1, 3, *(side * self.vae_factor for side in size))
            # Kept for all calls, so it must not be a tensor of inference mode, which no training can use.
            with torch.inference_mode(False), torch.no_grad():
                self._blank[size] = self.encode_images(gray)
        blank = self._blank[size].to(latents).expand(len(latents), -1, -1, -1)
        return torch.cat([torch.ones_like(blank[:, :1]), blank], dim=1)

    def _added(self, conditioning: Conditioning) -> dict[str, Tensor] | None:
        if conditioning.pooled is None or conditioning.time_ids is None:
            return None
        return {"text_embeds": conditioning.pooled.to(self.dtype), "time_ids": conditioning.time_ids.to(self.dtype)}

    def token_count(self, prompt: str) -> int:
        """See `AbstractBackbone.token_count`."""
        return max(len(t(prompt, truncation=False, verbose=False).input_ids) - 2 for t in self.tokenizers)

    def cross_attention_paths(self) -> tuple[str, ...]:
        """See `AbstractBackbone.cross_attention_paths`."""
        order = ("down_blocks", "mid_block", "up_blocks")
        # Not `temp_attentions` of video models: there attn2 looks at frames.
        pattern = re.compile(r"\.attentions\.\d+\.transformer_blocks\.\d+\.attn2$")
        paths = [name for name, _ in self.denoiser.named_modules() if pattern.search(name)]
        return tuple(sorted(paths, key=lambda path: order.index(path.split(".")[0])))


def is_inpainting(denoiser: Any, vae: Any) -> bool:
    """Whether a denoiser reads a mask and a masked picture beside the latents."""
    channels = vae.config["latent_channels"]
    return denoiser.config["in_channels"] == 2 * channels + 1


_FEW_CELLS = 16


def _layout(device: torch.device, dtype: torch.dtype, cells: int) -> torch.memory_format:
    """How a denoiser of latents with so many cells a side lies in memory.

    Channels last but for bfloat16 on the CPU with few cells: there a training step takes 0.78 to 0.88 of the time in
    the plain order (16 cells), while 64 cells take 1.12 of it and float32 1.02 to 1.14 (`dreambooth_lora_step`, one
    thread of an AMD EPYC, processor time).
    """
    few = device.type == "cpu" and dtype == torch.bfloat16 and cells <= _FEW_CELLS
    return torch.contiguous_format if few else torch.channels_last


def _lay_out(module: nn.Module, layout: torch.memory_format) -> None:
    """2D kernels only: torch's own `to` refuses a module that has 3D ones too."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


@contextlib.contextmanager
def per_layer_states(
    denoiser: nn.Module,
    paths: Callable[[], Sequence[str]],
    timesteps: Tensor,
    conditioning: Conditioning,
    dtype: torch.dtype,
) -> Iterator[None]:
    """Inside, each cross-attention module reads its own key and value states, and what stands beside the text.

    Also in what activation checkpointing computes again after the context is left. `paths` says which modules; it is
    asked only where they differ, as looking through a denoiser takes a good part of a small one's time.
    """
    if conditioning.per_layer is None and not conditioning.decoupled:
        yield
        return
    own = paths() if conditioning.per_layer is not None else ()
    states = {path: tuple(s.to(dtype) for s in conditioning.at(timesteps, path)) for path in own}

    @contextlib.contextmanager
    def reading() -> Iterator[None]:
        with _reading(denoiser, states), attending_besides(denoiser, conditioning.decoupled):
            yield

    with recomputing_inside(denoiser, reading), reading():
        yield


@contextlib.contextmanager
def _reading(denoiser: nn.Module, states: Mapping[str, tuple[Tensor, ...]]) -> Iterator[None]:
    """Inside, `to_k` and `to_v` of the modules get these states, whatever they are called with."""
    handles = []
    try:
        for path, pair in states.items():
            attention = denoiser.get_submodule(path)
            for name, replacement in zip(("to_k", "to_v"), pair, strict=True):
                handles.append(attention.get_submodule(name).register_forward_pre_hook(_replacing(replacement)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def recomputing_inside(
    denoiser: nn.Module, context: Callable[[], contextlib.AbstractContextManager[None]]
) -> Iterator[None]:
    """Inside, blocks that will be computed again in the backward pass are computed again within `context`."""

    def checkpointed(block: Callable[..., Any], *inputs: Any) -> Any:
        contexts = lambda: (contextlib.nullcontext(), context())  # noqa: E731
        return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)

    blocks: list[Any] = [module for module in denoiser.modules() if getattr(module, "gradient_checkpointing", False)]
    before = [block._gradient_checkpointing_func for block in blocks]
    try:
        for block in blocks:
            block._gradient_checkpointing_func = checkpointed
        yield
    finally:
        for block, function in zip(blocks, before, strict=True):
            block._gradient_checkpointing_func = function


def _replacing(states: Tensor):
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (states, *inputs[1:])

    return hook


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Token ids `b n`, padded and cut to the tokenizer's length.

    Raises:
        UsageError: a prompt has bytes that are no characters, as terminals pass them on from other encodings.
    """
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"prompt {prompt!a} has bytes that are no UTF-8 text; expected words, write it anew."
            ) from error
    length = tokenizer.model_max_length
    return tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids


def fingerprint(modules: Sequence[nn.Module]) -> str:
    """16 hex digits from every parameter's name, shape and a few of its values (rounded to half precision)."""
    digest = hashlib.sha256()
    for module in modules:
        for name, parameter in module.named_parameters():
            flat = parameter.detach().reshape(-1)
            sampled = flat[:: max(1, flat.numel() // 8)][:8].to(torch.float16).cpu().numpy()
            digest.update(f"{name}{tuple(parameter.shape)}".encode() + sampled.tobytes())
    return digest.hexdigest()[:16]
