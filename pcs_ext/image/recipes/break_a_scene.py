"""Break-A-Scene (Avrahami et al. 2023, arXiv 2305.16311): several subjects from one masked photo, words first."""

from collections.abc import Sequence

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import AdapterConfig, EmbeddingConfig, FullConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import MaskNormalisation, ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import AttentionConfig


def break_a_scene(noun: str, preset: Preset) -> Recipe:
    """400 steps of the words at 5e-4, then 400 of words, denoiser and text encoder at 2e-6; prior weight 1.

    Masked loss, attention held to the masks with weight 1e-2, a random subset of the subjects in every caption, photos
    mirrored half of the time. Differs from the released code: class images are of the subjects' nouns, there of "a
    photo at the beach", on purpose unrelated (`class_template` in the JSON). `toybox`: other rates, steps and map size;
    not measured yet.

    Args:
        noun: "robot, mug": one noun per subject, in the order of the numbered masks; prompts then say `<robot>`,
            `<mug>`, or `{subject}` for all. One noun alone is one subject with one mask.
        preset: of the base.
    """
    small = preset == "toybox"
    nouns = [part.strip() for part in noun.split(",") if part.strip()]
    tokens = placeholders(nouns)
    words = {f"word_{index + 1}": _word(token, nouns[index]) for index, token in enumerate(tokens)}
    adapters: dict[str, AdapterConfig] = {**words, "weights": FullConfig(components=("denoiser", "text_encoder"))}
    objective = ObjectiveConfig(
        prior_loss_weight=1.0,
        mask_normalisation=MaskNormalisation.MULTIPLY_BOTH,
        terms=(AttentionConfig(side=8 if small else 16),),
    )
    low = 5e-5 if small else 2e-6
    steps, batch = (200, 2) if small else (400, 1)
    return Recipe(
        id="break-a-scene",
        concept=concept_of_parts(nouns, tokens),
        adapters=adapters,
        phases=(
            Phase(
                name="words",
                learning_rates=dict.fromkeys(words, 5e-3 if small else 5e-4),
                batch_size=batch,
                objective=objective,
                fit=FitConfig(steps=steps),
            ),
            Phase(
                name="weights",
                learning_rates={**dict.fromkeys(words, low), "weights": low},
                batch_size=batch,
                objective=objective,
                fit=FitConfig(steps=steps),
            ),
        ),
        augmentation=Augmentation(flip=True),
        class_images=32 if small else 100,
        needs_masks=True,
        sampling=SAMPLING[preset],
    )


def concept_of_parts(nouns: Sequence[str], tokens: tuple[str, ...]) -> Concept:
    """Several subjects, a learned word for each; one alone is a subject as any other.

    Args:
        nouns: class nouns, one per subject.
        tokens: of `placeholders`, in their order.
    """
    return Concept(
        class_noun=" and a ".join(nouns),
        mode="learned",
        token=tokens[0],
        with_noun=False,
        initializer=nouns[0].split()[-1],
        parts=tokens if len(tokens) > 1 else (),
    )


def placeholders(nouns: list[str]) -> tuple[str, ...]:
    """`<subject>` for one subject, `<robot>` and `<mug>` for several.

    Raises:
        UsageError: no noun, or two that are alike.
    """
    if len(nouns) == 1:
        return ("<subject>",)
    names = [name.replace(" ", "-") for name in nouns]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"expected one different noun per subject, such as 'robot, mug'; got {nouns}.")
    return tuple(f"<{name}>" for name in names)


def _word(token: str, noun: str) -> EmbeddingConfig:
    return EmbeddingConfig(placeholder=token, initializer=noun.split()[-1])
