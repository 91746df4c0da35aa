"""Three sizes of one method, for who does not want to choose: ASPL with less or more work than its paper's."""

import dataclasses

from pcs_ext.defense.canvas import Views
from pcs_ext.defense.method import Defense
from pcs_ext.defense.recipes.aspl import aspl
from pcs_ext.defense.timing import Timing
from pcs_ext.defense.transforms import Crop, Flip, Jpeg, Resize
from pcs_ext.image.recipes import Preset


def fast(preset: Preset) -> Defense:
    """ASPL in 15 rounds of 4 gradient steps, four timesteps for each pass through the encoder.

    240 looks at the denoiser for 60 passes of the encoder, where ASPL has 300 of each. Differs from ASPL: another
    algorithm, chosen for its cost.
    """
    return dataclasses.replace(aspl(preset), id="fast", rounds=15, steps=4, timing=Timing(per_encode=4))


def balanced(preset: Preset) -> Defense:
    """ASPL as it is."""
    return dataclasses.replace(aspl(preset), id="balanced")


def strong(preset: Preset) -> Defense:
    """ASPL in 75 rounds of 8 steps on photos that are resized, cropped, recompressed and mirrored on the way, at two
    zooms: for photos that will be recompressed, and for attackers who cut them."""
    return dataclasses.replace(
        aspl(preset),
        id="strong",
        rounds=75,
        steps=8,
        views=Views(zooms=(1.0, 1.5)),
        transforms=(Resize(), Crop(), Jpeg(), Flip()),
    )
