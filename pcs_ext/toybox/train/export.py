"""From training folders to what ships: fp16 safetensors in the standard diffusers and transformers layouts."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import AutoModel, CLIPModel, CLIPTextModel

from pcs_ext.config_io import atomic_folder, write_json
from pcs_ext.reporter import Reporter
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.train.settings import Settings


def export(settings: Settings, reporter: Reporter) -> None:
    """Write every model that is trained so far into the package's `weights` folder."""
    models = settings.folder / "models"
    with atomic_folder(weights_path("base")) as folder:
        _export_base(models, folder)
    reporter.event("export", "base written")
    for name, loader in (("clip", CLIPModel), ("dino", AutoModel)):
        if (models / name / "config.json").exists():
            with atomic_folder(weights_path(name)) as folder:
                loader.from_pretrained(models / name, dtype=torch.float16).save_pretrained(folder)
                for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
                    if (models / name / file).exists():
                        shutil.copy(models / name / file, folder / file)
            reporter.event("export", f"{name} written")
    if (models / "oracle").exists():
        with atomic_folder(weights_path("oracle")) as folder:
            shutil.copytree(models / "oracle", folder, dirs_exist_ok=True)
        reporter.event("export", "oracle written")


def _export_base(models: Path, folder: Path) -> None:
    UNet2DConditionModel.from_pretrained(models / "unet", torch_dtype=torch.float16).save_pretrained(folder / "unet")
    AutoencoderKL.from_pretrained(models / "vae", torch_dtype=torch.float16).save_pretrained(folder / "vae")
    CLIPTextModel.from_pretrained(models / "text_encoder", dtype=torch.float16).save_pretrained(folder / "text_encoder")
    shutil.copytree(models / "tokenizer", folder / "tokenizer")
    shutil.copytree(models / "scheduler", folder / "scheduler")
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": json.loads((models / "unet" / "config.json").read_text())["_diffusers_version"],
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
