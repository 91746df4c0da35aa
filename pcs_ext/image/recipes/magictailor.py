"""MagicTailor (Zhou et al. 2024, arXiv 2410.13370): a subject with a component of another one in place of its own."""

from pcs_ext.image.adapters import AdapterConfig, EmbeddingConfig, LowRankConfig
from pcs_ext.image.balance import BalanceConfig
from pcs_ext.image.data import Augmentation
from pcs_ext.image.degradation import DegradeConfig
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import MaskNormalisation, ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.break_a_scene import concept_of_parts, placeholders
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import AttentionConfig

_TARGETS = (r"\.(to_q|to_k|to_v|to_out\.0|ff\.net\.2|proj_in|proj_out)$",)
_WARM_UP = 0.4
"""Share of the steps: 200 of 500."""


def magictailor(noun: str, preset: Preset) -> Recipe:
    """200 steps at 1e-4 x batch, then 300 balanced ones at 1e-5 x batch; LoRA of rank 32; the released code's numbers.

    Noise of strength 0.5 fades on what the masks leave out; attention is held to the masks with weight 1e-2; in the
    second phase the worse of the two counts, and the other is held to an average of the weights (decay 0.99, warmed up)
    by 0.2. Batch 6, drawn from all photos: three of each where there are as many of both. Masks come with the photos,
    instead of from a detector and a segmenter.
    `toybox`: other rates, rank and steps; not measured yet.

    Args:
        noun: "dog, hat": the subject and the component. Every photo has both numbered masks, a black one where it does
            not show that; prompts then say "<dog> with <hat>".
        preset: of the base.
    """
    small = preset == "toybox"
    nouns = [part.strip() for part in noun.split(",") if part.strip()]
    tokens = placeholders(nouns)
    words = [f"word_{index + 1}" for index in range(len(tokens))]
    adapters: dict[str, AdapterConfig] = {
        name: EmbeddingConfig(placeholder=token, initializer=own.split()[-1])
        for name, token, own in zip(words, tokens, nouns, strict=True)
    }
    adapters["lora"] = LowRankConfig(rank=16 if small else 32, targets=_TARGETS)
    return Recipe(
        id="magictailor",
        concept=concept_of_parts(nouns, tokens),
        adapters=adapters,
        phases=(
            _phase("warm_up", words, small=small),
            _phase("balanced", words, small=small, balance=BalanceConfig()),
        ),
        augmentation=Augmentation(flip=True),
        needs_masks=True,
        sampling=SAMPLING[preset],
    )


def _phase(name: str, words: list[str], *, small: bool, balance: BalanceConfig | None = None) -> Phase:
    first = balance is None
    word, lora = (5e-3, 2e-4) if small else (6e-4, 6e-4)
    slower = 1.0 if first else 0.1
    return Phase(
        name=name,
        learning_rates={**dict.fromkeys(words, slower * word), "lora": slower * lora},
        weight_decay=1e-2,
        batch_size=4 if small else 6,
        objective=ObjectiveConfig(
            mask_normalisation=MaskNormalisation.MULTIPLY_BOTH,
            balance=balance,
            terms=(AttentionConfig(side=8 if small else 16),),
        ),
        fit=FitConfig(steps=(120 if small else 200) if first else (180 if small else 300),
                      ema_decay=None if first else 0.99),
        degrade=DegradeConfig(begin=0.0 if first else _WARM_UP, end=_WARM_UP if first else 1.0),
    )  # fmt: skip
