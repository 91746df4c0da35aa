"""SVDiff (Han et al. 2023, arXiv 2303.11305): only the singular values of the weights move."""

from pcs_ext.image.adapters import FullConfig, SpectralShiftConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_VECTORS = (r"\.bias$", r"norm[\w.]*\.weight$")


def svdiff(noun: str, preset: Preset) -> Recipe:
    """Shifts in denoiser and text encoder at 1e-3, the denoiser's biases and norms at 1e-6, prior weight 1.

    800 steps beside 200 class images. For one subject: the paper's cut-mix of two is not here. `toybox`: shifts alone;
    not measured yet.
    """
    small = preset == "toybox"
    adapters: dict = {"shifts": SpectralShiftConfig(components=("denoiser", "text_encoder"))}
    rates = {"shifts": 3e-2 if small else 1e-3}
    if not small:
        adapters["vectors"] = FullConfig(include=_VECTORS)
        rates["vectors"] = 1e-6
    return Recipe(
        id="svdiff",
        concept=Concept(class_noun=noun, mode="rare", templates=("a photo of {subject}",)),
        adapters=adapters,
        phases=(
            Phase(
                name="shifts",
                learning_rates=rates,
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(prior_loss_weight=1.0),
                fit=FitConfig(steps=300 if small else 800),
            ),
        ),
        augmentation=Augmentation(flip=False),
        class_images=64 if small else 200,
        sampling=SAMPLING[preset],
    )
