"""MultiBooth's first phase (Zhu et al. 2024, arXiv 2404.14239): a word of normal length, a LoRA on keys and values."""

from pcs_ext.image.adapters import EmbeddingConfig, LowRankConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN = "<subject>"


def multibooth(noun: str, preset: Preset) -> Recipe:
    """900 steps at 8e-5, batch 1 (both recalled, not checked); rank 4 is ours. Compose with `--method multibooth`.

    The word keeps the length that the noun's row has (adaptive concept normalisation): learned rows that outgrow the
    other words of a prompt drown them. Differs from the paper: the row itself is learned and brought back to the length
    after every step, where the paper tunes a Q-Former that makes it of the photos, whose output is normalised.
    `toybox`: other rates, steps and batch; not measured yet.
    """
    small = preset == "toybox"
    return Recipe(
        id="multibooth",
        concept=Concept(
            class_noun=noun, mode="learned", token=_TOKEN, with_noun=True, initializer=noun.split()[-1],
            templates=("a photo of {subject}",),
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_TOKEN, initializer=noun.split()[-1]),
            "keys_values": LowRankConfig(rank=8 if small else 4, targets=(r"\.attn2\.(to_k|to_v)$",)),
        },
        phases=(
            Phase(
                name="joint",
                learning_rates={"word": 1e-2 if small else 8e-5, "keys_values": 5e-3 if small else 8e-5},
                batch_size=4 if small else 1,
                fit=FitConfig(steps=300 if small else 900),
                keep_norms=(0.0, 1.0),
            ),
        ),
        sampling=SAMPLING[preset],
    )  # fmt: skip
