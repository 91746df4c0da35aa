"""StyleBoost (Park et al. 2023): DreamBooth for a style, beside auxiliary pictures of people."""

from pcs_ext.image.adapters import FullConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING


def styleboost(noun: str, preset: Preset) -> Recipe:
    """15 to 20 pictures of a style as "sks style", and what its base draws of people as "style"; both towers train.

    Prompts write {subject} for the style: "a house, {subject}". The auxiliary pictures are drawn by the base, under a
    caption other than the one they are learned with; the paper collects some. Rates of the denoiser and text encoder,
    batch and prior weight are recalled, not looked up; 800 steps are ours. `toybox`: other rates and steps, `--noun
    robot`; not measured yet.

    Args:
        noun: what is hardest to draw in the style, and what the auxiliary pictures show: "person".
        preset: of the base.
    """
    return style_recipe(
        "styleboost",
        Concept(class_noun="style", mode="rare", templates=("a picture in {subject}",), article=False),
        noun,
        preset,
    )


def style_recipe(id: str, concept: Concept, noun: str, preset: Preset) -> Recipe:
    """All weights of denoiser and text encoder on a style; class images of a noun, captioned as the style's class.

    Args:
        id: of the recipe.
        concept: of class noun "style".
        noun: what the auxiliary pictures show.
        preset: of the base.
    """
    small = preset == "toybox"
    rate = 5e-5 if small else 1e-6
    return Recipe(
        id=id,
        concept=concept,
        adapters={"weights": FullConfig(components=("denoiser", "text_encoder"))},
        phases=(
            Phase(
                name="weights",
                learning_rates={"weights": rate},
                weight_decay=1e-2,
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(prior_loss_weight=1.0),
                fit=FitConfig(steps=150 if small else 800),
            ),
        ),
        class_images=32 if small else 20,
        class_templates=(f"a photo of a {noun}",),
        class_caption="a picture in style",
        sampling=SAMPLING[preset],
    )
