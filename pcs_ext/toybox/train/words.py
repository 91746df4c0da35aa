"""The denoiser's text encoder, taught to tell apart words that it takes for one another.

Contrast with pictures leaves words close together that rarely decide which picture is meant: on shipped weights,
exchanging one word of a caption moves the text states (squared, summed over places) by 8,900 for the place, but by 59
for "dog" and "cat", 43 for "bear" and "teapot", 30 for "front view" and "side view". The denoiser drew those wrong.
"""

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from pcs_ext.errors import InputError
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.toybox.train.data import load_data
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import run_stage
from pcs_ext.toybox.world.vocabulary import ACCESSORIES, CLASSES, COLORS, CONTEXTS, MOTIONS, PATTERNS, STYLES, VIEWS

_BATCH = 16
_DISTANCE = 3000.0
"""How far the states of two captions shall be apart that differ in one word; what lies further is let be."""
_KEEP = 1.0
"""Weight of the states' mean squared change: the denoiser is to recognise them."""
VOCABULARIES: tuple[tuple[str, ...], ...] = tuple(
    tuple(word for word in words if word)
    for words in (CLASSES, COLORS, PATTERNS, ACCESSORIES, CONTEXTS, STYLES, VIEWS, MOTIONS)
)


def other_caption(caption: str, draw: random.Random) -> str:
    """The caption with one word (or phrase) of the world's vocabularies exchanged for another of the same one."""
    spoken = [(words, word) for words in VOCABULARIES for word in words if re.search(rf"\b{word}\b", caption)]
    words, word = draw.choice(spoken)
    other = draw.choice([other for other in words if other != word])
    return re.sub(rf"\b{word}\b", other, caption, count=1)


def apart_loss(one: Tensor, other: Tensor) -> Tensor:
    """(1 - distance / wanted distance)² where captions are nearer, 0-d; states `b n d` of captions a word apart."""
    squared = (one - other).square().sum((1, 2))
    return (1 - (squared / _DISTANCE + 1e-6).sqrt()).clamp(min=0).square().mean()


def train_words(settings: Settings, steps: int, minutes: float | None, reporter: Reporter) -> None:
    """Train CLIP's text half on captions alone; save to `models/text_encoder`, for the denoiser and then for `align`.

    Raises:
        InputError: there is no CLIP pair yet.
    """
    models = settings.folder / "models"
    if not (models / "clip").is_dir():
        raise InputError(f"{models} holds no CLIP pair; run the stage clip or adopt first.")
    captions = sorted({text for texts in load_data(settings, "data", "moments").captions for text in texts})
    tokenizer = CLIPTokenizer.from_pretrained(models / "tokenizer")
    before, text_encoder = _text_half(models / "clip", settings), _text_half(models / "clip", settings)

    def tokens(texts: Sequence[str]) -> Tensor:
        length = tokenizer.model_max_length
        ids = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return ids.input_ids.to(settings.device)

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        chosen = torch.randint(len(captions), (_BATCH,), generator=generator).tolist()
        draw = random.Random(int(torch.randint(2**31, (), generator=generator)))
        own = [captions[row] for row in chosen]
        ids = tokens(own + [other_caption(text, draw) for text in own])
        with torch.no_grad():
            known = before(input_ids=ids).last_hidden_state
        states = text_encoder(input_ids=ids).last_hidden_state.float()
        kept = _KEEP * (states - known.float()).square().mean()
        return LossTerms({"apart": apart_loss(*states.chunk(2)), "kept": kept})

    run_stage(
        "words",
        {"text_encoder": text_encoder},
        loss,
        settings,
        FitConfig(steps=steps, lr_schedule="cosine", warmup_steps=50, autocast="bf16", ema_decay=0.99),
        reporter,
        learning_rate=3e-4,
        minutes=minutes,
        finish=lambda: text_encoder.save_pretrained(models / "text_encoder"),
    )


def _text_half(clip: Path, settings: Settings) -> Any:
    """Of the CLIP pair, frozen."""
    pair: Any = CLIPModel.from_pretrained(clip)
    return pair.text_model.to(settings.device).eval().requires_grad_(False)
