"""Gradient-free Textual Inversion (Fei et al. 2023, arXiv 2304.05818): a word found by evolution, without gradients."""

from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.concept import OBJECT_TEMPLATES, Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN = "<subject>"


def gradient_free_ti(noun: str, preset: Preset) -> Recipe:
    """256 principal directions of the token table, CMA-ES with 20 candidates, 250 generations (5,000 evaluations).

    A step is a generation; each candidate is judged on five batches of five photos, as many as the released code's five
    rounds over five photos. Numbers are that code's.

    Differs from it: the directions are as long as the table spreads along them (its unit directions at step size 1
    draw words forty times too long, which its other projection avoids); candidates of a generation share the noise,
    too; what is kept is the mean of the search, not the best candidate of the last generation; the word starts at the
    class word, which there is what is left when CLIP is not asked to mix it from class names. `toybox`: fewer
    directions and generations; not measured yet.
    """
    small = preset == "toybox"
    initializer = noun.split()[-1]
    return Recipe(
        id="gradient-free-ti",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=initializer,
            templates=("a photo of {subject}",) if small else OBJECT_TEMPLATES,
        ),
        adapters={"word": EmbeddingConfig(placeholder=_TOKEN, initializer=initializer, subspace=64 if small else 256)},
        phases=(
            Phase(
                name="word",
                learning_rates={"word/embedding": 1.0},
                batch_size=5,
                fit=FitConfig(steps=100 if small else 250, optimizer="cma_es", gradient_accumulation=1 if small else 5),
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )
