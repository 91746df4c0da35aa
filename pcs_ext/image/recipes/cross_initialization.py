"""Cross Initialization (Pang et al. 2023, arXiv 2312.15905): a word starts as what the text encoder makes of one."""

from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import AnchorConfig

_TOKEN = "<subject>"


def cross_initialization(noun: str, preset: Preset) -> Recipe:
    """Two vectors, held to their beginning with 1e-5; 6.25e-4 scaled by 8 to 5e-3, batch 8, 320 steps.

    Differs from the paper: it begins at the mean of celebrities' names, which need a list of people; this begins at the
    class noun. Put names into the adapter's `initializer` (in the JSON of `--dry-run`) to have theirs. `toybox`:
    not measured yet.
    """
    small = preset == "toybox"
    noun_word = noun.split()[-1]
    return Recipe(
        id="cross-initialization",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=noun_word,
            templates=("a photo of {subject}",),
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_TOKEN, num_vectors=2, initializer=noun_word, through_encoder=True)
        },
        phases=(
            Phase(
                name="word",
                learning_rates={"word/embedding": 2e-2 if small else 5e-3},
                batch_size=4 if small else 8,
                objective=ObjectiveConfig(terms=(AnchorConfig(weight=1e-5),)),
                fit=FitConfig(steps=320),
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )
