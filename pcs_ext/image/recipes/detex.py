"""DETEX (Cai et al. 2023, arXiv 2312.11826): a word for the subject, and words made of each photo for all else."""

from pcs_ext.image.adapters import CrossAttentionConfig, EmbeddingConfig, ImageWordsConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import PHOTO_ENCODER, SAMPLING
from pcs_ext.image.terms import AttentionConfig, DecoupleConfig

_SUBJECT, _POSE, _BACKGROUND = "<subject>", "<pose>", "<background>"
_IN_POSE, _ON_BACKGROUND = f" in {_POSE} pose", f" on a {_BACKGROUND} background"


def detex(noun: str, preset: Preset) -> Recipe:
    """The subject's word, pose and background mappers, and keys and values, together; masks beside every photo.

    The subject's and the pose's words are held to the subject, the background's to where it is not (the paper's
    cross-attention loss). Prompts without `<pose>` and `<background>` are free of both; with them ("{subject} on a
    <background> background") they show those of the first photo.

    No code was published. Recalled, not looked up: keys and values as in Custom Diffusion, and weights; rates and steps
    are Custom Diffusion's. `toybox`: its own CLIP, other rates and steps; not measured yet.
    """
    small = preset == "toybox"
    encoder, width = PHOTO_ENCODER[preset]
    rate = 2e-3 if small else 2e-5
    return Recipe(
        id="detex",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_SUBJECT,
            with_noun=True,
            initializer=noun.split()[-1],
            templates=(f"a photo of {{subject}}{_IN_POSE}{_ON_BACKGROUND}",),
            aspects=(_POSE, _BACKGROUND),
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_SUBJECT, initializer=noun.split()[-1]),
            "pose": ImageWordsConfig(placeholder=_POSE, initializer="pose", encoder=encoder, width=width),
            "background": ImageWordsConfig(
                placeholder=_BACKGROUND, initializer="background", encoder=encoder, width=width, init_seed=1
            ),
            "keys_values": CrossAttentionConfig(),
        },
        phases=(
            Phase(
                name="joint",
                learning_rates={
                    "word": rate,
                    "pose": 1e-3 if small else 2e-5,
                    "background": 1e-3 if small else 2e-5,
                    "keys_values": 5e-4 if small else 2e-5,
                },
                batch_size=4 if small else 2,
                objective=ObjectiveConfig(
                    terms=(
                        DecoupleConfig(around=(_ON_BACKGROUND,), of_subject=(_IN_POSE,)),
                        AttentionConfig(form="both", side=8 if small else 16, elsewhere=("background",)),
                    )
                ),
                fit=FitConfig(steps=200 if small else 500),
            ),
        ),
        needs_masks=True,
        sampling=SAMPLING[preset],
    )
