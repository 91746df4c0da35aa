"""A subject learned anew as MVDream does it: all weights, single pictures, held by the drift of the weights.

Shi et al. 2023 (arXiv 2308.16512, "MVDream DreamBooth"): the model stays view-joint because it moves little. Our base
is made view-joint by an adapter beside its weights, which the subject's weights leave alone.
"""

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes import Phase, Recipe
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.terms import DriftConfig


@config
class RelearnConfig:
    """How the subject is learned anew."""

    fit: FitConfig
    """Steps and optimiser."""
    learning_rate: float
    """Of all weights of the denoiser."""
    batch_size: int = 4
    """Photos per step."""
    drift_weight: float = 1.0
    """Of the mean absolute distance of the weights to the base's (MVDream: 1)."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.batch_size < 1 or self.drift_weight < 0:
            raise ConfigError(
                "expected a positive learning rate and batch size and a drift weight of at least 0, got "
                f"{self.learning_rate}, {self.batch_size} and {self.drift_weight}."
            )


def relearning(noun: str, settings: RelearnConfig, sampling: SampleConfig) -> Recipe:
    """The core's recipe: a rare word, the whole denoiser, no class images."""
    phase = Phase(
        name="denoiser",
        learning_rates={"denoiser": settings.learning_rate},
        batch_size=settings.batch_size,
        objective=ObjectiveConfig(terms=(DriftConfig(weight=settings.drift_weight),)),
        fit=settings.fit,
    )
    return Recipe(
        id="mvdream-dreambooth",
        concept=Concept(class_noun=noun, mode="rare", templates=("a photo of {subject}",)),
        adapters={"denoiser": FullConfig(components=("denoiser",))},
        phases=(phase,),
        augmentation=Augmentation(flip=False),
        sampling=sampling,
    )
