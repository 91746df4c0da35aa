"""Several views of one thing denoised together: any Stable Diffusion UNet made view-joint (MVDream, arXiv 2308.16512).

Self-attention looks at the tokens of all views of a thing, with learned corrections to its projections; the camera
enters beside the timestep. The UNet itself stays frozen, so a subject learned on it works in the joint model as well.
MVDream trains all of the UNet instead; the corrections are ours.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pcs_ext.config_io import atomic_folder, read_json, write_json
from pcs_ext.errors import ModelError, UsageError
from pcs_ext.image.backbones.cpu_attention import attend
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.threed.cameras import Cameras

_CAMERA_NUMBERS = 16
_FILES = ("config.json", "adapter.safetensors")


class MultiViewAdapter(nn.Module):
    """What makes a UNet view-joint. A fresh one adds nothing but the common attention.

    Args:
        widths: module path of every self-attention -> (width of its input, width inside).
        time_width: of the UNet's timestep embedding.
    """

    def __init__(self, widths: dict[str, tuple[int, int]], time_width: int) -> None:
        super().__init__()
        self.widths, self.time_width = dict(widths), time_width
        self.camera = nn.Sequential(
            nn.Linear(_CAMERA_NUMBERS, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
        )
        self.corrections = nn.ModuleDict(
            {path.replace(".", "/"): _Corrections(outer, inner) for path, (outer, inner) in widths.items()}
        )
        nn.init.zeros_(self.camera[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.camera[2].bias)  # type: ignore[arg-type]

    @staticmethod
    def of(backbone: AbstractUnetBackbone) -> "MultiViewAdapter":
        """A fresh adapter for a backbone's UNet, on its device, in float32."""
        unet = backbone.denoiser
        widths = {
            path: (module.to_q.in_features, module.to_q.out_features)
            for path, module in unet.named_modules()
            if path.endswith(".attn1")
        }
        return MultiViewAdapter(widths, unet.time_embedding.linear_2.out_features).to(backbone.device)

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
        found = {path for path, _ in unet.named_modules() if path.endswith(".attn1")}
        if found != self.widths.keys():
            raise UsageError(
                f"the multi-view adapter has {len(self.widths)} self-attentions, {backbone.name} has {len(found)} "
                "(or others); use it with the base it was trained on."
            )
        if views == 1:
            yield
            return
        attentions = {path: unet.get_submodule(path) for path in self.widths}
        before = {path: attention.processor for path, attention in attentions.items()}
        added = self.camera(camera_numbers(cameras).to(self.camera[0].weight))  # type: ignore[arg-type]
        handle = unet.time_embedding.register_forward_hook(_adding(added, views))
        try:
            for path, attention in attentions.items():
                attention.processor = _JointAttention(self.corrections[path.replace(".", "/")], views)
            yield
        finally:
            handle.remove()
            for path, attention in attentions.items():
                attention.processor = before[path]

    def save(self, folder: Path) -> None:
        """Write `config.json` and `adapter.safetensors` (float16)."""
        tensors = {name: value.half().cpu().contiguous() for name, value in self.state_dict().items()}
        with atomic_folder(folder) as target:
            save_file(tensors, target / _FILES[1])
            write_json(target / _FILES[0], {"widths": self.widths, "time_width": self.time_width})

    @staticmethod
    def load(folder: Path, device: str | torch.device = "cpu") -> "MultiViewAdapter":
        """Read what `save` wrote, as float32.

        Raises:
            ModelError: a file is missing.
        """
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{folder} is no multi-view adapter ({', '.join(missing)} missing); expected what save wrote."
            )
        settings = read_json(folder / _FILES[0])
        adapter = MultiViewAdapter({k: tuple(v) for k, v in settings["widths"].items()}, settings["time_width"])
        adapter.load_state_dict({name: value.float() for name, value in load_file(folder / _FILES[1]).items()})
        return adapter.to(device)


def camera_numbers(cameras: Cameras) -> Tensor:
    """Camera-to-world matrices as `b 16`, their positions at distance 1 from the origin: the scale must not matter."""
    matrix = cameras.camera_to_world.clone()
    matrix[:, :3, 3] = F.normalize(matrix[:, :3, 3], dim=1)
    return matrix.flatten(1)


class _Corrections(nn.Module):
    """What is added to a self-attention's projections; zero at first."""

    def __init__(self, outer: int, inner: int) -> None:
        super().__init__()
        sizes = {"q": (outer, inner), "k": (outer, inner), "v": (outer, inner), "out": (inner, outer)}
        self.layers = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})
        for layer in self.layers.values():
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]

    def forward(self, name: str, x: Tensor) -> Tensor:
        """The correction `q`, `k`, `v` or `out` for `b n d`, in the precision of `x`."""
        return F.linear(x, self.layers[name].weight.to(x.dtype))  # type: ignore[arg-type]


class _JointAttention:
    """Self-attention over the tokens of `views` consecutive rows."""

    def __init__(self, corrections: nn.Module, views: int) -> None:
        self.corrections, self.views = corrections, views

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
        base = {"q": attn.to_q, "k": attn.to_k, "v": attn.to_v}
        query, key, value = (
            (project(hidden_states) + self.corrections(name, hidden_states))
            .reshape(rows // self.views, self.views * tokens, attn.heads, -1)
            .transpose(1, 2)
            for name, project in base.items()
        )
        mixed = attend(query, key, value, attn.scale).transpose(1, 2).reshape(rows, tokens, -1)
        mixed = attn.to_out[1](attn.to_out[0](mixed) + self.corrections("out", mixed))
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
