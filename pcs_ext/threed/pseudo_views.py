"""Pseudo views: renders of a field that a fully tuned model makes look like the subject (DreamBooth3D, stage 2)."""

import dataclasses
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.config_io import atomic_folder, config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import Concept
from pcs_ext.image.image_to_image import image_to_image
from pcs_ext.image.levels import to_pil
from pcs_ext.image.png import png_bytes
from pcs_ext.image.sample import SampleConfig
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.cameras import Cameras, orbit
from pcs_ext.threed.fields import AbstractField
from pcs_ext.threed.posed_pictures import read_pictures
from pcs_ext.threed.render import RenderConfig, render_views
from pcs_ext.threed.transforms_json import write_transforms
from pcs_ext.threed.view_noise import turning_noise
from pcs_ext.threed.view_prompts import ViewWords, directions


@config
class PseudoViewConfig:
    """Which views, and how far the model may go from them."""

    views: int = 20
    """Evenly spaced azimuths at one distance (the paper: 20)."""
    elevations: tuple[float, ...] = (10.0, 25.0)
    """Degrees; the views take them in turn."""
    distance: float = 5.2
    """World units."""
    fov: float = 32.0
    """Full vertical angle, degrees."""
    strength: float = 0.5
    """Noise level to start from, as a share of the schedule, in (0, 1]; the paper's is in its supplement."""
    guidance_scale: float | None = None
    """Of the full model, standard form, 1 = off; None: the subject's own."""
    noise: Literal["fresh", "kept"] = "fresh"
    """fresh: every view has its own. kept: the job's, as in the score, so that neighbours agree."""
    harmonics: int = 0
    """Of kept noise, 0 or more: how fast it turns with the camera's azimuth (`turning_noise`)."""
    cut: bool = True
    """Reconstruct only what the first field covers, over the grey that was behind it."""
    solid: float = 1.0
    """Of the cut: opacity of the first field from which on it covers a pixel wholly, in (0, 1]."""
    margin: int = 0
    """Of the cut: pixels around what the first field covers, 0 or more."""

    def __post_init__(self) -> None:
        if not 0 < self.solid <= 1 or self.margin < 0:
            raise ConfigError(
                f"the cut takes solid in (0, 1] and a margin of 0 or more, got {self.solid}, {self.margin}."
            )
        if self.harmonics < 0 or (self.harmonics and self.noise != "kept"):
            raise ConfigError(
                f"harmonics are 0 or more, and only of kept noise; got {self.harmonics} of {self.noise} noise."
            )
        if self.views < 1 or not self.elevations or not 0 < self.strength <= 1:
            raise ConfigError(
                f"expected pseudo views, elevations and a strength in (0, 1], got {self.views} views, "
                f"{self.elevations}, {self.strength}."
            )

    def cameras(self, field: AbstractField) -> Cameras:
        """Where the views are taken from, about the field's middle."""
        azimuth = [index * 360 / self.views for index in range(self.views)]
        elevation = [self.elevations[index % len(self.elevations)] for index in range(self.views)]
        target = field.bounds.center
        return orbit(azimuth, elevation, [self.distance] * self.views, [self.fov] * self.views, target)

    def sampling(self, own: SampleConfig) -> SampleConfig:
        """How the full model samples, from the subject's own way."""
        return own if self.guidance_scale is None else dataclasses.replace(own, guidance_scale=self.guidance_scale)

    def noise_of(self, cameras: Cameras, backbone: AbstractBackbone, own: SampleConfig, seed: int) -> Tensor | None:
        """Kept noise of the views' latents, `b c h w` float64, from its seed; None: each view draws its own."""
        if self.noise == "fresh":
            return None
        height, width = ((side or backbone.resolution) // backbone.vae_factor for side in (own.height, own.width))
        return turning_noise(cameras.azimuth, (backbone.latent_channels, height, width), self.harmonics, seed)


def make_pseudo_views(
    folder: Path,
    field: AbstractField,
    backbone: AbstractBackbone,
    concept: Concept,
    prompt: str,
    settings: PseudoViewConfig,
    *,
    sampling: SampleConfig,
    words: ViewWords,
    samples: int,
    plain: float,
    seed: int,
    noise_seed: int,
    reporter: Reporter | None = None,
) -> None:
    """Write `NN.png`, `NN_mask.png` (the field's opacity), `NN.txt` (caption) and `transforms.json`, all at once.

    The names are those that `learn` reads photos, masks and captions by.

    Args:
        folder: appears whole or not at all.
        field: the first stage's.
        backbone: with the fully tuned subject in it.
        concept: its words.
        prompt: with `{subject}`.
        settings: which views, how much noise.
        sampling: of the subject.
        words: for directions.
        samples: per ray.
        plain: grey behind the field.
        seed: of noise that every view has for itself.
        noise_seed: of kept noise.
        reporter: hears the progress.
    """
    cameras, side = settings.cameras(field), backbone.resolution
    rendered = render_views(field, cameras, side, side, RenderConfig(samples=samples), background=plain)
    prompts = [prompt + getattr(words, name) for name in directions(cameras, words)]
    with torch.no_grad():
        images = image_to_image(
            backbone,
            rendered.rgb * 2 - 1,
            [concept.prompt(text) for text in prompts],
            seeds=[seed_for(seed, "pseudo view", index) for index in range(len(prompts))],
            strength=settings.strength,
            config=settings.sampling(sampling),
            negative_prompts=[concept.negative_prompt()] * len(prompts),
            noise=settings.noise_of(cameras, backbone, sampling, noise_seed),
            reporter=reporter,
        )
    names = [f"{index:02d}.png" for index in range(len(images))]
    with atomic_folder(folder) as target:
        for name, image, opacity, caption in zip(names, images, rendered.opacity, prompts, strict=True):
            (target / name).write_bytes(png_bytes(to_pil(image)))
            mask = to_pil(opacity[None].expand(3, -1, -1) * 2 - 1).convert("L")
            (target / name.replace(".png", "_mask.png")).write_bytes(png_bytes(mask))
            (target / name.replace(".png", ".txt")).write_text(caption, encoding="utf-8")
        write_transforms(target / "transforms.json", cameras, names, side, side)


def read_pseudo_views(
    folder: Path, *, cut: bool, background: float = 1.0, solid: float = 1.0, margin: int = 0
) -> tuple[Cameras, Tensor]:
    """Cameras and pictures `b 3 h w` in [0, 1].

    Args:
        folder: what `make_pseudo_views` wrote.
        cut: over a grey where the first field was not.
        background: that grey, in [0, 1].
        solid, margin: see `PseudoViewConfig`.

    Raises:
        InputError: a file is missing or damaged.
    """
    cameras, images = read_pictures(folder / "transforms.json")
    if not cut:
        return cameras, images
    _, opacity = read_pictures(folder / "transforms.json", suffix="_mask")
    covered = (opacity / solid).clamp(max=1)
    masks = functional.max_pool2d(covered, 2 * margin + 1, stride=1, padding=margin)
    return cameras, images * masks + background * (1 - masks)
