"""What the models of toybox can do, measured on scenes that no training run has seen."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.evaluate.encoders import load_image_encoder
from pcs_ext.image.levels import levels_of, pixels_of
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import seed_for
from pcs_ext.toybox.oracle import HEADS, Oracle
from pcs_ext.toybox.train.data import pairs_of, scenes_of
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.sampling import attributes
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.toybox.world.vocabulary import CLASSES, COLORS, CONTEXTS, VIEWS

RETRIEVAL_SET = 256
"""Distinct captions, and as many pictures, among which the right one must come first."""
GENERATED = ("class", "color", "context", "view", "accessory")
"""Attributes that generated pictures are read for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One figure."""

    metric: str
    """For instance `oracle/class`, `vae/psnr`."""
    value: float
    """Shares in [0, 1], PSNR in dB; higher is better in all."""
    spread: float
    """Half the width of the mean's 95 % interval (normal approximation over the n units)."""
    n: int
    """Pictures, or captions, it is the mean of."""
    seconds: float
    """Wall clock of the measurement it comes from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Scenes of the held-out stream and their pictures."""

    scenes: list[Scene]
    images: Tensor
    """`n 3 h w` in [-1, 1]."""

    @property
    def single(self) -> list[int]:
        """Rows that show one toy: those of two are ambiguous to a reader of attributes."""
        return [index for index, scene in enumerate(self.scenes) if len(scene.objects) == 1]


def held_out(count: int, resolution: int, *, seed: int = 1) -> HeldOut:
    """The first `count` held-out scenes, always the same ones."""
    scenes = scenes_of("held-out", 0, count, seed=seed)
    return HeldOut(scenes=scenes, images=render_rgb(scenes, resolution=resolution))


def measure_oracle(folder: Path, data: HeldOut) -> tuple[list[Measured], dict[str, Tensor]]:
    """Share of attributes read right off held-out pictures, and the confusion matrices (rows: truth).

    Raises:
        ModelError: no oracle in the folder.
    """
    start, oracle = time.perf_counter(), Oracle.load(folder)
    read = oracle.read(data.images[data.single])
    truth = [attributes(data.scenes[index]) for index in data.single]
    return _readings("oracle", read, truth, tuple(HEADS), start), confusion(read, truth)


def confusion(read: Sequence[dict[str, str]], truth: Sequence[dict[str, str]]) -> dict[str, Tensor]:
    """Counts by attribute: row = index of the true value, column = index of the value read."""
    matrices = {name: torch.zeros(len(values), len(values), dtype=torch.int64) for name, values in HEADS.items()}
    for have, want in zip(read, truth, strict=True):
        for name, values in HEADS.items():
            matrices[name][values.index(want[name]), values.index(have[name])] += 1
    return matrices


@torch.inference_mode()
def measure_vae(folder: Path, data: HeldOut) -> tuple[list[Measured], Tensor]:
    """Mean PSNR of decode(encode(picture)), 8-bit rounding included, and the reconstructions."""
    start = time.perf_counter()
    vae: Any = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
    pieces = [vae.decode(vae.encode(images).latent_dist.mean).sample for images in data.images.split(32)]
    decoded = pixels_of(levels_of(torch.cat(pieces)))
    return [figure("vae/psnr", psnr(decoded, data.images), start)], decoded


def psnr(images: Tensor, targets: Tensor) -> list[float]:
    """Peak signal-to-noise ratio in dB, per picture; pictures `n 3 h w` in [-1, 1], so the peak is 2."""
    errors = (images - targets).square().mean((1, 2, 3)).clamp_min(1e-12)
    return (10 * torch.log10(4 / errors)).tolist()


@torch.inference_mode()
def measure_clip(folder: Path, data: HeldOut) -> list[Measured]:
    """Share of captions whose own picture is the nearest of a set of pictures, all captions of a set distinct."""
    start = time.perf_counter()
    clip: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    texts = [caption(scene) for scene in data.scenes]
    first = {text: index for index, text in reversed(list(enumerate(texts)))}
    rows = sorted(first.values())
    size = min(RETRIEVAL_SET, len(rows))
    ids = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt").input_ids
    text_features = F.normalize(clip.get_text_features(input_ids=ids).pooler_output, dim=1)
    pictures = data.images[rows].split(64)
    features = torch.cat([clip.get_image_features(pixel_values=images).pooler_output for images in pictures])
    hits = retrieval_hits(text_features, F.normalize(features, dim=1), size)
    return [figure(f"clip/top-1 of {size}", hits, start), *_measure_words(clip, tokenizer, data)]


_WORDS: dict[str, tuple[str, ...]] = {"class": CLASSES, "color": tuple(COLORS), "context": CONTEXTS, "view": VIEWS}


def _measure_words(clip: Any, tokenizer: Any, data: HeldOut) -> list[Measured]:
    """`clip/class` and so on: share of pictures that are nearer to their own caption than to any with another word.

    Retrieval among random captions cannot tell whether the pair knows the class: place and colour find the picture.
    """
    start = time.perf_counter()
    hits: dict[str, list[float]] = {name: [] for name in _WORDS}
    for row in data.single:
        text, truth = caption(data.scenes[row]), attributes(data.scenes[row])
        picture = F.normalize(clip.get_image_features(pixel_values=data.images[row][None]).pooler_output, dim=1)
        for name, words in _WORDS.items():
            own = words.index(truth[name])
            ids = tokenizer(
                [text.replace(truth[name], word, 1) for word in words], padding=True, return_tensors="pt"
            ).input_ids
            texts = F.normalize(clip.get_text_features(input_ids=ids).pooler_output, dim=1)
            hits[name].append(float(int((texts @ picture[0]).argmax()) == own))
    return [figure(f"clip/{name}", found, start) for name, found in hits.items()]


@torch.inference_mode()
def measure_image_encoder(folder: Path, resolution: int, toys: int) -> list[Measured]:
    """How well the encoder knows a toy again that it has never seen, in another place, light, style and view.

    `dino/top-1 of N`: share of pictures whose toy's other picture is the nearest of a set of N. `dino/same toy` and
    `dino/other toy`: mean cosine of the two pictures of a toy, and of pictures of different toys; a likeness between
    these two is what the encoder reports of real work.
    """
    start, encoder = time.perf_counter(), load_image_encoder(folder)
    images = render_rgb(pairs_of(0, toys, stream="held-out pairs"), resolution=resolution)
    features = torch.cat([encoder.encode_images(batch) for batch in images.split(64)])
    one, other = features[::2], features[1::2]
    size = min(RETRIEVAL_SET, toys)
    cosines = one @ other.T
    same, different = cosines.diagonal(), cosines[~torch.eye(toys, dtype=torch.bool)]
    return [
        figure(f"dino/top-1 of {size}", retrieval_hits(one, other, size), start),
        figure("dino/same toy", same.tolist(), start),
        figure("dino/other toy", different.tolist(), start),
    ]


def retrieval_hits(texts: Tensor, images: Tensor, size: int) -> list[float]:
    """1 or 0 per caption, in sets of `size`; a last incomplete set is left out. Unit features `n d`, row by row."""
    whole = range(0, len(texts) - size + 1, size)
    nearest = [(texts[i : i + size] @ images[i : i + size].T).argmax(1) for i in whole]
    return [float(hit) for row in nearest for hit in row == torch.arange(size)]


def generate(base: Path, scenes: Sequence[Scene], reporter: Reporter) -> Tensor:
    """One picture per scene's full caption: guidance 5, 30 DDIM steps, seeds fixed; `n 3 h w` in [-1, 1]."""
    backbone = load_backbone(base, device="cpu", precision="fp32")
    seeds = [seed_for("toybox", "quality", index) for index in range(len(scenes))]
    config = SampleConfig(scheduler="ddim", num_inference_steps=30, guidance_scale=5.0)
    with torch.inference_mode():
        prompts = [caption(scene) for scene in scenes]
        return sample(backbone, prompts, seeds=seeds, config=config, batch_size=32, reporter=reporter)


def measure_generated(
    base: Path, oracle: Path, count: int, reporter: Reporter, *, seed: int = 1
) -> tuple[list[Measured], Tensor]:
    """Share of attributes that the oracle reads off generated pictures as their captions ask, and the pictures.

    Raises:
        ModelError: the pipeline or the oracle is missing or incomplete.
    """
    start, reader = time.perf_counter(), Oracle.load(oracle)
    # A stream of its own; some more than needed, because scenes with two toys are left out.
    drawn = scenes_of("prompts", 0, count + count // 4 + 8, seed=seed)
    scenes = [scene for scene in drawn if len(scene.objects) == 1][:count]
    images = generate(base, scenes, reporter)
    truth = [attributes(scene) for scene in scenes]
    return _readings("generated", reader.read(images), truth, GENERATED, start), images


def _readings(
    prefix: str, read: Sequence[dict[str, str]], truth: Sequence[dict[str, str]], names: Sequence[str], start: float
) -> list[Measured]:
    right: Callable[[str], list[float]] = lambda name: [  # noqa: E731
        float(have[name] == want[name]) for have, want in zip(read, truth, strict=True)
    ]
    return [figure(f"{prefix}/{name}", right(name), start) for name in names]


def figure(metric: str, values: Sequence[float], start: float) -> Measured:
    """The mean of values and half the width of its 95 % interval; `start` is when their making began."""
    n = len(values)
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(n - 1, 1))
    return Measured(
        metric=metric,
        value=round(mean, 4),
        spread=round(1.96 * deviation / math.sqrt(n), 4),
        n=n,
        seconds=round(time.perf_counter() - start, 1),
    )
