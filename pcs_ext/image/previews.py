"""Pictures of a subject while it is being learned: the same prompts and seeds every time, so that change shows."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import AbstractRun
from pcs_ext.image.levels import to_pil
from pcs_ext.image.png import write_png
from pcs_ext.image.recipes import Phase
from pcs_ext.image.sample import SampleConfig, sample

PROMPTS = ("a photo of {subject}", "a photo of {subject} on the beach")
SEEDS = (0, 1)


class Previews:
    """Writes a sheet every so many steps: a row per prompt, a column per seed. Training is not touched by it.

    Args:
        folder: for `PHASE-000100.png`; made when the first sheet is written.
        every: optimiser steps between sheets.
        backbone: with the adapters in it.
        concept: fills the prompts.
        sampling: how to sample.
        prompts: with `{subject}`.
        seeds: one column each.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        backbone: AbstractBackbone,
        concept: Concept,
        sampling: SampleConfig,
        *,
        prompts: Sequence[str] = PROMPTS,
        seeds: Sequence[int] = SEEDS,
    ) -> None:
        self.folder, self.every, self.backbone, self.sampling = folder, every, backbone, sampling
        self.texts = [concept.prompt(prompt) for prompt in prompts for _ in seeds]
        self.negatives = [concept.negative_prompt()] * len(self.texts)
        self.seeds = list(seeds)

    def is_due(self, step: int) -> bool:
        """Whether a sheet belongs to this step."""
        return self.every > 0 and step % self.every == 0

    def write(self, run: AbstractRun, phase: Phase, step: int) -> Path:
        """Sample with the weights that the phase would leave now and write the sheet."""
        with run.averaged() if phase.keeps_averages else contextlib.nullcontext(), torch.no_grad():
            seeds = self.seeds * (len(self.texts) // len(self.seeds))
            images = sample(
                self.backbone, self.texts, seeds=seeds, config=self.sampling, negative_prompts=self.negatives
            )
        path = self.folder / f"{phase.name}-{step:06d}.png"
        write_png(path, _sheet(images, columns=len(self.seeds)))
        return path


def _sheet(images: torch.Tensor, columns: int) -> Image.Image:
    height, width = images.shape[-2:]
    sheet = Image.new("RGB", (columns * width, len(images) // columns * height))
    for index, image in enumerate(images):
        sheet.paste(to_pil(image), (index % columns * width, index // columns * height))
    return sheet
