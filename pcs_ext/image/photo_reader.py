"""What a CLIP makes of training photos, for adapters that look at them."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.errors import ConfigError, ModelError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.image_residual import ImageResidualAdapter
from pcs_ext.image.adapters.image_words import ImageWordsAdapter
from pcs_ext.image.backbones.hub import hub_folder
from pcs_ext.image.backbones.load import TOYBOX_WEIGHTS
from pcs_ext.image.evaluate.encoders import ClipEncoder, load_image_text_encoder
from pcs_ext.image.types import Batch

_WHERE = "the adapter's part of the JSON of --dry-run, and its projection_dim as `width`, and pass it with --config"


class PhotoReader:
    """Image features before they are normalised, kept by `Batch.keys`.

    Args:
        encoder: see `load_photo_encoder`.
        width: of its features, as the adapter says.
        device: where it runs.

    Raises:
        ModelError: there is no such encoder.
        ConfigError: its features have another width than the configuration says.
    """

    def __init__(self, encoder: str, width: int, device: torch.device) -> None:
        self.clip = load_photo_encoder(encoder, device)
        own = self.clip.model.visual_projection.weight.shape[0]
        if own != width:
            raise ConfigError(f"features of {encoder} have width {own}; the adapter's width is {width}.")
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """`b d`, float32."""
        if batch.keys is None:
            return self.read(batch.images)
        for key, image in zip(batch.keys, batch.images, strict=True):
            if key not in self._known:
                self._known[key] = self.read(image[None])[0]
        return torch.stack([self._known[key] for key in batch.keys])

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """Features `b d`, float32, of images `b 3 h w`."""
        pixels = self.clip.preprocessing(images.to(self.clip.device))
        with torch.autocast(self.clip.device.type, enabled=False):
            return self.clip.model.visual_projection(self.clip.model.vision_model(pixel_values=pixels).pooler_output)


def reader_for(adapters: Iterable[AbstractAdapter], device: torch.device) -> PhotoReader | None:
    """For the adapters that look at photos; None: none does.

    Raises:
        ConfigError: they ask for different encoders.
    """
    configs = [adapter.config for adapter in adapters if isinstance(adapter, (ImageResidualAdapter, ImageWordsAdapter))]
    asked = sorted({(config.encoder, config.width) for config in configs})
    if len(asked) > 1:
        named = " and ".join(f"{encoder} ({width})" for encoder, width in asked)
        raise ConfigError(
            f"adapters of one recipe look at photos with one encoder, got {named}; set the same `encoder` and `width` "
            "in all of them."
        )
    return PhotoReader(*asked[0], device) if asked else None


def load_photo_encoder(encoder: str, device: torch.device) -> ClipEncoder:
    """The CLIP that a recipe's settings name: `toybox`, a transformers folder or a hub id.

    Raises:
        ModelError: there is none.
    """
    return load_image_text_encoder(encoder_folder(encoder, "the recipe", _WHERE), device)


def encoder_folder(encoder: str, who: str, where: str) -> Path:
    """The folder of an encoder that settings name: toybox (its CLIP), a folder, or a hub id.

    Args:
        encoder: what they name; `toybox/NAME` is another encoder of its than the CLIP.
        who: needs it, for the message.
        where: which settings, for the message.

    Raises:
        ModelError: it is nowhere.
    """
    if encoder == "toybox":
        return TOYBOX_WEIGHTS / "clip"
    if encoder.startswith("toybox/"):
        return TOYBOX_WEIGHTS / encoder.removeprefix("toybox/")
    if Path(encoder).is_dir():
        return Path(encoder)
    try:
        return hub_folder(encoder)
    except ModelError:
        raise ModelError(
            f"{who} looks at photos with {encoder}, which is neither a folder nor in the hub cache, and could not be "
            f"fetched. On a machine with a connection run `hf download {encoder}`, or write a CLIP's folder "
            f"(transformers layout) as `encoder` into {where}."
        ) from None
