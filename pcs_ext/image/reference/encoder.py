"""The frozen image encoder in front of a reference adapter: pictures -> a vector, one of every patch, or of layers."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config_hash, file_sha256, read_json
from pcs_ext.errors import ModelError
from pcs_ext.image.data import Photo
from pcs_ext.image.evaluate.encoders import ClipEncoder, Preprocessing, load_image_encoder
from pcs_ext.image.reference.shown import Sees, Sight

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
    depths: tuple[float, ...] = ()
    """Where layers are seen: which, as shares of all, 1 the last."""
    texts: Callable[[Sequence[str]], Tensor] | None = None
    """Texts -> vectors `b d` of length 1, beside those of pictures, where the folder holds CLIP's text tower, too."""
    scrambled: bool = False
    """Whether pictures are seen with their patches out of order, each time in the same one."""

    @property
    def width(self) -> int:
        """Of the vectors."""
        return width_of(self.model.config.to_dict(), self.sees)

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers that are seen, from 1, in the order of `depths`; a layer is seen once."""
        return tuple(dict.fromkeys(max(1, round(share * layer_count(self.model.config))) for share in self.depths))

    @property
    def places(self) -> int:
        """How many vectors every layer has, where layers are seen; else 1."""
        return self(torch.zeros(1, 3, 64, 64)).shape[-2] if self.sees == "layers" else 1

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Pictures `b 3 h w` in [-1, 1] -> `b d`, `b k d` or `b l k d`, float32. Not differentiable."""
        return self.differentiable(images)

    def differentiable(self, images: Tensor) -> Tensor:
        """The same, with a graph back to the pictures."""
        return self._read(self.preprocessing(images.to(self.device)))

    def sight(self, images: Tensor, masks: Tensor | None, *, cut: bool) -> Sight:
        """What is seen of pictures.

        Args:
            images: `b 3 h w` in [-1, 1].
            masks: where what they are shown for is, `b 1 h w` in [0, 1]; None: not known.
            cut: also look at it alone, black around it, where masks are known.
        """
        features = self(images)
        if masks is None or not cut:
            return Sight(features=features)
        kept = (masks > 0.5).to(images)
        return Sight(features=features, cut=self(images * kept - (1 - kept)), cover=self._cover(kept, features))

    def of_files(self, photos: Sequence[Photo]) -> Sight | None:
        """What files beside photos say of how they are seen; None: they are looked at."""
        return None

    def _cover(self, kept: Tensor, features: Tensor) -> Tensor:
        """`b p`: which patches the mask touches, through the encoder's own resizing and cropping."""
        plain = dataclasses.replace(self.preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear")
        seen = plain(2 * kept.expand(-1, 3, -1, -1).float() - 1)[:, :1]
        count = 1 if self.sees == "embedding" else features.shape[-2]
        side = math.isqrt(count if self.output == "pooled" else max(count - 1, 1))
        return F.adaptive_max_pool2d((seen > 0.5).float(), side).flatten(1).to(self.device)

    @torch.no_grad()
    def blank(self, features: Tensor) -> Tensor:
        """Features of no picture, shaped like `features`: what an adapter is shown where guidance goes away from.

        Zeros for the embedding; for patches and layers what the encoder makes of an input of zeros, a picture of the
        mean colour (both as diffusers' pipelines have it).
        """
        if self.sees == "embedding":
            return torch.zeros_like(features)
        side = self.preprocessing(torch.zeros(1, 3, 64, 64)).shape[-2:]
        return self._read(torch.zeros(1, 3, *side, device=self.device)).expand_as(features).to(features)

    def blank_sight(self, sight: Sight) -> Sight:
        """No picture, shaped like `sight`; its details stay, for they say where, and guidance shall not change that."""
        return Sight(
            features=self.blank(sight.features),
            cut=None if sight.cut is None else self.blank(sight.cut),
            cover=None if sight.cover is None else torch.zeros_like(sight.cover),
            detail=sight.detail,
            latents=None if sight.latents is None else torch.zeros_like(sight.latents),
            cells=None if sight.cells is None else torch.zeros_like(sight.cells),
        )

    def _read(self, pixels: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            if self.scrambled:
                pixels = scramble(pixels, patch_side(self.model.config))
            if self.sees == "patches":
                return _patches(self.model, pixels)
            if self.sees == "layers":
                return _layers(self.model, pixels, self.layers)
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


def _layers(model: Any, pixels: Tensor, numbers: Sequence[int]) -> Tensor:
    """States of those layers, counted from 1, `b l k d`; without the register tokens of newer DINOs."""
    model = getattr(model, "vision_model", model)
    states = model(pixel_values=pixels, output_hidden_states=True).hidden_states
    seen = torch.stack([states[number] for number in numbers], dim=1).float()
    registers = getattr(model.config, "num_register_tokens", 0)
    return torch.cat([seen[:, :, :1], seen[:, :, 1 + registers :]], dim=2)


def masks_of(photos: Sequence[Photo]) -> list[Tensor | None]:
    """Of each photo where its subject is, `1 h w` in [0, 1]: everywhere in one without a mask beside one with it, so
    that they can be seen together; None for all, where no mask is known."""
    if all(photo.mask is None for photo in photos):
        return [None] * len(photos)
    return [torch.ones_like(photo.image[:1]) if photo.mask is None else photo.mask for photo in photos]


def patch_side(config: Any) -> int:
    """Pixels along a patch of a vision transformer.

    Raises:
        ModelError: it is none.
    """
    side = getattr(getattr(config, "vision_config", config), "patch_size", None)
    if not isinstance(side, int):
        raise ModelError(
            f"the adapter reads pictures whose patches are out of order, and a {config.model_type} has none; pass a "
            "CLIP, DINO or ViT (of toybox: --encoder toybox/clip)."
        )
    return side


def scramble(pixels: Tensor, side: int) -> Tensor:
    """Pictures `b c h w` with their patches of `side` pixels in an order drawn once for all.

    To a vision transformer this is what other positions for the same patches are (StyleAdapter, arXiv 2309.01770):
    textures stay, things are taken apart.
    """
    rows, columns = pixels.shape[2] // side, pixels.shape[3] // side
    whole = pixels[:, :, : rows * side, : columns * side]
    patches = whole.unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(2, 4, 0, 1, 3, 5).flatten(0, 1)
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(0)).to(pixels.device)
    mixed = patches[order].unflatten(0, (rows, columns)).permute(2, 3, 0, 4, 1, 5).flatten(4, 5).flatten(2, 3)
    out = pixels.clone()
    out[:, :, : rows * side, : columns * side] = mixed
    return out


def layer_count(config: Any) -> int:
    """How many layers a transformer has.

    Raises:
        ModelError: it is none.
    """
    vision = getattr(config, "vision_config", config)
    count = getattr(vision, "num_hidden_layers", None)
    if count is None:
        raise ModelError(
            f"the adapter reads layers of a transformer, and a {config.model_type} is convolutional; pass a CLIP, DINO "
            "or ViT (of toybox: --encoder toybox/clip)."
        )
    return int(count)


def open_encoder(
    folder: Path,
    sees: Sees,
    device: torch.device | str = "cpu",
    *,
    depths: Sequence[float] = (),
    scrambled: bool = False,
) -> PictureEncoder:
    """Load an encoder.

    Args:
        folder: of a transformers model: CLIP (whole, or its vision half), DINO, DINOv2, ViT, ResNet.
        sees: what is read of it.
        device: where it runs.
        depths: which layers, where layers are seen.
        scrambled: whether patches are put out of order.

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
        output, texts = "projected", None
    else:
        loaded: Any = load_image_encoder(folder)
        pair = isinstance(loaded, ClipEncoder)
        texts = torch.no_grad()(dataclasses.replace(loaded, device=torch.device(device)).encode_texts) if pair else None
        model, preprocessing, output = loaded.model, loaded.preprocessing, getattr(loaded, "output", "projected")
    model = model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
    if sees == "layers":
        layer_count(model.config)
    if scrambled:
        patch_side(model.config)
    return PictureEncoder(
        id=f"{folder.resolve().name} ({digest})",
        digest=digest,
        sees=sees,
        model=model,
        preprocessing=preprocessing,
        device=torch.device(device),
        output=output,
        depths=tuple(depths),
        texts=texts,
        scrambled=scrambled,
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
