"""StyleAvatar3D (Zhang et al. 2023, arXiv 2305.19012): a 3D generator trained on views that a diffusion model stylises.

Renders of a shape guide the pictures of a learned subject or style, view by view, with words and negative words for the
view; a generator on three planes learns from them against a discriminator that is told the view, finely where pictures
can be trusted, else coarsely. Differs from StyleAvatar3D: pictures by the hundred instead of by the hundred thousand,
of one shape instead of an engine's avatars; without a ControlNet the noised render guides; networks of a hundredth of
EG3D's size and 32 pixels without a network that enlarges them; no diffusion model in the space of styles, so pictures
cannot be given to the generator. Groups of views and their shares are ours.
"""

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.threed.recipes.base import Effort, GeneratorRecipe
from pcs_ext.threed.recipes.stages import words
from pcs_ext.threed.triplane.gan_stage import GanStage
from pcs_ext.threed.triplane.networks import GeneratorConfig
from pcs_ext.threed.triplane.view_data import ViewDataConfig

_SIZE: dict[Effort, tuple[int, int]] = {"fast": (24, 200), "balanced": (96, 1500), "paper": (2000, 100_000)}
"""Pictures and steps; all ours, the paper made 500,000 pictures."""


def styleavatar3d(preset: Preset, effort: Effort) -> GeneratorRecipe:
    """`toybox`: seen from above the horizon alone, as its world is; networks of half the size."""
    small = preset == "toybox"
    pictures, steps = _SIZE[effort]
    return GeneratorRecipe(
        id="styleavatar3d",
        words=words(preset),
        data=ViewDataConfig(count=pictures, pitch=(0.0, 30.0), hidden=())
        if small
        else ViewDataConfig(count=pictures, background=1.0),
        gan=GanStage(
            generator=GeneratorConfig() if small else GeneratorConfig(width=64, planes=16, resolution=64),
            side=32 if small else 64,
            fit=FitConfig(steps=steps, optimizer="adam", betas=(0.0, 0.99), max_gradient_norm=None, ema_decay=0.99),
        ),
    )
