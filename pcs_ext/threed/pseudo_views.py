"""Pseudo views: renders of a field that a fully tuned model makes look like the subject (DreamBooth3D, stage 2)."""

from pathlib import Path

import torch
from torch import Tensor

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
    cut: bool = True
    """Reconstruct only what the first field covers, over white."""

    def __post_init__(self) -> None:
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
        seed: of the noise.
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
            config=sampling,
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


def read_pseudo_views(folder: Path, *, cut: bool) -> tuple[Cameras, Tensor]:
    """Cameras and pictures `b 3 h w` in [0, 1]; cut: over white where the first field was not.

    Raises:
        InputError: a file is missing or damaged.
    """
    cameras, images = read_pictures(folder / "transforms.json")
    if not cut:
        return cameras, images
    _, masks = read_pictures(folder / "transforms.json", suffix="_mask")
    return cameras, images * masks + 1 - masks
