"""The last step of an edit: its pictures, a little noised and denoised, are fitted once more (TIP-Editor, sec. 4.3)."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.image_to_image import image_to_image
from pcs_ext.image.sample import SampleConfig
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.edited_splats import EditedSplats
from pcs_ext.threed.splat_fit import SplatFit
from pcs_ext.threed.splat_render import render_splats
from pcs_ext.threed.view_prompts import ViewWords, directions


@config
class RefineConfig:
    """How an edit is refined."""

    pictures: SplatFit
    """Views and how the content is fitted to them; splats are not added."""
    strength: float = 0.05
    """Noise level to start from, as a share of the schedule, in (0, 1] (TIP-Editor: 0.05)."""
    guidance_scale: float = 6.0
    """Of the denoising (TIP-Editor: 5 in its own form)."""

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ConfigError(f"the strength of a refinement must be in (0, 1], got {self.strength}.")


@torch.no_grad()
def refined_pictures(
    splats: EditedSplats,
    backbone: AbstractBackbone,
    prompt: str,
    settings: RefineConfig,
    *,
    sampling: SampleConfig,
    negative_prompt: str = "",
    words: ViewWords,
    plain: float,
    seed: int,
    reporter: Reporter | None = None,
) -> tuple[Cameras, Tensor]:
    """What the edited scene is to look like: denoised where the content is seen, the scene's own picture elsewhere.

    Args:
        splats: after its edit.
        backbone: with the subject and the scene in it.
        prompt: of the edited scene, with the subject's words in place; view words are appended.
        settings: which views, how much noise.
        sampling: how to denoise; its guidance scale is not read.
        negative_prompt: what to stay away from.
        words: for directions.
        plain: grey behind the scene.
        seed: of the noise.
        reporter: hears the progress.

    Returns:
        Cameras `b` and pictures `b 3 h w` in [0, 1], on the CPU.
    """
    side, cameras = settings.pictures.side, settings.pictures.cameras(splats.bounds)
    now = render_splats(splats.cloud(), cameras, side, side, background=plain).rgb
    before = render_splats(splats.scene.cloud(), cameras, side, side, background=plain).rgb
    share = render_splats(splats.marked(), cameras, side, side, background=0.0).rgb
    drawn = image_to_image(
        backbone,
        now * 2 - 1,
        [prompt + getattr(words, name) for name in directions(cameras, words)],
        seeds=[seed_for(seed, "refined", index) for index in range(len(cameras))],
        strength=settings.strength,
        config=dataclasses.replace(sampling, guidance_scale=settings.guidance_scale),
        negative_prompts=[negative_prompt] * len(cameras),
        reporter=reporter,
    )
    drawn = torch.nn.functional.interpolate(drawn * 0.5 + 0.5, (side, side), mode="bilinear", antialias=True)
    share, before = share.cpu(), before.cpu()
    return cameras, share * drawn.cpu().clamp(0, 1) + (1 - share) * before
