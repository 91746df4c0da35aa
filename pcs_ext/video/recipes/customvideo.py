"""CustomVideo (Wang et al. 2024, arXiv 2401.09962): several subjects, seen together, each word held to its mask."""

from pcs_ext.image.adapters import AdapterConfig, CrossAttentionConfig, EmbeddingConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import MaskNormalisation, ObjectiveConfig
from pcs_ext.image.recipes import Phase, Recipe
from pcs_ext.image.recipes.break_a_scene import placeholders
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import AttentionConfig
from pcs_ext.video.recipes.base import Preset


def several_concept(nouns: list[str]) -> Concept:
    """The words of several subjects; prompts write `<robot>`, `<mug>`, or `{subject}` for all."""
    tokens = placeholders(nouns)
    return Concept(
        class_noun=" and a ".join(nouns),
        mode="learned",
        token=tokens[0],
        with_noun=False,
        initializer=nouns[0].split()[-1],
        parts=tokens if len(tokens) > 1 else (),
    )


def several_words(noun: str) -> tuple[Concept, dict[str, AdapterConfig]]:
    """Of "robot, mug": the words of both, and an embedding for each that starts as its noun."""
    nouns = [part.strip() for part in noun.split(",") if part.strip()]
    concept = several_concept(nouns)
    tokens = concept.parts or (concept.token,)
    return concept, {
        f"word_{index + 1}": EmbeddingConfig(placeholder=token, initializer=nouns[index].split()[-1])
        for index, token in enumerate(tokens)
    }


def customvideo(noun: str, preset: Preset) -> Recipe:
    """A word per subject and the keys and values of the text attention, on collages of the subjects; prior weight 1.

    The parts are the paper's: subjects cut out and set into one picture (`video.collages`), a word each, keys and
    values, attention to each word pulled into its subject's mask and pushed out of the rest, and prior preservation.
    Loss inside the masks alone, attention weight 1e-2, 500 steps of batch 2 at 2e-5 and 200 class images are ours
    (Custom Diffusion's and Break-A-Scene's): the paper's could not be looked up.

    `toybox`: 2e-3 and 5e-4, 300 steps, 64 class images; not measured.

    Args:
        noun: "robot, mug": one noun per subject, in the order of their photos.
        preset: of the base.
    """
    small = preset == "toybox"
    concept, words = several_words(noun)
    return Recipe(
        id="customvideo",
        concept=concept,
        adapters={**words, "keys_values": CrossAttentionConfig()},
        phases=(
            Phase(
                name="subjects",
                learning_rates={
                    **dict.fromkeys(words, 2e-3 if small else 2e-5),
                    "keys_values": 5e-4 if small else 2e-5,
                },
                weight_decay=1e-2,
                batch_size=2,
                objective=ObjectiveConfig(
                    prior_loss_weight=1.0,
                    mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN,
                    terms=(AttentionConfig(form="both", side=8 if small else 16),),
                ),
                fit=FitConfig(steps=300 if small else 500),
            ),
        ),
        augmentation=Augmentation(flip=False),
        class_images=64 if small else 200,
        needs_masks=True,
        sampling=SAMPLING[preset],
    )
