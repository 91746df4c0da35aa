"""SwapAnything (Gu et al., ECCV 2024, arXiv 2404.05717): any object of a picture, swapped within its mask alone."""

from pcs_ext.image.edits.swap import SwapConfig
from pcs_ext.image.locate import LocateConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import SampleConfig


def swapanything(preset: Preset) -> SwapConfig:
    """Targeted variable swapping in a crop around the object: latents always, attention for a part of the steps.

    Outside of the mask latents, self-attention outputs and maps and cross-attention maps are the picture's; inside they
    are the subject's. Appearance adaptation: of location by the mask, of scale by the crop (20 % margin), of style by
    the statistics of the latents inside the mask, of content by letting the subject gain the inside gradually.

    The paper leaves durations to a sweep from 0.1 to 0.7; these are ours, as are style and ramp.
    """
    small = preset == "toybox"
    return SwapConfig(
        id="swapanything",
        sampling=SampleConfig(
            scheduler="ddim", num_inference_steps=25 if small else 50, guidance_scale=5.0 if small else 7.5
        ),
        cross_maps=0.5,
        self_maps=0.5,
        self_outputs=0.5,
        attention_outside=True,
        style=0.2,
        ramp=0.1,
        crop=True,
        growth=1,
        locate=LocateConfig(growth=1),
    )
