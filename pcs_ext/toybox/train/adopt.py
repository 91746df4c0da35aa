"""Go on from the models that ship: their weights become the beginnings of the stages."""

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import AutoModel, CLIPModel, CLIPTextModel

from pcs_ext.config_io import atomic_folder
from pcs_ext.errors import InputError
from pcs_ext.reporter import Reporter
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.train.settings import Settings

_MARK = "adopted"
"""Empty file in `models/`: a stage that goes on with shipped weights leaves out what only a beginning needs."""


def adopt(settings: Settings, reporter: Reporter) -> None:
    """Write what ships to `models/`, as float32: there, stages without checkpoints begin with it.

    Raises:
        InputError: models lie there already, or what ships has another resolution.
    """
    models, base = settings.folder / "models", weights_path("base")
    shipped: Any = UNet2DConditionModel.from_pretrained(base, subfolder="unet", torch_dtype=torch.float32)
    if shipped.config.sample_size * settings.vae_factor != settings.resolution:
        raise InputError(
            f"what ships has latents of {shipped.config.sample_size} cells a side; expected "
            f"{settings.resolution // settings.vae_factor}. Use the preset whose models ship."
        )
    if models.exists():
        raise InputError(f"{models} exists already; move it away to begin with the models that ship.")
    with atomic_folder(models) as folder:
        shipped.save_pretrained(folder / "unet")
        AutoencoderKL.from_pretrained(base, subfolder="vae", torch_dtype=torch.float32).save_pretrained(folder / "vae")
        text_encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder", dtype=torch.float32)
        text_encoder.save_pretrained(folder / "text_encoder")
        CLIPModel.from_pretrained(weights_path("clip"), dtype=torch.float32).save_pretrained(folder / "clip")
        AutoModel.from_pretrained(weights_path("dino"), dtype=torch.float32).save_pretrained(folder / "dino")
        for source, name in ((base / "tokenizer", "tokenizer"), (base / "scheduler", "scheduler")):
            shutil.copytree(source, folder / name)
        shutil.copytree(weights_path("oracle"), folder / "oracle", ignore=shutil.ignore_patterns("README.md"))
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(weights_path("clip") / file, folder / "clip" / file)
        (folder / _MARK).touch()
    reporter.event("adopt", f"{len(list(Path(models).iterdir()))} models in {models}")


def adopted(settings: Settings) -> bool:
    """Whether this generation began with the models that ship."""
    return (settings.folder / "models" / _MARK).exists()


def begun(settings: Settings, name: str, loader: Any, **changes: Any) -> Any:
    """The adopted model to go on from; None where a stage begins anew.

    Args:
        settings: of this generation of toybox.
        name: its folder in `models/`.
        loader: class with `from_pretrained`.
        changes: of its configuration, such as the number of attention heads.
    """
    if not adopted(settings):
        return None
    return loader.from_pretrained(settings.folder / "models" / name, **changes)
