"""A denoiser that draws a thing of one picture from another camera (Zero-1-to-3, Liu et al. 2023, arXiv 2303.11328).

The UNet of Stable Diffusion with eight input channels: four of the noisy view, four of the picture's latents, not
scaled. Its one context token is CLIP's embedding of the picture and four numbers of the camera, through a linear layer.
Folders are those of the diffusers conversions of Zero123 and Zero123-XL: `unet`, `vae`, `image_encoder`, `scheduler`
and `clip_camera_projection` (or `cc_projection`).
"""

import copy
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pcs_ext.config_io import atomic_folder, write_json
from pcs_ext.errors import ModelError, UsageError
from pcs_ext.image.backbones.hub import model_folder
from pcs_ext.image.backbones.load import assemble, load_strictly, read_json
from pcs_ext.image.backbones.unet import AbstractUnetBackbone, fingerprint
from pcs_ext.image.reference.encoder import PictureEncoder, open_encoder
from pcs_ext.image.types import Conditioning
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import choose_device, choose_dtype
from pcs_ext.threed.cameras import Cameras, Vector

POSE_NUMBERS = 4
_BESIDE = "photo"
"""Name of the picture's latents in `Conditioning.shown`."""
_PROJECTIONS = {"clip_camera_projection": "proj", "cc_projection": "projection"}
"""Folder of the linear layer -> its name in there; two conversions are around."""
_WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclasses.dataclass(frozen=True)
class Told:
    """What a view model reads of one picture, whatever the camera."""

    embedding: Tensor
    """CLIP's, before it is normalised, `1 d`."""
    latents: Tensor
    """`1 c h w`, not scaled by the autoencoder's factor: as Zero-1-to-3 was trained."""


class ViewModel(AbstractUnetBackbone):
    """A frozen view model; it has no words. Arguments as for `AbstractUnetBackbone`, and

    Args:
        encoder: CLIP's image half.
        projection: from embedding and pose, `d + 4` numbers, to the width of the UNet's context.
    """

    family = "view"

    def __init__(self, *, encoder: PictureEncoder, projection: nn.Linear, **parts: Any) -> None:
        super().__init__(text_encoders=(), tokenizers=(), **parts)
        self.encoder = encoder
        self._mark = f"{self._fingerprint} {fingerprint([projection])} {encoder.digest}"
        self.projection = projection.to(self.device, self.dtype).requires_grad_(False)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of UNet, autoencoder, projection and encoder."""
        return hashlib.sha256(self._mark.encode()).hexdigest()[:16]

    def encode_prompt(self, prompts: Sequence[str], *, size: tuple[int, int] | None = None) -> Conditioning:
        """Not possible.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.name} is a view model: it reads a picture and a camera, no words.")

    def token_count(self, prompt: str) -> int:
        """See `AbstractBackbone.token_count`: it reads none."""
        return 0

    def components(self) -> dict[str, nn.Module]:
        """The denoiser alone."""
        return {"denoiser": self.denoiser}

    def see(self, picture: Tensor) -> Told:
        """What is read of a picture `1 3 h w` in [-1, 1], the thing over white, of any size."""
        side = self.resolution
        square = functional.interpolate(picture, (side, side), mode="bilinear", antialias=True).clamp(-1, 1)
        with torch.no_grad():
            return Told(self.encoder(picture), self.encode_images(square) / self.vae.config["scaling_factor"])

    def conditioning(self, told: Told, poses: Tensor) -> Conditioning:
        """The picture and cameras as conditioning of `b` rows.

        Args:
            told: of `b` pictures, or of one for all.
            poses: `b 4`, from `pose_numbers`.
        """
        rows = len(poses)
        embedding = told.embedding.expand(rows, -1).to(self.projection.weight)
        token = self.projection(torch.cat([embedding, poses.to(embedding)], 1))[:, None]
        return Conditioning(states=token, shown={_BESIDE: told.latents.expand(rows, -1, -1, -1)})

    def nothing(self, like: Conditioning) -> Conditioning:
        """No picture and no camera: zeros in place of the token and of the latents."""
        return Conditioning(states=torch.zeros_like(like.states))

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """See `AbstractBackbone.predict`."""
        seen = (conditioning.shown or {}).get(_BESIDE)
        beside = torch.zeros_like(noisy_latents) if seen is None else seen.to(noisy_latents)
        return super().predict(torch.cat([noisy_latents, beside], 1), timesteps, conditioning)

    @staticmethod
    def of(backbone: AbstractUnetBackbone, encoder: PictureEncoder) -> "ViewModel":
        """A model to be trained, from a text-to-image UNet, in float32: the picture's channels begin at zero.

        The projection begins as the identity on the embedding, as far as the widths go, and reads the pose from the
        first step on (Zero-1-to-3's own start).
        """
        unet = _widened(backbone.denoiser)
        context = backbone.denoiser.config["cross_attention_dim"]
        projection = nn.Linear(encoder.width + POSE_NUMBERS, context)
        with torch.no_grad():
            projection.weight[:, : encoder.width] = torch.eye(context, encoder.width)
            projection.bias.zero_()
        return ViewModel(
            name=f"{backbone.name} as a view model",
            denoiser=unet,
            vae=copy.deepcopy(backbone.vae).float(),
            encoder=encoder,
            projection=projection,
            schedule=backbone.schedule,
            resolution=backbone.resolution,
            device=backbone.device,
            dtype=torch.float32,
        )

    def save(self, folder: Path) -> None:
        """Write the diffusers folder, float16. It appears whole or not at all."""
        half: Any = torch.float16
        with atomic_folder(folder) as target:
            copy.deepcopy(self.denoiser).to(half).save_pretrained(target / "unet")
            copy.deepcopy(self.vae).to(half).save_pretrained(target / "vae")
            _save_encoder(self.encoder, target)
            place = target / "clip_camera_projection"
            place.mkdir()
            tensors = {f"proj.{name}": value.half().cpu() for name, value in self.projection.state_dict().items()}
            save_file(tensors, place / _WEIGHTS)
            width, context = self.projection.in_features - POSE_NUMBERS, self.projection.out_features
            write_json(place / "config.json", {"embedding_dim": width, "additional_embeddings": 4, "context": context})
            write_json(target / "scheduler" / "scheduler_config.json", self._scheduler())
            write_json(target / "model_index.json", {"_class_name": "Zero123Pipeline", **_COMPONENTS})

    def _scheduler(self) -> dict[str, Any]:
        alphas = self.schedule.alphas_cumprod.double()
        before = torch.cat([alphas.new_ones(1), alphas[:-1]])
        return {
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": len(alphas),
            "prediction_type": self.schedule.prediction_type,
            "trained_betas": (1 - alphas / before).tolist(),
        }


_COMPONENTS = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}


def view_errors(
    model: ViewModel, clean: Tensor, noise: Tensor, timesteps: Tensor, told: Told, poses: Tensor, shown: Tensor
) -> Tensor:
    """Squared errors `b c h w` of what a view model predicts of noised views: what it learns by (Zero-1-to-3, eq. 1).

    Args:
        model: its UNet and projection may train; differentiable in both.
        clean: latents of the wanted views, `b c h w`, scaled.
        noise: likewise.
        timesteps: `b`.
        told: of `b` pictures.
        poses: `b 4`.
        shown: `b` bool; false in rows that are to learn without picture and camera, which guidance goes away from.
    """
    noisy = model.schedule.add_noise(clean, noise, timesteps)
    given = model.conditioning(told, poses)
    rows = shown.to(given.states)
    seen = {name: value * rows.to(value)[:, None, None, None] for name, value in (given.shown or {}).items()}
    given = Conditioning(states=given.states * rows[:, None, None], shown=seen)
    predicted = model.predict(noisy, timesteps, given).float()
    return (predicted - model.schedule.target(clean, noise, timesteps)).square()


def pose_numbers(cameras: Cameras, known: Cameras, target: Vector, unit: float) -> Tensor:
    """Where cameras stand as seen from a picture's own, `b 4`: the polar angle's change, sine and cosine of the
    azimuth's, radians, and the distance's (Zero-1-to-3, sec. 3.2 and its released code).

    Args:
        cameras: `b`.
        known: of the picture, one, or `b`.
        target: the point that all of them look at.
        unit: what a world unit is in those of the model's training.
    """
    polar = torch.deg2rad(known.elevation - cameras.elevation)
    turn = torch.deg2rad(cameras.azimuth - known.azimuth)
    away, near = ((one.positions - one.positions.new_tensor(target)).norm(dim=1) for one in (cameras, known))
    return torch.stack([polar, turn.sin(), turn.cos(), unit * (away - near)], 1)


def load_view_model(
    place: str | Path, *, device: str = "auto", precision: str = "auto", reporter: Reporter | None = None
) -> ViewModel:
    """A view model from a diffusers folder or a hub id, frozen.

    Raises:
        ModelError: it is nowhere, incomplete, damaged, or something else.
    """
    folder = _folder(place)
    for part in ("unet", "vae", "image_encoder", "scheduler"):
        if not (folder / part).is_dir():
            raise ModelError(f"{place} is no view model ({part}/ missing); expected {_EXPECTED}.")
    try:
        unet = load_strictly(UNet2DConditionModel, folder / "unet", dtype=torch.float32)
        vae = load_strictly(AutoencoderKL, folder / "vae", dtype=torch.float32)
        projection = _read_projection(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{place} is no view model ({str(error).splitlines()[0]}); expected {_EXPECTED}, all as safetensors."
        ) from None
    where = choose_device(device)
    encoder = open_encoder(folder / "image_encoder", "embedding", where)
    _check(place, unet, vae, encoder, projection)
    scheduler = read_json(folder, "scheduler/scheduler_config.json")
    parts = {"unet": unet, "vae": vae, "text_encoders": (), "tokenizers": (), "scheduler": scheduler, "family": "view"}

    def kind(*, text_encoders: Any, tokenizers: Any, **shared: Any) -> ViewModel:
        return ViewModel(encoder=encoder, projection=projection, **shared)

    model = assemble(str(place), parts, where, choose_dtype(precision, where), kind=kind)  # type: ignore[arg-type]
    (reporter or SilentReporter()).event("view-model", f"view model: {place}", path=str(place))
    assert isinstance(model, ViewModel)
    return model


_EXPECTED = "a diffusers folder of Zero123 with unet, vae, image_encoder, scheduler and clip_camera_projection"


def _folder(place: str | Path) -> Path:
    try:
        return model_folder(place)
    except ModelError:
        raise ModelError(
            f"{place} is neither a folder nor a view model in the hub cache, and could not be fetched; expected "
            f"{_EXPECTED}. On a machine with a connection run `hf download {place}`."
        ) from None


def _read_projection(folder: Path) -> nn.Linear:
    """The linear layer from embedding and pose to the context.

    Raises:
        ModelError: there is none as safetensors.
    """
    for name, prefix in _PROJECTIONS.items():
        files = sorted((folder / name).glob("*.safetensors"))
        if not files:
            continue
        try:
            tensors = {key: value for file in files for key, value in load_file(file).items()}
        except SafetensorError as error:
            raise ModelError(f"{folder / name} holds a damaged .safetensors file ({error}); copy it again.") from None
        weight, bias = (tensors.get(f"{prefix}.{end}") for end in ("weight", "bias"))
        if weight is None or bias is None:
            raise ModelError(f"{files[0]} holds no {prefix}.weight and {prefix}.bias; expected {_EXPECTED}.")
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight.float(), "bias": bias.float()})
        return layer
    raise ModelError(
        f"{folder} holds no {' or '.join(_PROJECTIONS)} with a .safetensors file; expected {_EXPECTED}. Pickles (.bin) "
        "are not loaded: convert them on a machine you can lose."
    )


def _check(place: str | Path, unet: Any, vae: Any, encoder: PictureEncoder, projection: nn.Linear) -> None:
    """See that the parts fit each other.

    Raises:
        ModelError: they do not.
    """
    latents = vae.config["latent_channels"]
    if unet.config["in_channels"] != 2 * latents or unet.config["out_channels"] != latents:
        raise ModelError(
            f"{place}: a view model's UNet reads {2 * latents} channels and writes {latents}, this one reads "
            f"{unet.config['in_channels']} and writes {unet.config['out_channels']}; expected {_EXPECTED}."
        )
    widths = (projection.in_features, projection.out_features)
    expected = (encoder.width + POSE_NUMBERS, unet.config["cross_attention_dim"])
    if widths != expected:
        raise ModelError(
            f"{place}: its camera projection is of {widths[0]} to {widths[1]} numbers, encoder and UNet want "
            f"{expected[0]} to {expected[1]}; expected {_EXPECTED}."
        )


def _widened(unet: Any) -> Any:
    """A copy with twice the input channels, the new ones read with zeros; float32."""
    config = {**unet.config, "in_channels": 2 * unet.config["in_channels"]}
    made: Any = UNet2DConditionModel.from_config(config)
    state = {name: value.float() for name, value in unet.state_dict().items()}
    state["conv_in.weight"] = torch.cat([state["conv_in.weight"], torch.zeros_like(state["conv_in.weight"])], 1)
    made.load_state_dict(state)
    return made


def _save_encoder(encoder: PictureEncoder, target: Path) -> None:
    """CLIP's image half and what stands before it, as their folders are published."""
    from transformers import CLIPVisionModelWithProjection

    vision: Any = encoder.model.config
    if vision.model_type == "clip":
        width = vision.projection_dim
        vision = copy.deepcopy(vision.vision_config)
        vision.projection_dim = width
    model: Any = CLIPVisionModelWithProjection(vision)
    kept = {key: value for key, value in encoder.model.state_dict().items() if key in model.state_dict()}
    model.load_state_dict(kept)
    nn.Module.to(model, torch.float16)
    model.save_pretrained(target / "image_encoder")
    config = json.loads((target / "image_encoder" / "config.json").read_text(encoding="utf-8"))
    write_json(target / "image_encoder" / "config.json", {**config, "dtype": "float32"})
    write_json(target / "image_encoder" / "preprocessor_config.json", _described(encoder))
    (target / "feature_extractor").mkdir()
    shutil.copy(
        target / "image_encoder" / "preprocessor_config.json", target / "feature_extractor" / "preprocessor_config.json"
    )


def _described(encoder: PictureEncoder) -> dict[str, Any]:
    """What stands before an encoder as a preprocessor_config.json."""
    made = encoder.preprocessing
    size = made.resize if not isinstance(made.resize, tuple) else {"height": made.resize[0], "width": made.resize[1]}
    crop = None if made.crop is None else {"height": made.crop[0], "width": made.crop[1]}
    return {
        "do_resize": made.resize is not None,
        "size": {"shortest_edge": size} if isinstance(size, int) else size,
        "resample": 3 if made.interpolation == "bicubic" else 2,
        "do_center_crop": crop is not None,
        "crop_size": crop,
        "do_normalize": True,
        "image_mean": list(made.mean),
        "image_std": list(made.std),
    }
