"""Score distillation on paths (VectorFusion, arXiv 2211.11319): what a denoiser says moves the points."""

from pathlib import Path as FilePath

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config, config_hash, to_jsonable
from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.types import Conditioning, LossTerms, ParameterGroup
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.svg.vector.leaves import Leaves, in_pixels, in_units
from pcs_ext.svg.vector.losses import crossing_loss, cubics
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Scene


@config
class PathDistillation:
    """How paths learn from a denoiser. Defaults: VectorFusion in its open re-implementations."""

    steps: int = 1000
    """Optimiser steps; 0 leaves the paths as they are."""
    guidance_scale: float = 100.0
    """Standard form, 1 = off."""
    low: float = 0.05
    """Lowest noise level, as a share of the schedule, in [0, 1)."""
    high: float = 0.95
    """Highest, above `low`, below 1."""
    point_lr: float = 1.0
    """Adam's step for points, pixels of the base's resolution."""
    color_lr: float = 0.01
    """Adam's step for colours and opacities."""
    crossing_weight: float = 0.01
    """Of the crossing loss, as in LIVE; the score's term has unit weight per latent cell."""
    crop: float = 0.8
    """Smallest random crop of the drawing that is shown to the denoiser, of its side, in (0, 1]; 1 shows all of it."""

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: names the values.
        """
        if not (0 <= self.low < self.high < 1 and 0 < self.crop <= 1 and 0 <= self.steps <= 100_000):
            raise UsageError(
                f"the distillation has low {self.low}, high {self.high}, crop {self.crop}, steps {self.steps}; "
                "expected 0 <= low < high < 1, a crop in (0, 1] and 0 to 100000 steps."
            )


def distill(
    scene: Scene,
    backbone: AbstractBackbone,
    prompt: str,
    settings: PathDistillation,
    *,
    seed: int = 0,
    folder: FilePath | None = None,
    reporter: Reporter | None = None,
) -> Scene:
    """Paths that a frozen base takes for the prompt. An interrupted call goes on where it stopped, given a folder.

    Args:
        scene: where to start; locked paths keep their shape.
        backbone: adapters already injected; its weights get no gradient.
        prompt: with the subject's words in place.
        settings: how.
        seed: of timesteps, noise and crops.
        folder: of checkpoints; None keeps nothing.
        reporter: told about every step.

    Raises:
        UsageError: settings out of range.
        DivergedError: the loss stopped being finite.
        Interrupted: Ctrl-C; what was done is saved in the folder.
    """
    settings.check()
    if not settings.steps or all(path.locked for path in scene.paths):
        return scene
    side = backbone.resolution
    frozen = {path.id for path in scene.paths if path.locked}
    leaves = Leaves(in_pixels(scene, side, side), frozen)
    loss = ScoreLoss(leaves, backbone, prompt, settings)
    checkpoints = None
    if folder is not None:
        sums = [float(points.detach().double().norm()) for points in leaves.of_points()]
        checkpoints = CheckpointFolder(
            folder, config_hash=config_hash([to_jsonable(settings), prompt, seed, backbone.fingerprint, sums])
        )
    groups = [
        ParameterGroup(name="points", parameters=leaves.of_points(), learning_rate=settings.point_lr),
        ParameterGroup(
            name="paint", parameters=(*leaves.of_colors(), *leaves.of_opacities()), learning_rate=settings.color_lr
        ),
    ]
    run = FitConfig(steps=settings.steps, seed=seed, optimizer="adam", lr_schedule="cosine", max_gradient_norm=None)
    reporter = reporter or SilentReporter()
    for state in fit(loss, groups, run, checkpoints=checkpoints, after_step=(leaves.clamp,)):
        reporter.progress("distill", state.step, settings.steps)
    return in_units(leaves.detached(), scene, frozen)


class ScoreLoss:
    """The SDS loss of the drawing and the crossing loss of its paths: a `Loss` for `fit`.

    Args:
        leaves: what trains.
        backbone: the teacher.
        prompt: what it should see.
        settings: how.
    """

    def __init__(self, leaves: Leaves, backbone: AbstractBackbone, prompt: str, settings: PathDistillation) -> None:
        self.leaves, self.backbone, self.settings = leaves, backbone, settings
        with torch.no_grad():
            self.words = Conditioning.cat([backbone.encode_prompt([""]), backbone.encode_prompt([prompt])])

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Terms of one draw of crop, timestep and noise."""
        side = self.backbone.resolution
        scene = self.leaves.current()
        drawn = _cropped(render(scene, side, side), self.settings.crop, generator)
        latents = self.backbone.encode_images(drawn[None] * 2 - 1).float()
        score = self.score(latents.detach(), generator)
        chains = [cubics(s) for p in scene.paths if not p.locked for s in p.subpaths]
        crossing = self.settings.crossing_weight * crossing_loss(torch.cat(chains))
        # Its gradient in the latents is the score (DreamFusion, arXiv 2209.14988, eq. 3); its value means nothing.
        return LossTerms({"score": (score * latents).sum() / latents[0, 0].numel(), "crossing": crossing})

    def score(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """(1 - abar_t) (eps_hat - eps) at a random timestep, `1 c h w`."""
        schedule, total = self.backbone.schedule, self.backbone.schedule.num_train_timesteps
        low, high = int(self.settings.low * total), int(self.settings.high * total)
        timestep = torch.randint(low, high + 1, (1,), generator=generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        with torch.no_grad():
            noisy = schedule.add_noise(latents, noise, timestep)
            both = self.backbone.predict(torch.cat([noisy] * 2), torch.cat([timestep] * 2), self.words).float()
            prediction = combine_guidance(both[:1], both[1:], self.settings.guidance_scale)
            _, sigma = schedule.coefficients(timestep, latents)
            return sigma**2 * (schedule.to_epsilon(prediction, noisy, timestep) - noise)


def _cropped(image: Tensor, least: float, generator: torch.Generator) -> Tensor:
    """A random square part of an image `3 s s`, at the same size."""
    if least == 1:
        return image
    share, x, y = torch.rand(3, generator=generator).tolist()
    size = least + (1 - least) * share
    shift = [(2 * place - 1) * (1 - size) for place in (x, y)]
    theta = torch.tensor([[[size, 0.0, shift[0]], [0.0, size, shift[1]]]])
    grid = F.affine_grid(theta, [1, *image.shape], align_corners=False)
    return F.grid_sample(image[None], grid.to(image), align_corners=False, padding_mode="border")[0]
