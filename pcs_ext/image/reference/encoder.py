"""The frozen image encoder in front of a reference adapter: pictures -> one vector each, or one of every patch."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcs_ext.config_io import config_hash, file_sha256, read_json
from pcs_ext.errors import ModelError
from pcs_ext.image.evaluate.encoders import Preprocessing, load_image_encoder
from pcs_ext.image.reference.base import Sees

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's published preprocessing: folders of IP-Adapter's image encoders hold no file that says so."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureEncoder:
    """A CLIP, DINO, ViT or ResNet from a transformers folder, read before its output is normalised."""

    id: str
    """Folder name and 8 hex digits of the weights."""
    digest: str
    """Those digits."""
    sees: Sees
    model: Any
    preprocessing: Preprocessing
    device: torch.device
    output: str
    """`projected` (CLIP), `class_token` or `pooled`: which output is the picture's embedding."""

    @property
    def width(self) -> int:
        """Of the vectors."""
        return width_of(self.model.config.to_dict(), self.sees)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Pictures `b 3 h w` in [-1, 1] -> `b d` or `b n d`, float32. Not differentiable."""
        return self._read(self.preprocessing(images.to(self.device)))

    @torch.no_grad()
    def blank(self, features: Tensor) -> Tensor:
        """Features of no picture, shaped like `features`: what an adapter is shown where guidance goes away from.

        Zeros for the embedding; for patches what the encoder makes of an input of zeros, a picture of the mean colour
        (both as diffusers' pipelines have it).
        """
        if self.sees == "embedding":
            return torch.zeros_like(features)
        side = self.preprocessing(torch.zeros(1, 3, 64, 64)).shape[-2:]
        return self._read(torch.zeros(1, 3, *side, device=self.device)).expand_as(features).to(features)

    def _read(self, pixels: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            if self.sees == "patches":
                return _patches(self.model, pixels)
            if self.output == "projected":
                pooled = self.model.vision_model(pixel_values=pixels).pooler_output
                return self.model.visual_projection(pooled).float()
            outputs = self.model(pixel_values=pixels)
            token = self.output == "class_token"
            return (outputs.last_hidden_state[:, 0] if token else outputs.pooler_output.flatten(1)).float()


def _patches(model: Any, pixels: Tensor) -> Tensor:
    """The last but one layer's states (IP-Adapter plus), or the last map of a convolutional network."""
    model = getattr(model, "vision_model", model)
    states = model(pixel_values=pixels, output_hidden_states=True).hidden_states
    return states[-1].flatten(2).transpose(1, 2).float() if states[-1].dim() == 4 else states[-2].float()


def open_encoder(folder: Path, sees: Sees, device: torch.device | str = "cpu") -> PictureEncoder:
    """Load an encoder.

    Args:
        folder: of a transformers model: CLIP (whole, or its vision half), DINO, DINOv2, ViT, ResNet.
        sees: what is read of it.
        device: where it runs.

    Raises:
        ModelError: a file is missing, or the model is of another kind.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json; expected the folder of a transformers image encoder.")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no .safetensors file; pickles (.bin) are not loaded. Fetch the safetensors.")
    digest = config_hash([file_sha256(path) for path in files])[:8]
    if read_json(folder / "config.json").get("model_type") == "clip_vision_model":
        model, preprocessing = _vision_half(folder)
        output = "projected"
    else:
        loaded: Any = load_image_encoder(folder)
        model, preprocessing, output = loaded.model, loaded.preprocessing, getattr(loaded, "output", "projected")
    model = model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
    return PictureEncoder(
        id=f"{folder.resolve().name} ({digest})",
        digest=digest,
        sees=sees,
        model=model,
        preprocessing=preprocessing,
        device=torch.device(device),
        output=output,
    )


def _vision_half(folder: Path) -> tuple[Any, Preprocessing]:
    from transformers import CLIPVisionModelWithProjection

    loader: Any = CLIPVisionModelWithProjection
    model, info = loader.from_pretrained(folder, local_files_only=True, use_safetensors=True, output_loading_info=True)
    if info["missing_keys"]:
        raise ModelError(f"{folder} lacks {len(info['missing_keys'])} weights; fetch the image encoder again.")
    described = folder / "preprocessor_config.json"
    if described.is_file():
        return model, Preprocessing.from_config(read_json(described), str(described))
    side = int(model.config.image_size)
    return model, Preprocessing(resize=side, crop=(side, side), mean=_CLIP_MEAN, std=_CLIP_STD)


def width_of(described: dict[str, Any], sees: Sees) -> int:
    """Width of an encoder's vectors, by its config.json."""
    vision = described.get("vision_config") or described
    if sees == "embedding" and described.get("model_type") in ("clip", "clip_vision_model"):
        return int(described["projection_dim"])
    return int(vision["hidden_size"] if "hidden_size" in vision else vision["hidden_sizes"][-1])
