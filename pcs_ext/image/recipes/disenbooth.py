"""DisenBooth (Chen et al. 2023, arXiv 2305.03374): the subject in words and weights, all else in a vector per photo."""

from pcs_ext.image.adapters import ImageResidualConfig, LowRankConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import PHOTO_ENCODER, SAMPLING
from pcs_ext.image.terms import DisentangleConfig


def disenbooth(noun: str, preset: Preset) -> Recipe:
    """Rank 4 on attention of denoiser and text encoder, a photo's vector at 1e-4, 2000 steps, weights 0.01 and 0.001.

    Rates, rank and weights are the released code's on SD 2.1 with ViT-H/14, which tunes the text encoder where asked.
    `sd` and `sdxl` name ViT-L/14, the encoder beside SD 1.x; for SD 2.x set `encoder` and `width` (1024) in the JSON.

    Differs from it: photos are not generated again from their vectors; that use of the method is not there. `toybox`:
    its own CLIP, other rates, rank and steps; not measured yet.
    """
    small = preset == "toybox"
    encoder, width = PHOTO_ENCODER[preset]
    rate = 1e-3 if small else 1e-4
    return Recipe(
        id="disenbooth",
        concept=Concept(class_noun=noun, mode="rare", templates=("{subject}",)),
        adapters={
            "lora": LowRankConfig(rank=8 if small else 4, components=("denoiser", "text_encoder")),
            "photo": ImageResidualConfig(encoder=encoder, width=width),
        },
        phases=(
            Phase(
                name="joint",
                learning_rates={"lora": rate, "photo": rate},
                weight_decay=1e-2,
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(terms=(DisentangleConfig(),)),
                fit=FitConfig(steps=300 if small else 2000),
            ),
        ),
        sampling=SAMPLING[preset],
    )
