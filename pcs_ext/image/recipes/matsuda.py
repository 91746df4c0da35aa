"""Matsuda et al. (ICASSP 2024): several subjects, each tied to a region of a segmentation map, one after another."""

from pcs_ext.image.adapters import AdapterConfig, EmbeddingConfig, FullConfig, GuideConfig
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.guided import GuideShare
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.break_a_scene import concept_of_parts, placeholders
from pcs_ext.image.recipes.presets import SAMPLING


def matsuda(noun: str, preset: Preset) -> Recipe:
    """DreamBooth mixed with its segmentation-guided form, a phase for every subject, earlier ones kept by EWC.

    The loss of a phase is DreamBooth's and that of a ControlNet over the photo's segmentation map, by shares that
    change while it trains: with too much of one the subject overfits or the map is ignored. From the second subject
    on, elastic weight consolidation keeps what earlier ones learned. In use, each subject stands in its own region.

    Of the paper an excerpt is known: the two losses, the share gamma in [0, 1] that follows the training's progress,
    EWC. Not known, and ours: that gamma rises in a line from 0 to 1, every rate, lambda and number of steps.

    Differs from it: subjects are learned words, whose class words are where they start; the ControlNet starts from the
    denoiser's own weights and is learned with the subjects, as no base here has one for segmentation.

    Args:
        noun: "robot, mug": one noun per subject, in the order of the numbered masks, black where a photo does not show
            it; one noun alone is one subject with one mask.
        preset: of the base.
    """
    small = preset == "toybox"
    nouns = [part.strip() for part in noun.split(",") if part.strip()]
    tokens = placeholders(nouns)
    words = {
        f"word_{index + 1}": EmbeddingConfig(placeholder=token, initializer=nouns[index].split()[-1])
        for index, token in enumerate(tokens)
    }
    adapters: dict[str, AdapterConfig] = {
        "guide": GuideConfig(regions=tokens),  # first: it copies the denoiser as it is
        **words,
        "denoiser": FullConfig(components=("denoiser",)),
    }
    return Recipe(
        id="matsuda",
        concept=concept_of_parts(nouns, tokens),
        adapters=adapters,
        phases=tuple(_phase(index, word, several=len(tokens) > 1, small=small) for index, word in enumerate(words)),
        class_images=64 if small else 200,
        class_templates=tuple(f"a photo of a {noun}" for noun in nouns),
        needs_masks=True,
        sampling=SAMPLING[preset],
    )


def _phase(index: int, word: str, *, several: bool, small: bool) -> Phase:
    rates = {word: 5e-3, "denoiser": 1e-4, "guide": 5e-4} if small else {word: 5e-4, "denoiser": 5e-6, "guide": 1e-5}
    return Phase(
        name=f"subject_{index + 1}",
        learning_rates=rates,
        weight_decay=1e-2,
        batch_size=4 if small else 1,
        objective=ObjectiveConfig(prior_loss_weight=1.0, consolidation_weight=1e4 if index else 0.0),
        fit=FitConfig(steps=200 if small else 800),
        guide=GuideShare(begin=0.0, end=1.0),
        part=index if several else None,
    )
