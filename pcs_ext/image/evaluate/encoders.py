"""Image and text encoders for metrics: any CLIP, DINO, ViT or ResNet in a transformers folder, by path.

Preprocessing is done in torch (resize, centre crop, normalise, as the folder's `preprocessor_config.json` says), so
that scores depend on the folder alone and not on the version of an image library.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcs_ext.config_io import config_hash, file_sha256, read_json
from pcs_ext.errors import ModelError
from pcs_ext.image.backbones.clip_tokenizer import read_clip_tokenizer
from pcs_ext.image.backbones.weight_files import weight_files

# model_type in config.json -> which output is the image's embedding. "class_token" is what DINO papers compare,
# "pooled" the globally averaged last map of a convolutional network.
_IMAGE_OUTPUT = {
    "vit": "class_token",
    "dinov2": "class_token",
    "dinov2_with_registers": "class_token",
    "dinov3_vit": "class_token",
    "resnet": "pooled",
    "convnext": "pooled",
    "convnextv2": "pooled",
}
# PIL's numbers, which is what preprocessor configs store.
_INTERPOLATION = {2: "bilinear", 3: "bicubic"}


class ImageEncoder(Protocol):
    """Turns images into unit vectors whose dot product is their similarity."""

    @property
    def id(self) -> str:
        """What a figure names: folder name, model type, and 8 hex digits of the weights."""
        ...

    def encode_images(self, images: Tensor) -> Tensor:
        """Images `b 3 h w` in [-1, 1] -> unit embeddings `b d`, float32. Differentiable."""
        ...


class ImageTextEncoder(ImageEncoder, Protocol):
    """An image encoder that puts texts into the same space."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit embeddings `b d`, float32. Texts over the encoder's limit are cut."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, centre crop and normalisation in front of an encoder."""

    resize: int | tuple[int, int] | None
    """Shortest edge, or height and width, in pixels; None: keep the size."""
    crop: tuple[int, int] | None
    """Height and width of the centre crop after resizing; None: no crop."""
    mean: tuple[float, float, float]
    """Subtracted per channel, for images in [0, 1]."""
    std: tuple[float, float, float]
    """Divided by per channel."""
    interpolation: str = "bicubic"
    """`bicubic` or `bilinear`, antialiased."""

    def __call__(self, images: Tensor) -> Tensor:
        """Images `b 3 h w` in [-1, 1] -> encoder input `b 3 H W`, float32. Differentiable."""
        pixels = (images.float().clamp(-1, 1) + 1) / 2
        size = self._target_size(pixels.shape[-2], pixels.shape[-1])
        if size != tuple(pixels.shape[-2:]):
            pixels = functional.interpolate(pixels, size=size, mode=self.interpolation, antialias=True).clamp(0, 1)
        if self.crop is not None:
            pixels = _centre_crop(pixels, self.crop)
        mean, std = (torch.tensor(v, device=pixels.device).reshape(1, 3, 1, 1) for v in (self.mean, self.std))
        return (pixels - mean) / std

    def _target_size(self, height: int, width: int) -> tuple[int, int]:
        if self.resize is None:
            return height, width
        if isinstance(self.resize, tuple):
            return self.resize
        # The longer edge is cut down to an integer, as the processors these configs were written for do.
        short = min(height, width)
        return int(self.resize * height / short), int(self.resize * width / short)

    @staticmethod
    def from_config(data: Mapping[str, Any], where: str) -> "Preprocessing":
        """Read the fields of a `preprocessor_config.json`.

        Raises:
            ModelError: a field is missing or asks for something not supported here.
        """
        resample = data.get("resample", 3)
        if resample not in _INTERPOLATION:
            raise ModelError(
                f"{where}: resample is {resample!r}; expected 2 (bilinear) or 3 (bicubic). Edit the file to 3."
            )
        if data.get("do_normalize", True) and not ("image_mean" in data and "image_std" in data):
            raise ModelError(f"{where}: expected image_mean and image_std; get the file that belongs to the weights.")
        normalised = data.get("do_normalize", True)
        resize, crop = _sizes(data, where)
        return Preprocessing(
            resize=resize,
            crop=crop,
            mean=tuple(data["image_mean"]) if normalised else (0.0, 0.0, 0.0),
            std=tuple(data["image_std"]) if normalised else (1.0, 1.0, 1.0),
            interpolation=_INTERPOLATION[resample],
        )


_WARPED = 384
"""From this side on, ConvNeXT's processors resize to a square instead of cutting one out."""


def _sizes(data: Mapping[str, Any], where: str) -> tuple[int | tuple[int, int] | None, tuple[int, int] | None]:
    """What to resize to and what to cut out of the middle, as the processor that a file was written by does."""
    kind = str(data.get("image_processor_type") or data.get("feature_extractor_type") or "")
    crop = _size(data.get("crop_size"), where) if data.get("do_center_crop") else None
    crop = (crop, crop) if isinstance(crop, int) else crop
    size = _size(data.get("size"), where) if data.get("do_resize", True) else None
    if isinstance(size, int) and ("crop_pct" in data or kind.startswith("ConvNext")):
        # ResNet's and ConvNeXT's: the picture is cut out of a larger one.
        share = data.get("crop_pct") or 224 / 256
        return (int(size / share), (size, size)) if size < _WARPED else ((size, size), crop)
    if isinstance(size, int) and kind.startswith("ViT"):
        return (size, size), crop  # a number is both sides to the processors of ViT and DINO, the short one to CLIP's
    return size, crop


def _size(value: Any, where: str) -> int | tuple[int, int]:
    if isinstance(value, int):
        return value
    if isinstance(value, Mapping) and "shortest_edge" in value:
        return int(value["shortest_edge"])
    if isinstance(value, Mapping) and {"height", "width"} <= set(value):
        return int(value["height"]), int(value["width"])
    raise ModelError(f"{where}: size is {value!r}; expected a number, shortest_edge, or height and width.")


def _centre_crop(pixels: Tensor, crop: tuple[int, int]) -> Tensor:
    top, left = (have - want for have, want in zip(pixels.shape[-2:], crop, strict=True))
    # Negative where the crop is larger than the image: `pad` then fills with zeros.
    pixels = functional.pad(
        pixels, [max(-left, 0) // 2, (max(-left, 0) + 1) // 2, max(-top, 0) // 2, (max(-top, 0) + 1) // 2]
    )
    top, left = max(top, 0) // 2, max(left, 0) // 2
    return pixels[..., top : top + crop[0], left : left + crop[1]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformersImageEncoder:
    """An image-only encoder (DINO, DINOv2, ViT, ResNet...) from a transformers folder."""

    id: str
    model: nn.Module
    preprocessing: Preprocessing
    output: str
    """`class_token` or `pooled`."""
    device: torch.device

    def encode_images(self, images: Tensor) -> Tensor:
        """See `ImageEncoder`."""
        outputs = self.model(pixel_values=self.preprocessing(images.to(self.device)))
        features = outputs.last_hidden_state[:, 0] if self.output == "class_token" else outputs.pooler_output.flatten(1)
        return functional.normalize(features.float(), dim=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipEncoder:
    """A CLIP pair from a transformers folder."""

    id: str
    model: Any
    """`transformers.CLIPModel`."""
    tokenizer: Any
    """`transformers.CLIPTokenizer`."""
    preprocessing: Preprocessing
    device: torch.device

    def encode_images(self, images: Tensor) -> Tensor:
        """See `ImageEncoder`."""
        pooled = self.model.vision_model(pixel_values=self.preprocessing(images.to(self.device))).pooler_output
        return functional.normalize(self.model.visual_projection(pooled).float(), dim=-1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """See `ImageTextEncoder`."""
        limit = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        )
        pooled = self.model.text_model(
            input_ids=tokens.input_ids.to(self.device), attention_mask=tokens.attention_mask.to(self.device)
        ).pooler_output
        return functional.normalize(self.model.text_projection(pooled).float(), dim=-1)


def load_image_encoder(folder: Path, device: torch.device | str = "cpu") -> TransformersImageEncoder | ClipEncoder:
    """Load the encoder of a transformers folder; CLIP folders give a `ClipEncoder`.

    Raises:
        ModelError: a file is missing, or the model's type is not one that is known to embed images.
    """
    from transformers import AutoModel

    kind = _model_type(folder)
    if kind == "clip":
        return load_image_text_encoder(folder, device)
    if kind not in _IMAGE_OUTPUT:
        known = ", ".join(["clip", *_IMAGE_OUTPUT])
        raise ModelError(f"{folder / 'config.json'}: model_type is {kind!r}; expected one of {known}.")
    preprocessing = _preprocessing(folder)
    # A ViT's pooler is a head that DINO weights do not carry; transformers would make a random one and warn.
    options = {"add_pooling_layer": False} if kind == "vit" else {}
    weight_files(folder)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, **options)
    return TransformersImageEncoder(
        id=_encoder_id(folder, kind),
        model=_frozen(model, device),
        preprocessing=preprocessing,
        output=_IMAGE_OUTPUT[kind],
        device=torch.device(device),
    )


def load_image_text_encoder(folder: Path, device: torch.device | str = "cpu") -> ClipEncoder:
    """Load the CLIP pair of a transformers folder (model, tokenizer and preprocessor config).

    Raises:
        ModelError: a file is missing, or the folder holds no CLIP.
    """
    from transformers import CLIPModel

    kind = _model_type(folder)
    if kind != "clip":
        raise ModelError(
            f"{folder / 'config.json'}: model_type is {kind!r}; expected clip, which pairs images and texts."
        )
    preprocessing = _preprocessing(folder)
    weight_files(folder)
    model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    return ClipEncoder(
        id=_encoder_id(folder, kind),
        model=_frozen(model, device),
        tokenizer=read_clip_tokenizer(folder),
        preprocessing=preprocessing,
        device=torch.device(device),
    )


def _frozen(model: nn.Module, device: torch.device | str) -> nn.Module:
    return model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)


def _model_type(folder: Path) -> str:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{path} does not exist; expected the folder of a transformers model (config.json, "
            "model.safetensors, preprocessor_config.json). Give the folder's path."
        )
    return str(_object(path).get("model_type"))


def _object(path: Path) -> Mapping[str, Any]:
    data = read_json(path)
    if not isinstance(data, Mapping):
        raise ModelError(f"{path} holds a {type(data).__name__}, expected the settings of a transformers model.")
    return data


def _preprocessing(folder: Path) -> Preprocessing:
    path, combined = folder / "preprocessor_config.json", folder / "processor_config.json"
    if path.is_file():
        return Preprocessing.from_config(_object(path), str(path))
    if combined.is_file() and "image_processor" in (data := _object(combined)):
        return Preprocessing.from_config(data["image_processor"], str(combined))
    raise ModelError(
        f"{path} does not exist; expected it beside the weights. Copy it from where the weights came from."
    )


def _encoder_id(folder: Path, kind: str) -> str:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"{folder / 'model.safetensors'} does not exist; expected weights as safetensors there.")
    # Name and kind tell people which encoder it was; the digits tell two trainings of it apart.
    digest = config_hash([file_sha256(path) for path in weights])
    return f"{folder.resolve().name} ({kind}, {digest[:8]})"
