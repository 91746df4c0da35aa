"""SimAC: ASPL at timesteps where the image's gradient is strong (arXiv 2312.07865)."""

import dataclasses

from pcs_ext.defense.method import Defense, StepRule
from pcs_ext.defense.recipes.aspl import aspl
from pcs_ext.defense.timing import Search, Timing
from pcs_ext.image.recipes import Preset


def simac(preset: Preset) -> Defense:
    """50 rounds of 6 steps of 0.6375 levels at 8 levels (its 16/255 is applied on [-1, 1]).

    Differs from the released script: its feature term has no gradient there and is left out, with the second pass it
    costs; the user's seed counts, where the script takes 42; the search moves a copy of the photo, and
    the candidates of one of its trials are compared on the same noise and square of the photo.
    """
    return dataclasses.replace(aspl(preset), id="simac", rule=StepRule(size=0.6375), timing=Timing(search=Search()))
