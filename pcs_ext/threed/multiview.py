"""Several views of one thing denoised together: any Stable Diffusion UNet made view-joint (MVDream, arXiv 2308.16512).

Self-attention looks at the tokens of all views of a thing, with learned corrections to its projections and to the
layers behind it; the camera enters beside the timestep. The UNet itself stays frozen, so a subject learned on it works
in the joint model as well. Differs from MVDream, which trains all of the UNet: the corrections are ours.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pcs_ext.config_io import atomic_folder, read_json, write_json
from pcs_ext.errors import ModelError, UsageError
from pcs_ext.image.backbones.cpu_attention import attend
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.types import Conditioning
from pcs_ext.threed.cameras import Cameras

_CAMERA_NUMBERS = 16
_FILES = ("config.json", "adapter.safetensors")
_ATTENTION = ".attn1"
_CORRECTED = {_ATTENTION: ("to_q", "to_k", "to_v", "to_out.0"), ".ff": ("net.0.proj", "net.2")}
"""Module path endings -> linear layers below them that get a correction."""
_TOYBOX = Path(__file__).parents[1] / "toybox" / "weights" / "multiview"
"""Where the embedded base's own adapter lies: reached by path, as its base is."""


class MultiViewAdapter(nn.Module):
    """What makes a UNet view-joint. A fresh one adds nothing but the common attention.

    Args:
        layers: module path of every corrected linear layer -> (width of its input, of its output).
        time_width: of the UNet's timestep embedding.
        base: fingerprint of the backbone it is for; empty: any of the same shape.
    """

    def __init__(self, layers: dict[str, tuple[int, int]], time_width: int, base: str = "") -> None:
        super().__init__()
        self.layers, self.time_width, self.base = dict(layers), time_width, base
        self.camera = nn.Sequential(
            nn.Linear(_CAMERA_NUMBERS, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
        )
        self.corrections = nn.ModuleDict(
            {_key(path): nn.Linear(*widths, bias=False) for path, widths in layers.items()}
        )
        for layer in self.corrections.values():
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.camera[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.camera[2].bias)  # type: ignore[arg-type]

    @staticmethod
    def of(backbone: AbstractUnetBackbone) -> "MultiViewAdapter":
        """A fresh adapter for a backbone's UNet, on its device, in float32."""
        unet = backbone.denoiser
        layers: dict[str, tuple[int, int]] = {}
        for path, module in unet.named_modules():
            for ending, names in _CORRECTED.items():
                for name in names if path.endswith(ending) else ():
                    layer = module.get_submodule(name)
                    layers[f"{path}.{name}"] = (layer.in_features, layer.out_features)
        width = unet.time_embedding.linear_2.out_features
        return MultiViewAdapter(layers, width, backbone.fingerprint).to(backbone.device)

    @contextlib.contextmanager
    def joined(self, backbone: AbstractUnetBackbone, cameras: Cameras, views: int) -> Iterator[None]:
        """Inside, `backbone.predict` denoises the views of a thing together; afterwards all is as before.

        With one view nothing changes: there is no other to agree with, and MVDream, too, gives it no camera.

        Args:
            backbone: what the adapter was made for.
            cameras: `b * views` of them, the views of a thing in a row. Batches of `predict` may repeat them as a
                whole, as guidance does.
            views: per thing, at least 1.

        Raises:
            UsageError: the cameras are no whole number of things, or the adapter belongs to another UNet.
        """
        if views < 1 or len(cameras) == 0 or len(cameras) % views:
            raise UsageError(f"expected cameras for whole sets of {views} views (at least 1), got {len(cameras)}.")
        unet = backbone.denoiser
        attentions = {path: module for path, module in unet.named_modules() if path.endswith(_ATTENTION)}
        own = {path.rpartition(_ATTENTION)[0] + _ATTENTION for path in self.layers if _ATTENTION in path}
        if attentions.keys() != own:
            raise UsageError(
                f"the multi-view adapter has {len(own)} self-attentions, {backbone.name} has {len(attentions)} "
                "(or others); use it with the base it was trained on."
            )
        if views == 1:
            yield
            return
        before = {path: attention.processor for path, attention in attentions.items()}
        added = self.camera(camera_numbers(cameras).to(self.camera[0].weight))  # type: ignore[arg-type]
        handles = [unet.time_embedding.register_forward_hook(_adding(added, views))]
        try:
            for path in self.layers:
                layer = unet.get_submodule(path)
                handles.append(layer.register_forward_hook(_correcting(self.corrections[_key(path)])))
            for attention in attentions.values():
                attention.processor = _JointAttention(views)
            yield
        finally:
            for handle in handles:
                handle.remove()
            for path, attention in attentions.items():
                attention.processor = before[path]

    def check_base(self, backbone: AbstractUnetBackbone) -> None:
        """See that a backbone is the one the adapter was trained on.

        Raises:
            ModelError: it is another one.
        """
        if self.base not in ("", backbone.fingerprint):
            raise ModelError(
                f"the multi-view adapter was trained on a base with fingerprint {self.base}, {backbone.name} has "
                f"{backbone.fingerprint}; use that base, or train an adapter for this one."
            )

    def save(self, folder: Path) -> None:
        """Write `config.json` and `adapter.safetensors` (float16)."""
        tensors = {name: value.half().cpu().contiguous() for name, value in self.state_dict().items()}
        with atomic_folder(folder) as target:
            save_file(tensors, target / _FILES[1])
            said = {"layers": self.layers, "time_width": self.time_width, "base_fingerprint": self.base}
            write_json(target / _FILES[0], said)

    @staticmethod
    def load(folder: Path, device: str | torch.device = "cpu") -> "MultiViewAdapter":
        """Read what `save` wrote, as float32.

        Raises:
            ModelError: a file is missing, or is something else.
        """
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{folder} is no multi-view adapter ({', '.join(missing)} missing); expected what save wrote."
            )
        settings = read_json(folder / _FILES[0])
        try:
            layers = {path: tuple(widths) for path, widths in settings["layers"].items()}
            adapter = MultiViewAdapter(layers, settings["time_width"], settings["base_fingerprint"])
            adapter.load_state_dict({name: value.float() for name, value in load_file(folder / _FILES[1]).items()})
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{folder} is no multi-view adapter ({error}); expected what save wrote.") from error
        return adapter.to(device)


def set_errors(
    backbone: AbstractUnetBackbone,
    adapter: MultiViewAdapter,
    clean: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    conditioning: Conditioning,
    cameras: Cameras,
    views: int,
) -> Tensor:
    """Squared errors `b c h w` of what the joint model predicts of noised sets: what an adapter learns by (MVDream, eq.
    1). Differentiable in the adapter.

    Args:
        backbone: frozen.
        adapter: what is trained.
        clean: latents `b c h w`, the views of a thing in a row.
        noise: likewise.
        timesteps: `b`, one for all views of a thing.
        conditioning: `b`.
        cameras: `b`.
        views: per thing.

    Raises:
        UsageError: as `MultiViewAdapter.joined`.
    """
    noisy = backbone.schedule.add_noise(clean, noise, timesteps)
    with adapter.joined(backbone, cameras, views):
        predicted = backbone.predict(noisy, timesteps, conditioning).float()
    return (predicted - backbone.schedule.target(clean, noise, timesteps)).square()


def own_adapter(base: str) -> Path | None:
    """The folder of the adapter that ships for a base; None for bases without one."""
    return _TOYBOX if base == "toybox" and (_TOYBOX / _FILES[0]).is_file() else None


def find_adapter(base: str, folder: Path | None) -> Path:
    """The folder that was named, or that of the base's own adapter.

    Raises:
        UsageError: none was named and none ships.
    """
    found = folder or own_adapter(base)
    if found is None:
        missing = " (toybox's is missing: `python -m pcs_ext.toybox.train multiview` makes one)"
        raise UsageError(
            f"views are to be seen together and no multi-view adapter ships for {base}"
            f"{missing if base == 'toybox' else ''}; give one that was trained on it: --multiview FOLDER."
        )
    return found


def camera_numbers(cameras: Cameras) -> Tensor:
    """Camera-to-world matrices as `b 16`, their positions at distance 1 from the point looked at.

    Neither the scale nor where in the world the thing stands may matter.
    """
    matrix = cameras.camera_to_world.clone()
    matrix[:, :3, 3] = matrix[:, :3, 2]
    return matrix.flatten(1)


def _key(path: str) -> str:
    """A module path as a name in a ModuleDict, which takes no dots."""
    return path.replace(".", "/")


def _correcting(correction: nn.Module) -> Any:
    """A hook that adds the correction to a linear layer's output, in the precision of its input."""

    def hook(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        return output + F.linear(given[0], correction.weight.to(given[0].dtype))  # type: ignore[arg-type]

    return hook


class _JointAttention:
    """Self-attention over the tokens of `views` consecutive rows."""

    def __init__(self, views: int) -> None:
        self.views = views

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        rows, tokens, _width = hidden_states.shape
        query, key, value = (
            project(hidden_states).reshape(rows // self.views, self.views * tokens, attn.heads, -1).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        mixed = attend(query, key, value, attn.scale).transpose(1, 2).reshape(rows, tokens, -1)
        mixed = attn.to_out[1](attn.to_out[0](mixed))
        if attn.residual_connection:
            mixed = mixed + hidden_states
        return mixed / attn.rescale_output_factor


def _adding(added: Tensor, views: int) -> Any:
    def hook(module: nn.Module, given: Any, embedding: Tensor) -> Tensor:
        if len(embedding) % len(added):
            raise UsageError(
                f"expected batches of whole sets: a multiple of {len(added)} rows ({len(added) // views} sets of "
                f"{views} views), got {len(embedding)}."
            )
        return embedding + added.to(embedding.dtype).repeat(len(embedding) // len(added), 1)

    return hook
