"""Values that several recipes share."""

from pcs_ext.image.recipes.base import Preset
from pcs_ext.image.sample import SampleConfig

SAMPLING: dict[Preset, SampleConfig] = {
    "toybox": SampleConfig(scheduler="dpmsolver++", num_inference_steps=20, guidance_scale=5.0),
    "sd": SampleConfig(scheduler="dpmsolver++", num_inference_steps=30, guidance_scale=7.5),
    "sdxl": SampleConfig(scheduler="dpmsolver++", num_inference_steps=30, guidance_scale=6.0),
}
"""How to sample unless told otherwise. 7.5 is what the survey's comparison used for tuned Stable Diffusion models."""
PHOTO_ENCODER: dict[Preset, tuple[str, int]] = {
    "toybox": ("toybox", 192),
    "sd": ("openai/clip-vit-large-patch14", 768),
    "sdxl": ("openai/clip-vit-large-patch14", 768),
}
"""The CLIP that looks at photos while they are learned, and the width of its features."""
