"""PhotoSwap (Gu et al., NeurIPS 2023, arXiv 2305.18286): another subject in a photo, by swapping attention."""

from pcs_ext.image.edits.swap import SwapConfig
from pcs_ext.image.locate import LocateConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import SampleConfig


def photoswap(preset: Preset) -> SwapConfig:
    """Of 50 steps the first 20 take cross-attention maps, 25 self-attention maps, 10 self-attention outputs.

    The numbers are the paper's as recalled, not checked against it; guidance 7.5. The swap of outputs is the paper's,
    which the released code replaces by a longer swap of maps.

    Differs from PhotoSwap: the mask is read once from the picture, not in every step from both branches, so that
    what must not change is known beforehand.
    """
    small = preset == "toybox"
    return SwapConfig(
        id="photoswap",
        sampling=SampleConfig(
            scheduler="ddim", num_inference_steps=25 if small else 50, guidance_scale=5.0 if small else 7.5
        ),
        cross_maps=0.4,
        self_maps=0.5,
        self_outputs=0.2,
        growth=1,
        locate=LocateConfig(growth=1),
    )
