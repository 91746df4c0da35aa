"""The CLIP pair (Radford et al. 2021): image and caption encoders trained to find each other in a batch.

Its text half becomes the text encoder of the denoiser; the whole pair measures prompt fidelity.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

from pcs_ext.errors import InputError
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.toybox.train.adopt import begun
from pcs_ext.toybox.train.data import TrainingData, load_data
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import compile_for, rows, run_stage
from pcs_ext.toybox.train.tokenizer import token_ids

_BATCH = 64
_LOOK_ALIKE = 0.6
"""Share of batches whose pictures agree in place and main colour: the rest of the caption must tell them apart.

Among random pictures place, colour and style nearly always do, and nothing is learned about class and view.
"""
_WORDS = 0.3
"""Weight of telling every word from the states at its place. Contrast alone makes a word's share in the states as large
as it helps to find pictures: changing the pattern moved them 50 times less than changing the style, and a denoiser
hardly learns words that whisper."""
_TRAINED_LENGTH = 32
"""Captions are shorter; attention is causal, so positions after the end mark do not change what is trained."""
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


def build_clip(settings: Settings, tokenizer: CLIPTokenizer) -> Any:
    """An untrained pair for the tokenizer's vocabulary."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.text_width,
        "intermediate_size": 4 * settings.text_width,
        "num_hidden_layers": settings.text_layers,
        "num_attention_heads": settings.text_width // 48,
        "max_position_embeddings": tokenizer.model_max_length,
        "hidden_act": "quick_gelu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": settings.resolution,
        "patch_size": settings.resolution // 8,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=192))


def train_clip(settings: Settings, steps: int, minutes: float | None, reporter: Reporter) -> None:
    """Train and save to `models/clip` (the pair) and `models/text_encoder` (its text half)."""
    data = load_data(settings, "data", "pairs", "moments").near(settings.device)
    models = settings.folder / "models"
    tokenizer = CLIPTokenizer.from_pretrained(models / "tokenizer")
    torch.manual_seed(0)
    clip: Any = begun(settings, "clip", CLIPModel) or build_clip(settings, tokenizer)
    clip = clip.to(settings.device)
    for tower in (clip.vision_model, clip.text_model):
        compile_for(tower, steps)
    groups = look_alikes(data)
    ids = [
        token_ids(tokenizer, [captions[k] for captions in data.captions], _TRAINED_LENGTH).long()
        for k in range(len(data.captions[0]))
    ]

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        chosen = _draw(len(data), groups, _BATCH * settings.batches, generator)
        variant = int(torch.randint(len(ids), (), generator=generator))
        images, texts = data.pixels(chosen).to(settings.device), ids[variant][chosen].to(settings.device)
        image_features = F.normalize(clip.get_image_features(pixel_values=images).pooler_output, dim=1)
        encoded = clip.text_model(input_ids=texts)
        text_features = F.normalize(clip.text_projection(encoded.pooler_output), dim=1)
        table = clip.text_model.embeddings.token_embedding.weight
        return LossTerms(
            {
                "contrast": contrastive_loss(image_features, text_features, clip.logit_scale),
                "words": _WORDS * words_loss(encoded.last_hidden_state, texts, table, clip.config.text_config),
            }
        )

    def finish() -> None:
        clip.save_pretrained(models / "clip")
        tokenizer.save_pretrained(models / "clip")
        clip.text_model.save_pretrained(models / "text_encoder")

    config = FitConfig(
        steps=steps, lr_schedule="cosine", warmup_steps=100, autocast="bf16", ema_decay=0.998, betas=(0.9, 0.98)
    )
    run_stage(
        "clip",
        {"clip": clip},
        loss,
        settings,
        config,
        reporter,
        learning_rate=1e-3,
        weight_decay=0.05,
        minutes=minutes,
        finish=finish,
    )


def train_alignment(settings: Settings, steps: int, minutes: float | None, reporter: Reporter) -> None:
    """Teach the picture half of `models/clip` the denoiser's text encoder, which stays as it is; save the pair.

    The denoiser's training moves the text encoder that both share (a locked text tower: Zhai et al. 2022, LiT,
    arXiv 2111.07991, with the halves exchanged).

    Raises:
        InputError: there is no pair or no text encoder yet.
    """
    data, models = load_data(settings, "data", "pairs", "moments").near(settings.device), settings.folder / "models"
    if not ((models / "clip").is_dir() and (models / "text_encoder").is_dir()):
        raise InputError(f"{models} holds no CLIP pair or no text encoder; run the stages clip and unet first.")
    clip: Any = CLIPModel.from_pretrained(models / "clip")
    shared = CLIPTextModel.from_pretrained(models / "text_encoder")
    clip.text_model.load_state_dict(shared.state_dict())
    clip = clip.to(settings.device)
    compile_for(clip.vision_model, steps)
    tokenizer = CLIPTokenizer.from_pretrained(models / "tokenizer")
    groups = look_alikes(data)
    ids = [
        token_ids(tokenizer, [captions[k] for captions in data.captions], _TRAINED_LENGTH).long()
        for k in range(len(data.captions[0]))
    ]

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        chosen = _draw(len(data), groups, _BATCH * settings.batches, generator)
        variant = int(torch.randint(len(ids), (), generator=generator))
        with torch.no_grad():
            pooled = clip.text_model(input_ids=ids[variant][chosen].to(settings.device)).pooler_output
        text_features = F.normalize(clip.text_projection(pooled), dim=1)
        images = data.pixels(chosen).to(settings.device)
        image_features = F.normalize(clip.get_image_features(pixel_values=images).pooler_output, dim=1)
        return LossTerms({"contrast": contrastive_loss(image_features, text_features, clip.logit_scale)})

    modules = {
        "vision": clip.vision_model,
        "projections": nn.ModuleList([clip.visual_projection, clip.text_projection]),
        "scale": nn.ParameterList([clip.logit_scale]),
    }
    run_stage(
        "align",
        modules,
        loss,
        settings,
        FitConfig(steps=steps, lr_schedule="cosine", warmup_steps=100, autocast="bf16", ema_decay=0.998),
        reporter,
        learning_rate=5e-4,
        weight_decay=0.05,
        minutes=minutes,
        finish=lambda: clip.save_pretrained(models / "clip"),
    )


def look_alikes(data: TrainingData) -> list[Tensor]:
    """Rows of pictures with the same place and main colour, groups of at least two."""
    groups: dict[tuple[str, str], list[int]] = {}
    for row, truth in enumerate(data.attributes):
        groups.setdefault((truth["context"], truth["color"]), []).append(row)
    return [torch.tensor(group) for group in groups.values() if len(group) > 1]


def _draw(count: int, groups: list[Tensor], batch: int, generator: torch.Generator) -> Tensor:
    """Rows of one batch, from one group of look-alikes or from everywhere."""
    if groups and float(torch.rand((), generator=generator)) < _LOOK_ALIKE:
        group = groups[int(torch.randint(len(groups), (), generator=generator))]
        return group[torch.randperm(len(group), generator=generator)[:batch]]
    return rows(count, batch, generator)


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric cross entropy over the batch's similarities (CLIP, figure 3).

    Args:
        images, texts: unit features `b d`; row i of one belongs to row i of the other.
        logit_scale: logarithm of the inverse temperature, capped at ln 100 as in the paper.
    """
    logits = logit_scale.clamp(max=4.6052).exp() * images.float() @ texts.float().T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def words_loss(states: Tensor, ids: Tensor, table: Tensor, config: Any) -> Tensor:
    """Cross entropy of reading each caption word back from the text states at its own place.

    Args:
        states: `b n d`, the text encoder's.
        ids: `b n`, what it was given.
        table: `v d`, its embeddings, which are the classifier too.
        config: of the text encoder; the marks for begin, end and padding are no words.
    """
    words = (ids != config.bos_token_id) & (ids != config.eos_token_id) & (ids != config.pad_token_id)
    return F.cross_entropy(states[words].float() @ table.float().T, ids[words])
