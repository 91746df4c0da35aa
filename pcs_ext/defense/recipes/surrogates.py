"""How the recipes' surrogates train."""

from pcs_ext.defense.surrogate import Training
from pcs_ext.image.adapters import FullConfig, LowRankConfig
from pcs_ext.image.recipes import Preset


def full_training(preset: Preset, *, text: bool) -> Training:
    """All weights at the papers' 5e-7 (toybox: 2e-5, its models are small), prior preservation with weight 1.

    Args:
        preset: of the base.
        text: train the text encoder, too.
    """
    small = preset == "toybox"
    return Training(
        adapter=FullConfig(components=("denoiser", "text_encoder") if text else ("denoiser",)),
        learning_rate=2e-5 if small else 5e-7,
        class_images=3,
    )


def low_rank_training(preset: Preset) -> Training:
    """LoRA of rank 8 in float32 at 1e-4 (toybox: 1e-3), prior preservation with weight 1."""
    small = preset == "toybox"
    return Training(
        adapter=LowRankConfig(rank=8, alpha=8.0),
        learning_rate=1e-3 if small else 1e-4,
        class_images=8 if small else 32,
    )
