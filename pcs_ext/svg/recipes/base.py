"""A vector recipe is a value: how an exemplar is learned, aligned and optimised, or how a text becomes paths."""

import dataclasses
from collections.abc import Callable

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.recipes import Preset, Recipe
from pcs_ext.image.sample import SampleConfig
from pcs_ext.svg.vector.align import Alignment
from pcs_ext.svg.vector.distill import PathDistillation
from pcs_ext.svg.vector.refine import Refinement
from pcs_ext.svg.vector.vectorize import Vectorization

PROMPT = "{prompt}"


@config
class CustomizationRecipe:
    """From an exemplar and a prompt to an SVG with the exemplar's layers."""

    id: str
    """Key in `RECIPES`."""
    concept: Recipe
    """How the base learns the exemplar: a recipe of the image core."""
    prompt_template: str = PROMPT
    """What is asked of the base: `{prompt}` is what the user wrote."""
    layout_strength: float = 1.0
    """Where sampling sets in, as a share of the noise schedule in (0, 1]: 1 starts at pure noise, as the paper does;
    below, the noised exemplar is the start (SDEdit, arXiv 2108.01073) and its layout stays the more."""
    variants: int = 12
    """Drawings of the exemplar it is learned from, at other sizes, places and on other grounds."""
    least_size: float = 0.6
    """Smallest size of these, of the canvas, in (0, 1]."""
    feature_block: int = 1
    """Decoder block of the denoiser whose output describes a picture (DIFT, arXiv 2306.03881: 1)."""
    feature_timestep: float = 0.26
    """At this share of the noise schedule (DIFT: 261 of 1000)."""
    feature_draws: int = 8
    """Noise draws averaged (DIFT: 8)."""
    alignment: Alignment = dataclasses.field(default_factory=Alignment)
    """Which paths stay, and where they go."""
    refinement: Refinement = dataclasses.field(default_factory=Refinement)
    """How they are optimised."""
    added_paths: int = 6
    """At most so many new paths where the aligned ones leave much unexplained; 0 adds none."""
    least_added_area: float = 0.002
    """Regions below this share of the picture are not worth a new path."""

    def validate(self) -> None:
        """Check what types cannot say.

        Raises:
            ConfigError: no place for the prompt, or numbers out of range.
            UsageError: the alignment's or the refinement's are.
        """
        self.concept.validate()
        self.alignment.check()
        self.refinement.check()
        if PROMPT not in self.prompt_template:
            raise ConfigError(f"prompt_template is {self.prompt_template!r}; expected {PROMPT} somewhere in it.")
        if not (1 <= self.variants <= 256 and 0 < self.least_size <= 1 and 0 <= self.added_paths <= 256):
            raise ConfigError(
                f"variants {self.variants}, least_size {self.least_size} or added_paths {self.added_paths} is out of "
                "range; expected 1 to 256, a share in (0, 1], and 0 to 256."
            )
        if not 0 < self.layout_strength <= 1:
            raise ConfigError(f"layout_strength is {self.layout_strength}; expected a share in (0, 1], 1 for none.")
        if self.feature_draws < 1 or not 0 <= self.feature_timestep < 1 or self.feature_block < 0:
            raise ConfigError(
                f"feature_block {self.feature_block}, feature_timestep {self.feature_timestep} or feature_draws "
                f"{self.feature_draws} is out of range; expected 0 or more, a share in [0, 1), and 1 or more."
            )


@config
class TextToVectorRecipe:
    """From a prompt to an SVG of new paths."""

    id: str
    """Key in `RECIPES`."""
    prompt_template: str = PROMPT
    """What is asked of the base: `{prompt}` is what the user wrote."""
    sampling: SampleConfig
    """Of the picture the paths start from."""
    vectorization: Vectorization = dataclasses.field(default_factory=Vectorization)
    """How that picture becomes paths."""
    distillation: PathDistillation = dataclasses.field(default_factory=PathDistillation)
    """How the base then teaches the paths."""

    def validate(self) -> None:
        """Check what types cannot say.

        Raises:
            ConfigError: no place for the prompt.
            UsageError: the vectorisation's or the distillation's numbers are out of range.
        """
        self.vectorization.check()
        self.distillation.check()
        if PROMPT not in self.prompt_template:
            raise ConfigError(f"prompt_template is {self.prompt_template!r}; expected {PROMPT} somewhere in it.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorEntry:
    """What `RECIPES` holds."""

    id: str
    summary: str
    """One line for lists."""
    paper: str
    """Where it is described."""
    system: str
    """Row of the survey: an id of `systems.json`; empty for baselines without one."""
    build: Callable[[str, Preset], CustomizationRecipe | TextToVectorRecipe]
    """`(class noun, preset) -> recipe`."""
