"""Train a style space on albums: `pcs-ext reference style-space`."""

import shutil
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import check_output, config, config_hash, from_jsonable, read_json, to_jsonable
from pcs_ext.errors import ConfigError, Interrupted
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.levels import levels_of, pixels_of, to_pil
from pcs_ext.image.loss_log import LossReport
from pcs_ext.image.png import png_bytes
from pcs_ext.image.reference.albums import each_subjects
from pcs_ext.image.reference.style_networks import StyleAutoencoder, StyleNetworks
from pcs_ext.image.reference.style_space import save_style_space, squares
from pcs_ext.image.types import LossTerms, ParameterGroup
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import choose_device

PREVIEW = "preview.png"
"""In the folder of a style space: photos, below them their reconstructions, below these random latents."""


@config
class StyleTraining:
    """How a style space is trained; all numbers are ours."""

    networks: StyleNetworks
    """What is trained."""
    steps: int = 100_000
    """Optimiser steps."""
    batch_size: int = 16
    """Pictures per step."""
    learning_rate: float = 1e-3
    """Adam's, constant."""
    latent_weight: float = 1e-4
    """Of the divergence of the latents from unit normal ones, a mean over their numbers."""
    offset_weight: float = 2e-4
    """Of the squared length of the offsets (e4e's delta loss has that weight)."""
    offsets_from: float = 0.5
    """Share of the steps after which offsets count; before, one vector is all rows, so that the mapping learns (e4e
    lets them in one after the other, from coarse to fine)."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1 or self.learning_rate <= 0:
            raise ConfigError("steps and batch_size must be at least 1 and learning_rate above 0.")
        if min(self.latent_weight, self.offset_weight) < 0:
            raise ConfigError("latent_weight and offset_weight must not be negative.")
        if not 0 <= self.offsets_from <= 1:
            raise ConfigError(f"offsets_from must be a share, got {self.offsets_from}.")


PRESETS: dict[Literal["toybox", "photos"], StyleTraining] = {
    "toybox": StyleTraining(
        networks=StyleNetworks(resolution=64, width=128, depth=4, channels=128, capacity=1024), steps=6000
    ),
    "photos": StyleTraining(networks=StyleNetworks()),
}


class StyleLoss:
    """`(step, micro_step, generator) -> LossTerms`, as `fit` wants it: an autoencoder's with a spread latent.

    Args:
        model: trains.
        pictures: `n 3 h w`, 8-bit levels.
        settings: batch and weights.
    """

    def __init__(self, model: StyleAutoencoder, pictures: Tensor, settings: StyleTraining) -> None:
        self.model, self.pictures, self.settings = model, pictures, settings

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """The reconstruction's error and what holds latents and offsets together."""
        device = self.model.synthesis.constant.device
        chosen = torch.randint(len(self.pictures), (self.settings.batch_size,), generator=generator)
        pictures = pixels_of(self.pictures[chosen].to(device))
        mean, spread, offsets = self.model.encoder(pictures)
        offsets = offsets * float(step >= self.settings.offsets_from * self.settings.steps)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        codes = self.model.codes(mean + noise * (spread / 2).exp(), offsets)
        return LossTerms(
            {
                "picture": pyramid_error(self.model.decode(codes), pictures),
                "latent": self.settings.latent_weight * divergence(mean, spread),
                "offset": self.settings.offset_weight * offsets.square().sum(-1).mean(),
            }
        )


def pyramid_error(made: Tensor, pictures: Tensor, levels: int = 3) -> Tensor:
    """Mean absolute error of pictures, and of their halves and quarters, averaged, 0-d."""
    errors = []
    for level in range(levels):
        smaller = [x if level == 0 else F.avg_pool2d(x, 2**level) for x in (made.float(), pictures)]
        errors.append((smaller[0] - smaller[1]).abs().mean())
    return torch.stack(errors).mean()


def divergence(mean: Tensor, spread: Tensor) -> Tensor:
    """Of normal numbers with these means and log variances from unit normal ones, a mean over all, 0-d."""
    return 0.5 * (mean.square() + spread.exp() - 1 - spread).mean()


def learn_style_space(
    pairs: Path,
    output: Path,
    *,
    preset: Literal["toybox", "photos"] = "toybox",
    steps: int | None = None,
    config: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Train a style space; checkpoints live in `OUTPUT.training/`, and the same call goes on there.

    Photos with masks are also shown with black around their subject, as adapters look at them.

    Args:
        pairs: see `read_subjects`.
        output: folder of the style space.
        preset: sizes and settings: toybox's, or those of StyleGAN2 at 256 pixels.
        steps: optimiser steps; None takes the settings'.
        config: `StyleTraining` as JSON.
        seed: of everything random.
        device: auto, cuda, mps or cpu.
        overwrite: replace an existing output.
        reporter: hears the progress.

    Raises:
        PhotoError, ConfigError, ArtifactError: before any training, with what to do.
        Interrupted: Ctrl-C; what was done is saved.
    """
    reporter = reporter or SilentReporter()
    check_output(output, overwrite)
    settings = _settings(preset, config, steps)
    pictures, digests = read_squares(pairs, settings.networks.resolution)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = StyleAutoencoder(settings.networks).to(choose_device(device))
    folder = Path(f"{output}.training")
    checkpoints = CheckpointFolder(folder, config_hash=config_hash([to_jsonable(settings), seed, digests]))
    group = ParameterGroup(name="style", parameters=tuple(model.parameters()), learning_rate=settings.learning_rate)
    try:
        fitting = FitConfig(steps=settings.steps, seed=seed)
        with LossReport(None, reporter, task="learn style space", device=model.synthesis.constant.device) as report:
            for state in fit(StyleLoss(model, pictures, settings), [group], fitting, checkpoints=checkpoints):
                report.add(state)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; what was learned so far is saved. The same command goes on.") from None
    model.eval()
    save_style_space(model, output, {PREVIEW: png_bytes(preview(model, pictures, seed))})
    shutil.rmtree(folder, ignore_errors=True)
    reporter.event("learned", f"saved {output}", output=str(output))
    return output


def _settings(preset: Literal["toybox", "photos"], file: Path | None, steps: int | None) -> StyleTraining:
    settings = PRESETS[preset]
    if file is not None:
        settings = from_jsonable(StyleTraining, read_json(file), where=str(file))
    return settings if steps is None else from_jsonable(StyleTraining, {**to_jsonable(settings), "steps": steps})


def read_squares(pairs: Path, side: int) -> tuple[Tensor, list[str]]:
    """Squares of all albums' photos and the photos' digests; the pixels of one album are in memory at a time.

    Args:
        pairs: see `read_subjects`.
        side: of the squares.

    Returns:
        `n 3 side side`, 8-bit levels: each photo, and behind one with a mask again with black around its subject.
    """
    found, digests = [], []
    for own in each_subjects(pairs, several=True):
        for photo in own.photos:
            digests.append(photo.digest)
            found.append(levels_of(squares(photo.image[None], side)))
            if photo.mask is not None:
                kept = (photo.mask > 0.5).float()
                found.append(levels_of(squares(photo.image[None] * kept - (1 - kept), side)))
    return torch.cat(found), digests


@torch.no_grad()
def preview(model: StyleAutoencoder, pictures: Tensor, seed: int, columns: int = 8) -> Image.Image:
    """Photos, their reconstructions and random latents, a row each."""
    device = model.synthesis.constant.device
    shown = pixels_of(pictures[:: max(1, len(pictures) // columns)][:columns].to(device))
    latents = torch.randn(len(shown), model.sizes.width, generator=torch.Generator().manual_seed(seed)).to(device)
    drawn = model.decode(model.codes(latents, torch.zeros(1, model.sizes.styles, 1, device=device)))
    rows = [shown, model.decode(model.encode(shown)), drawn]
    return to_pil(torch.cat([torch.cat(list(row.clamp(-1, 1)), dim=2) for row in rows], dim=1).cpu())
