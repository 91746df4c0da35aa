"""A ControlNet that tells a denoiser what is behind a picture: normals or depth of the mesh in view, or coarse colours.

Any `ControlNetModel` of diffusers that fits the base. None is trained for the embedded base yet.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcs_ext.config_io import file_sha256
from pcs_ext.errors import ModelError, UsageError
from pcs_ext.image.backbones.load import load_strictly
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.threed.cameras import Cameras

ControlKind = Literal["normal", "depth", "tile"]
"""tile: the picture itself, coarse (ControlNet 1.1 tile)."""


class GeometryControl:
    """A ControlNet and what it is shown.

    Args:
        network: diffusers' model, frozen here.
        kind: which pictures it was trained on.
        scale: of its residuals, 0 or more.
    """

    def __init__(self, network: Any, kind: ControlKind, scale: float = 1.0) -> None:
        self.network, self.kind, self.scale = network.requires_grad_(False).eval(), kind, scale
        self.factor = 2 ** (len(network.config["conditioning_embedding_out_channels"]) - 1)
        """Pixels of its pictures per cell of latents: 8 unless the network was built otherwise."""

    @staticmethod
    def load(folder: Path, kind: ControlKind, backbone: AbstractUnetBackbone) -> "GeometryControl":
        """A ControlNet in a diffusers folder, on the backbone's device and in its precision.

        Raises:
            ModelError: no such folder, no safetensors in it, or one for a base of other widths.
        """
        from diffusers import ControlNetModel

        try:
            network = load_strictly(ControlNetModel, folder)
        except ModelError as error:
            raise ModelError(f"{folder} is no ControlNet in diffusers' layout: {error}") from None
        ours, theirs = (model.config["cross_attention_dim"] for model in (backbone.denoiser, network))
        if ours != theirs:
            raise ModelError(
                f"{folder} reads text states of width {theirs}, {backbone.name} writes {ours}; expected a ControlNet "
                "that was trained for this base."
            )
        return GeometryControl(nn.Module.to(network, backbone.device, backbone.dtype), kind)

    @contextlib.contextmanager
    def showing(self, backbone: AbstractUnetBackbone, pictures: Tensor) -> Iterator[None]:
        """Inside, every prediction of the backbone knows the geometry; afterwards it is as before.

        Args:
            backbone: whose denoiser gets the residuals.
            pictures: `b 3 h w` in [0, 1], of any size, from `normal_pictures` or `depth_pictures`. Batches of `predict`
                may repeat them as a whole, as guidance does.
        """

        def informed(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
            noisy, timesteps = given[:2]
            if len(noisy) % len(pictures):
                raise UsageError(f"expected a multiple of {len(pictures)} rows, got {len(noisy)}.")
            size = [self.factor * side for side in noisy.shape[2:]]
            shown = functional.interpolate(pictures, size, mode="bilinear", antialias=True)
            shown = shown.to(noisy).repeat(len(noisy) // len(pictures), 1, 1, 1)
            down, mid = self.network(
                noisy,
                timesteps,
                encoder_hidden_states=named["encoder_hidden_states"],
                controlnet_cond=shown,
                conditioning_scale=self.scale,
                added_cond_kwargs=named.get("added_cond_kwargs"),
                return_dict=False,
            )
            added = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": mid}
            return given, {**named, **added}

        handle = backbone.denoiser.register_forward_pre_hook(informed, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def check_control(kind: ControlKind, folder: Path | None, *, unless: ControlKind) -> None:
    """See that what a ControlNet reads is not chosen where there is none; `unless` is what is chosen by default.

    Raises:
        UsageError: it is.
    """
    if folder is None and kind != unless:
        raise UsageError(f"--control {kind} is about a ControlNet; give one, too: --controlnet FOLDER.")


def control_identity(folder: Path | None, kind: ControlKind) -> list[str] | None:
    """What decides a ControlNet's answers, for a job's identity: what it is shown, sha256 of its settings and weights.

    None: there is no ControlNet.
    """
    if folder is None:
        return None
    files = sorted(path for path in folder.glob("*") if path.name == "config.json" or path.suffix == ".safetensors")
    return [kind, *(file_sha256(path) for path in files)]


def normal_pictures(normals: Tensor, covered: Tensor, cameras: Cameras) -> Tensor:
    """World normals `b h w 3` as the pictures of ControlNet 1.1's normalbae: red left, green up, blue to the viewer.

    The axes are recalled, not read. Where nothing is, a wall faces the viewer; that is ours.

    Returns:
        `b 3 h w` in [0, 1].
    """
    local = torch.einsum("bhwi,bij->bhwj", normals, cameras.camera_to_world[:, :3, :3].to(normals))
    local = local * local.new_tensor([-1.0, 1.0, 1.0])
    wall = local.new_tensor([0.0, 0.0, 1.0])
    return (torch.where(covered[..., None], local, wall) * 0.5 + 0.5).permute(0, 3, 1, 2)


def depth_pictures(depth: Tensor, covered: Tensor) -> Tensor:
    """Depth `b h w` as grey pictures `b 3 h w` in [0, 1]: inverse depth, nearest white, farthest and empty black."""
    inverse = torch.where(covered, 1 / depth.clamp_min(1e-6), torch.zeros_like(depth))
    near = inverse.amax((1, 2), keepdim=True)
    far = torch.where(covered, inverse, near).amin((1, 2), keepdim=True)
    grey = torch.where(covered, (inverse - far) / (near - far).clamp_min(1e-9), torch.zeros_like(inverse))
    return grey[:, None].expand(-1, 3, -1, -1)
