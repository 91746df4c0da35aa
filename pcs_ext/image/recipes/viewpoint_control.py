"""CustomDiffusion360 (Kumari et al. 2024, arXiv 2404.12333): a subject that is seen from a given camera."""

from pcs_ext.image.adapters import EmbeddingConfig, FeatureFieldConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.masked_loss import MaskNormalisation
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import RenderingConfig
from pcs_ext.image.timesteps import TimestepSampling

_TOKEN = "<subject>"


def viewpoint_control(noun: str, preset: Preset) -> Recipe:
    """A word before the noun, and fields in every second block, from about 50 masked photos with their cameras.

    1e-4, 1610 steps of four photos, five references of which a quarter of the photos sees none, 24 samples along a ray,
    mostly coarse noise, weights 5, 10 and 10 of colours, silhouettes and background, class images beside: the released
    configuration's (SDXL; four GPUs with a photo each). The base's own weights stay, as its description says.

    Differs from it: samples lie in equal parts of a ball about the subject and are not drawn anew where there is
    something; references of a batch are shared, and no gradient flows through what the denoiser makes of them; texts
    are not dropped, and one guidance is for text and view together. How points combine references and text is
    recalled.
    `toybox`: other rates and steps, chosen on one subject.

    Args:
        noun: what the subject is.
        preset: of the base.
    """
    small = preset == "toybox"
    word = noun.split()[-1]
    return Recipe(
        id="viewpoint-control",
        concept=Concept(
            class_noun=noun, mode="learned", token=_TOKEN, initializer=word, templates=("a photo of {subject}",)
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_TOKEN, initializer=word),
            "view": FeatureFieldConfig(
                placeholder=_TOKEN, caption=f"a photo of a {_TOKEN} {noun}", samples=8 if small else 24,
                references=4 if small else 5, width=48 if small else 128,
            ),
        },
        phases=(
            Phase(
                name="joint",
                learning_rates={"word/embedding": 5e-3 if small else 1e-4, "view": 2e-3 if small else 1e-4},
                weight_decay=1e-2,
                batch_size=4,
                objective=ObjectiveConfig(
                    prior_loss_weight=1.0,
                    mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN,
                    timesteps=TimestepSampling(kind="cubic"),
                    terms=(RenderingConfig(),),
                ),
                fit=FitConfig(steps=400 if small else 1610),
            ),
        ),
        class_images=64 if small else 200,
        needs_masks=True,
        needs_cameras=True,
        sampling=SAMPLING[preset],
    )  # fmt: skip
