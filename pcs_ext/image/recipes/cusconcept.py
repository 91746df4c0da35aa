"""CusConcept (Xu et al. 2024, arXiv 2410.00398): a picture's attribute and its object, as mixtures of known words."""

from pcs_ext.image.adapters import MixtureConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import DecomposeConfig

_ATTRIBUTE, _OBJECT = "<attribute>", "<object>"
_ATTRIBUTES = tuple(
    "red blue green yellow orange purple pink brown black white gray golden wooden metal glass stone plastic "  # noqa: SIM905
    "leather striped spotted old shiny".split()
)
_OBJECTS = tuple(
    "dog cat bird horse fish bear robot doll toy statue car boat train rocket house tower bridge tree flower "  # noqa: SIM905
    "mountain cup mug teapot bottle bowl vase plate chair table lamp clock book bag shoe hat shirt dress ring guitar "
    "drum camera phone cake bread apple fruit candle box ball bicycle".split()
)


def cusconcept(noun: str, preset: Preset) -> Recipe:
    """30 steps of two mixtures at 1e-2 (attribute) and 1e-3 (object), then 30 more with offsets; batch 6, one picture.

    Prompts say `<attribute> teapot` or `red <object>`; `{subject}` is both. Steps, rates, weights and sizes are the
    released code's; its rate of the free rows is not known here. The vocabularies are ours: the paper asks a language
    model for words of one axis (write yours into the JSON as `words`), and takes the nouns among the 500 words of the
    table that a CLIP finds nearest to the picture. `toybox`: more steps, other rates; not measured yet.
    """
    small = preset == "toybox"
    steps = 100 if small else 30
    rates = {"attribute/embedding": 1e-2, "object/embedding": 1e-3}
    offset = 1e-2 if small else 1e-3
    return Recipe(
        id="cusconcept",
        concept=Concept(class_noun=noun, mode="learned", token=f"{_ATTRIBUTE} {_OBJECT}", with_noun=False),
        adapters={
            "attribute": MixtureConfig(placeholder=_ATTRIBUTE, words=_ATTRIBUTES),
            "object": MixtureConfig(placeholder=_OBJECT, words=_OBJECTS, take=50),
        },
        phases=(
            _phase("decompose", rates, steps, DecomposeConfig(alone=1.0)),
            _phase("refine", {**rates, "attribute/offset": offset, "object/offset": offset}, steps,
                   DecomposeConfig(alone=0.7)),
        ),
        augmentation=Augmentation(flip=True),
        sampling=SAMPLING[preset],
    )  # fmt: skip


def _phase(name: str, rates: dict[str, float], steps: int, term: DecomposeConfig) -> Phase:
    return Phase(
        name=name, learning_rates=rates, weight_decay=1e-2, batch_size=6, objective=ObjectiveConfig(terms=(term,)),
        fit=FitConfig(steps=steps),
    )  # fmt: skip
