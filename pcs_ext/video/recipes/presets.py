"""Values that several recipes share."""

from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.sample import SampleConfig
from pcs_ext.video.recipes.base import Preset


def sampling(preset: Preset, *, steps: int, guidance_scale: float) -> SampleConfig:
    """DDIM with a paper's steps and guidance; toybox is sampled as its pictures are."""
    if preset == "toybox":
        return SAMPLING["toybox"]
    return SampleConfig(scheduler="ddim", num_inference_steps=steps, guidance_scale=guidance_scale)


def small_frames(preset: Preset, frames: int) -> int:
    """A paper's frames, 8 for toybox."""
    return 8 if preset == "toybox" else frames
