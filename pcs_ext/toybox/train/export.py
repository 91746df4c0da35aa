"""From training folders to what ships: fp16 safetensors in the standard diffusers and transformers layouts."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel
from safetensors.torch import load_file, save, save_file
from transformers import AutoModel, CLIPModel, CLIPTextModel

from pcs_ext.config_io import atomic_folder, atomic_write_bytes, write_json
from pcs_ext.errors import InputError
from pcs_ext.image.reference.files import CONFIG
from pcs_ext.image.reference.files import WEIGHTS as REFERENCE
from pcs_ext.reporter import Reporter
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.cards import write_card
from pcs_ext.toybox.train.adopt import adopted
from pcs_ext.toybox.train.motion import WORDS
from pcs_ext.toybox.train.settings import PRESETS, Settings

_BASE = ("vae", "clip", "latents", "decoder", "words", "unet", "critic", "legible", "align")
"""Stages whose steps the base's card tells."""


def export(settings: Settings, reporter: Reporter, target: Path | None = None) -> None:
    """Write the pipeline, and every other model that is trained so far, as what ships.

    Args:
        settings: of this generation of toybox.
        reporter: hears what was written.
        target: folder for `base`, `clip`, `dino`, `oracle`, `reference`, `multiview` and the two for clips; None: the
            package's `weights` folder.

    What the commands do not tell about a training (a change of the code on the way) is read from `models/notes.json`,
    `{"base": "..."}`, into the cards.

    Raises:
        InputError: a part of the pipeline is not trained yet.
    """
    models, target = settings.folder / "models", target or weights_path("base").parent
    for part, stage in (("tokenizer", "tokenizer"), ("text_encoder", "clip"), ("vae", "vae"), ("unet", "unet")):
        if not (models / part).is_dir():
            raise InputError(f"{models / part} does not exist; expected a trained {part}. Run the stage {stage} first.")
    with atomic_folder(target / "base") as folder:
        _export_base(models, folder)
        _forget_places(folder)
        _card(settings, folder, "base", _BASE)
    reporter.event("export", "base written")
    for name, loader in (("clip", CLIPModel), ("dino", AutoModel)):
        if (models / name / "config.json").exists():
            with atomic_folder(target / name) as folder:
                write_json(folder / "preprocessor_config.json", _preprocessing(settings.resolution))
                loader.from_pretrained(models / name, dtype=torch.float16).save_pretrained(folder)
                _load_as_float32(folder)
                for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
                    if (models / name / file).exists():
                        shutil.copy(models / name / file, folder / file)
                if name == "clip":
                    _share_text_tower(folder, target / "base" / "text_encoder" / "model.safetensors")
                _card(settings, folder, name, ("clip", "words", "align") if name == "clip" else (name,))
            reporter.event("export", f"{name} written")
    if (models / "oracle").exists():
        with atomic_folder(target / "oracle") as folder:
            shutil.copytree(models / "oracle", folder, dirs_exist_ok=True)
            _card(settings, folder, "oracle", ("oracle",))
        reporter.event("export", "oracle written")
    if (models / "motion").exists() or (models / "motion_reader").exists():
        export_clips(settings, reporter, target)
    if (models / "reference").exists():
        export_reference(settings, reporter, target)
    if (models / "multiview").exists():
        export_multiview(settings, reporter, target)


def export_reference(settings: Settings, reporter: Reporter, target: Path | None = None) -> None:
    """Write the reference adapter alone, as float16.

    Args:
        settings: of this generation of toybox.
        reporter: hears what was written.
        target: as in `export`.

    Raises:
        InputError: it is not trained yet.
    """
    trained, target = trained_model(settings, "reference"), target or weights_path("base").parent
    with atomic_folder(target / "reference") as folder:
        half = {key: tensor.half() for key, tensor in load_file(trained / REFERENCE).items()}
        save_file(half, folder / REFERENCE, metadata={"format": "pt"})
        shutil.copy(trained / CONFIG, folder / CONFIG)
        _card(settings, folder, "reference", ("reference",))
    _tell(target / "reference", reporter)


def export_multiview(settings: Settings, reporter: Reporter, target: Path | None = None) -> None:
    """Write the multi-view adapter alone; it is float16 already.

    Args:
        settings: of this generation of toybox.
        reporter: hears what was written.
        target: as in `export`.

    Raises:
        InputError: it is not trained yet.
    """
    trained, target = trained_model(settings, "multiview"), target or weights_path("base").parent
    with atomic_folder(target / "multiview") as folder:
        shutil.copytree(trained, folder, dirs_exist_ok=True)
        _card(settings, folder, "multiview", ("multiview",))
    _tell(target / "multiview", reporter)


def trained_model(settings: Settings, name: str) -> Path:
    """Folder of what the stage of this name trained.

    Raises:
        InputError: it did not.
    """
    folder = settings.folder / "models" / name
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; run the stage {name} first.")
    return folder


def _tell(folder: Path, reporter: Reporter) -> None:
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    reporter.event("export", f"{folder.name} written, {size:.1f} MB")


def export_clips(settings: Settings, reporter: Reporter, target: Path | None = None) -> None:
    """Write what concerns clips alone: the motion reader, the motion adapter, and its words into the base that ships.

    Args:
        settings: of this generation of toybox.
        reporter: hears what was written.
        target: as in `export`.

    Raises:
        InputError: neither is trained yet.
    """
    models, target = settings.folder / "models", target or weights_path("base").parent
    found = [name for name in ("motion_reader", "motion") if (models / name).is_dir()]
    if not found:
        raise InputError(f"{models} holds no motion reader and no motion adapter; run the stages of those names first.")
    for name in found:
        with atomic_folder(target / name) as folder:
            shutil.copytree(models / name, folder, dirs_exist_ok=True)
            if name == "motion":
                MotionAdapter.from_pretrained(folder, torch_dtype=torch.float16).save_pretrained(folder)
                teach_words(target / "base" / "text_encoder" / "model.safetensors", folder / WORDS)
                (folder / WORDS).unlink()
                _forget_places(folder)
            _card(settings, folder, name, (name,))
        reporter.event("export", f"{name.replace('_', ' ')} written")


def _forget_places(folder: Path) -> None:
    """Take out of all configs below where on this machine a model was loaded from."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            write_json(path, config)


def teach_words(text_encoder: Path, words: Path) -> None:
    """Put the rows that learned with the motion adapter into the text encoder's word table; the rest stays to the bit.

    Args:
        text_encoder: safetensors file, replaced.
        words: what `MotionWords.save` wrote.
    """
    state, learned = load_file(text_encoder), load_file(words)
    (key,) = (key for key in state if key.endswith("token_embedding.weight"))
    state[key][learned["ids"]] = learned["rows"].to(state[key].dtype)
    atomic_write_bytes(text_encoder, save(state, metadata={"format": "pt"}))


def _card(settings: Settings, folder: Path, name: str, stages: Sequence[str]) -> None:
    steps = {stage: _steps(settings.folder / stage) for stage in stages}
    facts = {
        "parameters": f"{_parameters(folder) / 1e6:.1f} M",
        "resolution": f"{settings.resolution} pixels",
        "training scenes": f"{settings.scenes:,} (data seed {settings.data_seed})",
        "machine": settings.device,
    }
    notes = settings.folder / "models" / "notes.json"
    if notes.is_file() and (note := json.loads(notes.read_text(encoding="utf-8")).get(name)):
        facts["history"] = note
    ran = {stage: count for stage, count in steps.items() if count or (stage == "latents" and steps["unet"])}
    preset = next((preset for preset, sizes in PRESETS.items() if sizes == settings), "cpu")
    write_card(folder, name, ran, facts, preset=preset, adopted=adopted(settings))


def _parameters(folder: Path) -> int:
    """Of all files and shards of a model; scales of int8 weights are no parameters."""
    files = list(folder.rglob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [(folder.parent / name[3:]) if name.startswith("../") else folder / name for name in shards]
    return sum(
        tensor.numel() for file in files for key, tensor in load_file(file).items() if not key.endswith(".scale")
    )


def _steps(checkpoints: Path) -> int:
    """Steps of a stage's newest checkpoint; 0 for a stage without checkpoints."""
    names = [path.name for path in checkpoints.glob("step-*")]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def _name_as_published(text_encoder: Path) -> None:
    """Keys with `text_model.` in front, as published pipelines have them: every version of transformers reads those."""
    prefix = "text_model."
    state = {prefix + key.removeprefix(prefix): value for key, value in load_file(text_encoder).items()}
    save_file(state, text_encoder, metadata={"format": "pt"})


def _share_text_tower(clip: Path, text_encoder: Path) -> None:
    """Leave the text tower out of CLIP's file: the pipeline's text encoder is the same one, and is named as a shard."""
    own, shared = load_file(clip / "model.safetensors"), load_file(text_encoder)
    same = {key for key in own.keys() & shared.keys() if torch.equal(own[key], shared[key])}
    if same != shared.keys():
        raise InputError(
            f"{text_encoder} and the text tower of {clip} differ in {len(shared.keys() - same)} tensors; "
            "expected one text encoder. Export both from the same stage clip."
        )
    kept = {key: value for key, value in own.items() if key not in same}
    save_file(kept, clip / "vision.safetensors", metadata={"format": "pt"})
    (clip / "model.safetensors").unlink()
    where = {
        **dict.fromkeys(kept, "vision.safetensors"),
        **dict.fromkeys(same, "../base/text_encoder/model.safetensors"),
    }
    size = sum(value.numel() * value.element_size() for value in own.values())
    write_json(clip / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": where})


def _load_as_float32(folder: Path) -> None:
    """Make transformers load the float16 file as float32, as diffusers does by itself: one pipeline, one precision."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if "dtype" in part:
            part["dtype"] = "float32"
    write_json(folder / "config.json", config)


def _preprocessing(resolution: int) -> dict[str, Any]:
    """What stands between a photo and an encoder: [-1, 1] at the resolution of training."""
    return {
        "do_resize": True,
        "size": {"height": resolution, "width": resolution},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def _export_base(models: Path, folder: Path) -> None:
    denoiser = models / ("unet_legible" if (models / "unet_legible").is_dir() else "unet")
    UNet2DConditionModel.from_pretrained(denoiser, torch_dtype=torch.float16).save_pretrained(folder / "unet")
    AutoencoderKL.from_pretrained(models / "vae", torch_dtype=torch.float16).save_pretrained(folder / "vae")
    CLIPTextModel.from_pretrained(models / "text_encoder", dtype=torch.float16).save_pretrained(folder / "text_encoder")
    _load_as_float32(folder / "text_encoder")
    _name_as_published(folder / "text_encoder" / "model.safetensors")
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
