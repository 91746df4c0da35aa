"""From what a user types to a backbone: toybox, a diffusers folder, a hub id, or one `.safetensors` file."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from packaging.version import Version
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from pcs_ext.errors import ModelError
from pcs_ext.image.backbones.clip_tokenizer import read_clip_tokenizer
from pcs_ext.image.backbones.hub import model_folder
from pcs_ext.image.backbones.sd import StableDiffusionBackbone
from pcs_ext.image.backbones.sdxl import SDXLBackbone
from pcs_ext.image.backbones.single_file import load_single_file
from pcs_ext.image.backbones.unet import AbstractUnetBackbone, is_inpainting
from pcs_ext.image.backbones.weight_files import weight_files
from pcs_ext.image.noise import NoiseSchedule
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import choose_device, choose_dtype

TOYBOX_WEIGHTS = Path(__file__).parents[2] / "toybox" / "weights"
"""Folder of the embedded models: `base`, `clip`, `dino`..."""
_TOYBOX = TOYBOX_WEIGHTS / "base"
PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}
"""Suffixes of files that can run code when they are loaded."""
_NOTE = (
    "base: toybox, the small demonstration model that ships with pcs_ext (64 px toys). "
    "For real photos pass --base with a hub id, a diffusers folder or a .safetensors file."
)


def load_backbone(
    base: str | Path, *, device: str = "auto", precision: str = "auto", reporter: Reporter | None = None
) -> AbstractUnetBackbone:
    """Load a base model, frozen, in eval mode.

    Args:
        base: `toybox`, a diffusers folder, a `.safetensors` file in the original Stable Diffusion or SDXL layout, or
            a hub id such as `stable-diffusion-v1-5/stable-diffusion-v1-5`.
        device: auto, cuda, mps or cpu.
        precision: auto, fp32, bf16 or fp16.
        reporter: told what was chosen.

    Raises:
        ModelError: the model is missing, incomplete, damaged or a pickle; names the file and how to get it.
    """
    reporter = reporter or SilentReporter()
    place = choose_device(device)
    dtype = choose_dtype(precision, place)
    path = _TOYBOX if str(base) == "toybox" else Path(base).expanduser()
    if path.suffix in PICKLES:
        raise ModelError(
            f"{path} is a pickle, which can run code when it is loaded; expected .safetensors. Convert it on a machine "
            "you can lose: load it with torch.load(weights_only=True) and write it with safetensors.torch.save_file."
        )
    try:
        if path.suffix == ".safetensors":
            parts = load_single_file(path)
        else:
            parts = load_folder(path if path == _TOYBOX else model_folder(base))
    except SafetensorError as error:
        raise ModelError(f"a weight file of {base} is damaged ({error}); fetch it again.") from None
    # What is learned here names its base, and is used from other folders, too.
    named = str(path.resolve()) if path.exists() and path != _TOYBOX else str(base)
    backbone = assemble(named, parts, place, dtype)
    if str(base) == "toybox":
        reporter.event("base", _NOTE)
    reporter.event("device", f"device: {place}, precision: {str(dtype).removeprefix('torch.')}", device=str(place))
    return backbone


def load_folder(folder: Path, *, denoiser: Any = UNet2DConditionModel) -> dict[str, Any]:
    """The parts of a diffusers pipeline folder, as `assemble` takes them; weights as they are stored.

    Args:
        folder: with `model_index.json`.
        denoiser: diffusers class of `unet/`.

    Raises:
        ModelError: a part is missing, incomplete or damaged.
    """
    index = read_json(folder, "model_index.json")
    _check_kind(folder, index, denoiser)
    for component in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        if not (folder / component).is_dir():
            raise ModelError(f"{folder} has no folder {component}/; expected a complete diffusers pipeline folder.")
    double = index.get("text_encoder_2", [None])[0] is not None
    weighted = ["unet", "vae", "text_encoder", *(["text_encoder_2"] if double else [])]
    for component in weighted:
        weight_files(folder / component)
    encoders = [load_strictly(CLIPTextModel, folder / "text_encoder")]
    tokenizers = [read_clip_tokenizer(folder / "tokenizer")]
    if double:
        encoders.append(load_strictly(CLIPTextModelWithProjection, folder / "text_encoder_2"))
        tokenizers.append(read_clip_tokenizer(folder / "tokenizer_2"))
    return {
        "family": "sdxl" if double else "sd",
        "zeros_for_nothing": index.get("force_zeros_for_empty_prompt", True),
        "unet": load_strictly(denoiser, folder / "unet"),
        "vae": load_strictly(AutoencoderKL, folder / "vae"),
        "text_encoders": encoders,
        "tokenizers": tokenizers,
        "scheduler": read_json(folder, "scheduler/scheduler_config.json"),
    }


def _check_kind(folder: Path, index: dict[str, Any], denoiser: Any) -> None:
    """See that a pipeline is one of those that are known, before anything is found missing in it."""
    got = next(
        ((index.get(part) or [None, None])[1] for part in ("unet", "transformer", "prior") if part in index), None
    )
    if got in (None, denoiser.__name__):
        return
    clips = " It makes clips, which is what `pcs-ext video` is for." if got == "UNet3DConditionModel" else ""
    raise ModelError(
        f"{folder} is a {index.get('_class_name', 'pipeline')}, which denoises with a {got}; expected Stable Diffusion "
        f"1.x, 2.x or SDXL.{clips}"
    )


def load_strictly(model: Any, folder: Path, *, dtype: torch.dtype | None = None) -> Any:
    """Load a component; weights that are missing are an error here, where the libraries would make random ones up.

    Args:
        model: class of diffusers or transformers.
        folder: of the component; of its weights the full ones are read, or a variant (fp16) where there are none.
        dtype: of the weights; None: as they are stored, so that nothing is in memory wider than on disk.

    Raises:
        ModelError: weights are missing, damaged or of other shapes than the configuration says.
    """
    weights = weight_files(folder)
    read_json(folder, "config.json")
    for file in weights.files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise ModelError(f"{file} is damaged or was fetched in part ({error}); fetch it again.") from None
    # diffusers came to call it dtype, as transformers does, and warns of the name it had before.
    old = model.__module__.startswith("diffusers.") and Version(diffusers.__version__) < Version("0.42")
    options = {"variant": weights.variant, "torch_dtype" if old else "dtype": dtype or weights.dtype}
    try:
        loaded, info = model.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "size mismatch" not in str(error):
            raise
        raise ModelError(
            f"{folder} does not load as {model.__name__} ({str(error).splitlines()[0]}); expected weights of the "
            "shapes that its config.json gives. Fetch the model again."
        ) from None
    if info["missing_keys"]:
        names = ", ".join(sorted(info["missing_keys"])[:3])
        raise ModelError(f"{folder} lacks {len(info['missing_keys'])} weights ({names}, ...); fetch the model again.")
    return loaded


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of a pipeline folder.

    Raises:
        ModelError: missing or damaged.
    """
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "expected a complete diffusers pipeline folder."
        if folder == _TOYBOX:
            hint = (
                "this version ships without toybox's weights. `python -m pcs_ext.toybox.train` makes them; for real "
                "photos pass --base with a hub id, a diffusers folder or a .safetensors file."
            )
        raise ModelError(f"{folder / name} was looked for and is not there; {hint}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{folder / name} is not valid JSON ({error}); fetch the model again.") from None


def assemble(
    name: str,
    parts: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    *,
    kind: type[AbstractUnetBackbone] | None = None,
) -> AbstractUnetBackbone:
    """A backbone from the parts of a folder or file; `kind` None: Stable Diffusion or SDXL, as the parts say. Another
    kind may read other channels beside the latents.
    """
    # DDIM's scheduler is only asked for the betas that every scheduler of the family is built from.
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    chosen = {key: parts["scheduler"][key] for key in keys if parts["scheduler"].get(key) is not None}
    scheduler = DDIMScheduler(**chosen)
    unet, vae = parts["unet"], parts["vae"]
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    channels = unet.config.in_channels, vae.config.latent_channels
    if kind is None and channels[0] != channels[1] and not is_inpainting(unet, vae):
        raise ModelError(
            f"{name} takes {channels[0]} channels where its autoencoder makes {channels[1]}: it reads a depth map or a "
            "picture to edit beside the latents. Expected a text-to-image model, or one for inpainting "
            f"({2 * channels[1] + 1} channels)."
        )
    kind = kind or (SDXLBackbone if parts["family"] == "sdxl" else StableDiffusionBackbone)
    backbone = kind(
        name=name,
        denoiser=unet,
        vae=vae,
        text_encoders=parts["text_encoders"],
        tokenizers=parts["tokenizers"],
        schedule=NoiseSchedule(
            alphas_cumprod=scheduler.alphas_cumprod.float(), prediction_type=chosen.get("prediction_type", "epsilon")
        ),
        resolution=unet.config.sample_size * factor,
        device=device,
        dtype=dtype,
    )
    if isinstance(backbone, SDXLBackbone):
        backbone.zeros_for_nothing = parts.get("zeros_for_nothing", True)
    return backbone
