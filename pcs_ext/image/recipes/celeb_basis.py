"""Celeb Basis (Yuan et al. 2023, arXiv 2306.00926): a person's word lies among the words of names."""

import itertools

from pcs_ext.image.adapters import BasisConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN = "<subject>"
_FIRST = ("john", "mary", "james", "anna", "david", "sarah", "peter", "laura", "paul", "emma", "mark", "julia", "tom",
          "alice", "george", "grace", "henry", "lucy", "jack", "rose")  # fmt: skip
_LAST = ("smith", "brown", "jones", "taylor", "wilson", "king", "white", "hall", "green", "baker", "young", "scott",
         "hill", "wood", "cook", "bell", "ward", "stone", "fox", "reed")  # fmt: skip
_COLORS = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "brown", "black", "white", "gray")
_TOYS = ("robot", "dog", "cat", "car", "teapot", "house", "mug", "boat", "rocket", "duck", "bear", "toy")


def celeb_basis(noun: str, preset: Preset) -> Recipe:
    """Two tokens, each at most 512 coefficients; 800 steps at 5e-3 x batch 2, the released code's.

    The paper's 691 names of celebrities are not here, and whose face may be drawn with whose name is not ours to
    decide: `names` are 400 combinations of common first and family names; put a list of your own into the JSON.
    `toybox`: colours and toys instead of people, other rate and steps; not measured yet.
    """
    small = preset == "toybox"
    first, last = (_COLORS, _TOYS) if small else (_FIRST, _LAST)
    names = tuple(f"{one} {other}" for one, other in itertools.product(first, last))
    return Recipe(
        id="celeb-basis",
        concept=Concept(class_noun=noun, mode="learned", token=_TOKEN, with_noun=False, initializer=noun.split()[-1]),
        adapters={"word": BasisConfig(placeholder=_TOKEN, names=names)},
        phases=(
            Phase(
                name="coefficients",
                learning_rates={"word/embedding": 2e-2 if small else 1e-2},
                batch_size=4 if small else 2,
                fit=FitConfig(steps=300 if small else 800),
            ),
        ),
        sampling=SAMPLING[preset],
    )
