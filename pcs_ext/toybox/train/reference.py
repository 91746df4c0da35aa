"""The reference adapter (IP-Adapter, Ye et al. 2023, arXiv 2308.06721), trained on pairs; base and encoder frozen.

The encoder is the self-supervised one, `dino`: it was trained on just such pairs to give two pictures of a toy one
vector, whatever the place, light, camera and style, and to tell that toy from others. That is what a reference shall
carry and no more. CLIP's vectors hold what captions name: the place and style that the prompt shall decide, and of the
toy nothing that has no word.

Half of the captions name the class alone, as prompts beside a reference do: told everything, an adapter would learn to
look only at what captions leave out.
"""

import dataclasses
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.reference.encoder import PictureEncoder, open_encoder
from pcs_ext.image.reference.files import ReferenceConfig, encoder_folder, save_adapter
from pcs_ext.image.reference.pairs import PairData
from pcs_ext.image.reference.shown import Sight
from pcs_ext.image.reference.systems.ip_adapter import IPAdapter, IPAdapterConfig
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.toybox.train.data import TrainingData, load_data, load_truth
from pcs_ext.toybox.train.motion import autoencoder_digest, base_to_teach
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import run_stage
from pcs_ext.toybox.train.unet import cell_weights, draw_timesteps, loss_weights

ENCODER = "toybox/dino"
_TRAINING = ReferenceTraining(batch_size=16, learning_rate=1e-3)
"""Differs from the paper in the rate: half a million weights, where it has 22 million."""
_TIMED = 20
"""Steps whose pace is told."""


def train_reference(
    settings: Settings, steps: int, minutes: float | None, reporter: Reporter, *, base: Path | None = None
) -> None:
    """Train on the base that ships and save to `models/reference`.

    Args:
        settings: of this generation of toybox.
        steps: optimiser steps in all.
        minutes: budget of this call; None: until the steps are done.
        reporter: hears the progress.
        base: pipeline to teach; None: the one in the package.

    Raises:
        InputError: the pairs are not rendered yet, or the base draws at another resolution.
    """
    backbone = base_to_teach(settings, base)
    encoder = open_encoder(encoder_folder(ENCODER), "embedding", settings.device)
    data = pair_data(settings, backbone, encoder, reporter)
    adapter = IPAdapter.begin(backbone, encoder.width, tokens=IPAdapterConfig().tokens)
    learned = ReferenceLoss(
        backbone,
        adapter,
        data,
        dataclasses.replace(_TRAINING, batch_size=_TRAINING.batch_size * settings.batches),
        Sight(features=encoder.blank(data.features[0])),
        draw_timesteps=draw_timesteps,
        weigh=lambda timesteps: loss_weights(backbone.schedule, timesteps),
    )

    def finish() -> None:
        said = ReferenceConfig(
            adapter=IPAdapterConfig(),
            encoder=ENCODER,
            encoder_digest=encoder.digest,
            base="toybox",
            base_fingerprint=backbone.fingerprint,
            family=backbone.family,
            steps=steps,
        )
        save_adapter(adapter, said, settings.folder / "models" / "reference", half=False)

    run_stage(
        "reference",
        {"adapter": adapter},
        _Paced(learned, reporter),
        settings,
        FitConfig(steps=steps, lr_schedule="cooldown", warmup_steps=200, autocast="bf16", ema_decay=0.999),
        reporter,
        learning_rate=_TRAINING.learning_rate,
        weight_decay=_TRAINING.weight_decay,
        minutes=minutes,
        finish=finish,
    )


class _Paced:
    """A loss that tells the reporter once how long a step takes."""

    def __init__(self, loss: ReferenceLoss, reporter: Reporter) -> None:
        self.loss, self.reporter = loss, reporter
        self._calls, self._start, self._work = 0, 0.0, 0.0

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        # From the second call on: the first one warms up.
        if self._calls == 1:
            self._start, self._work = time.perf_counter(), time.process_time()
        if self._calls == 1 + _TIMED:
            pace, work = (time.perf_counter() - self._start) / _TIMED, (time.process_time() - self._work) / _TIMED
            text = f"{pace:.2f} seconds per step, {work:.2f} of a processor"
            self.reporter.event("pace", text, seconds_per_step=pace, processor_seconds_per_step=work)
        self._calls += 1
        return self.loss(step, micro_step, generator)


def pair_data(
    settings: Settings, backbone: AbstractUnetBackbone, encoder: PictureEncoder, reporter: Reporter
) -> PairData:
    """Both pictures of every toy in the stream `pairs`, encoded once per autoencoder and image encoder."""
    data = load_data(settings, "pairs")
    latents, features = _encoded(settings, data, backbone, encoder, reporter)
    coverage, _ = load_truth(settings, "pairs")
    return PairData(
        latents=latents,
        features=features,
        captions=[(*said, *short_captions(truth)) for said, truth in zip(data.captions, data.attributes, strict=True)],
        groups=torch.arange(len(data)).reshape(-1, 2).unbind(0),
        weights=cell_weights(coverage),
    )


def short_captions(truth: dict[str, str]) -> tuple[str, ...]:
    """As many captions as the long ones, of a picture's style, class, accessory, place and, in one, view."""
    words = (truth["style"], f"a {truth['class']}", truth["accessory"], truth["context"])
    text = " ".join(word for word in words if word)
    return text, text, f"{text}, {truth['view']}"


def _encoded(
    settings: Settings,
    data: TrainingData,
    backbone: AbstractUnetBackbone,
    encoder: PictureEncoder,
    reporter: Reporter,
) -> tuple[Tensor, Tensor]:
    path = settings.folder / "models" / "pair_latents.safetensors"
    mark = f"{autoencoder_digest(backbone)} {encoder.digest} {len(data)}"
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("made_of") == mark:
                return file.get_tensor("latents"), file.get_tensor("features")
    latents, features = [], []
    for first in range(0, len(data), 200):
        images = data.pixels(torch.arange(first, min(first + 200, len(data))))
        images = images.to(backbone.device, memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16):
            latents.append(backbone.encode_posterior(images)[0].half().cpu())
            features.append(encoder(images).cpu())
        reporter.progress("encode", min(first + 200, len(data)), len(data))
    made = {"latents": torch.cat(latents).contiguous(), "features": torch.cat(features).contiguous()}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, save(made, metadata={"made_of": mark}))
    return made["latents"], made["features"]
