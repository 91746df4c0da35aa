"""Style-friendly sampling (Choi et al. 2024, arXiv 2411.14793): a LoRA for a style, trained where style is decided."""

from pcs_ext.image.adapters import LowRankConfig
from pcs_ext.image.concept import STYLE_TEMPLATES, Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.timesteps import TimestepSampling


def style_friendly(noun: str, preset: Preset) -> Recipe:
    """Log-SNR from N(-6, 2^2), rank 32; rate and steps are not known and are ours.

    A small change of LoRA: the noise levels visited. Differs from the paper, whose bases follow flows: a schedule of
    Stable Diffusion ends near a log-SNR of -5.4, and everything noisier falls on its last timestep. Captions beside the
    pictures should say what is in them. `toybox`: not measured yet.

    Args:
        noun: the style in words: "flat vector art".
        preset: of the base.
    """
    small = preset == "toybox"
    targets = "all_linear_conv" if small else "attention"
    return Recipe(
        id="style-friendly",
        concept=Concept(class_noun=noun, mode="plain", templates=STYLE_TEMPLATES, article=False),
        adapters={"denoiser": LowRankConfig(method="lora", rank=8 if small else 32, targets=targets)},
        phases=(
            Phase(
                name="denoiser",
                learning_rates={"denoiser": 2e-3 if small else 1e-4},
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(timesteps=TimestepSampling(kind="log_snr", mean=-6.0, std=2.0)),
                fit=FitConfig(steps=300 if small else 1000),
            ),
        ),
        sampling=SAMPLING[preset],
    )
